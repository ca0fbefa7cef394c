"""``docs/api.md``: the routes, from the OpenAPI document, and the request fields, honoured or accepted as a no-op."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from gateway.protocol.base import RequestModel
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.fields import NoOp
from gateway.protocol.generation import GenerationRequest
from gateway.protocol.limits import Limits
from gateway.protocol.openapi import finish
from gateway.protocol.sampling import StreamOptions
from gateway.protocol.token_requests import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from gateway.routes import routers
from scripts.page import NOTICE, table


def api_page() -> str:
    document = openapi()
    return "\n".join(
        [
            NOTICE.format(source="gateway/routes/ and gateway/protocol/"),
            "# The API\n",
            "## Routes\n",
            table(("Route", "What it does", "Statuses"), _routes(document)),
            "With `--api-key` or `--api-keys`, everything under `/v1` and every POST needs a key; the rest is open. "
            "What is under `/admin` needs an admin key (`--admin-key`) instead, else it is a 401; where the server was "
            "given none, it is a 404.\n",
            'Every refusal has the body `{"error": {"message", "type", "param", "code"}}`. The OpenAPI document of a '
            "server, `/openapi.json` and as a page `/docs`, has all fields of answers, and its limits.\n",
            "## Request fields\n",
            "A field is honoured or refused; none is silently ignored. A field that is known and not supported is "
            "accepted at the values shown, where leaving it out would mean the same, and is otherwise answered with "
            "400 `unsupported_parameter`. `null` always counts as left out. A field that is not known is answered "
            "with 400 `unknown_parameter` and the nearest known name; `--unknown-fields warn` lets it through, says so "
            "in the header `x-penstock-ignored-fields` and counts it, `--unknown-fields ignore` only counts it.\n",
            "What the model's chat template does not show of `messages` (`name`, and the `reasoning_content` of "
            "earlier answers) is named in the same header, as `messages[].name`, and counted. The header names 16 "
            "fields and says how many more there are.\n",
            'Types are strict: `"7"` is no integer and `true` is no number, but `7.0` is the integer 7.\n',
            "JSON is strict: UTF-8, no `NaN`, nothing behind a last comma, and no name twice in one object (400 "
            "`named_twice`), of which parsers would take one or the other. An error in it is told with its line and "
            "column, and `param` is the path that leads there.\n",
            "Every limit is a flag of [the command line](cli.md#limits), which has its default; a 400 for what is "
            "beyond it names field, value, limit and flag.\n",
            *_endpoint("POST /v1/chat/completions", ChatCompletionRequest),
            *_endpoint("POST /v1/completions", CompletionRequest),
            *_endpoint("stream_options", StreamOptions),
            "## POST /v1/chat/completions/input_tokens and /v1/chat/completions/render\n",
            "The fields of `POST /v1/chat/completions`, and what would be refused there is refused, grammars that do "
            "not compile included. A prompt that leaves no room for an answer is counted and shown all the same, up to "
            "`--max-tokenize-length` characters.\n",
            *_endpoint("POST /tokenize, of a text", TokenizeTextRequest),
            *_endpoint("POST /tokenize, of messages", TokenizeChatRequest),
            *_endpoint("POST /detokenize", DetokenizeRequest),
            *_endpoint("POST /generation", GenerationRequest),
        ]
    )


def openapi() -> dict[str, Any]:
    """The document of a server with the default limits."""
    app = FastAPI()
    for router in routers():
        app.include_router(router)
    return finish(app.openapi(), Limits())


def _routes(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            statuses = " ".join(status for status in operation["responses"] if status.isdigit())
            yield f"`{method.upper()} {path}`", operation.get("summary", ""), statuses


def _endpoint(title: str, schema: type[RequestModel]) -> list[str]:
    parts = [f"## {title}\n", "### Honoured\n", _honoured(schema)]
    if schema.unsupported:
        parts += ["### Accepted only where they change nothing\n", _no_ops(schema.unsupported)]
    return parts


def _honoured(schema: type[RequestModel]) -> str:
    rows = [(f"`{name}`", field.description or "") for name, field in sorted(schema.model_fields.items())]
    return table(("Field", "Meaning"), rows)


def _no_ops(fields: Mapping[str, NoOp]) -> str:
    rows = [
        (f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in (None, *no_op.values)), no_op.why)
        for name, no_op in sorted(fields.items())
    ]
    return table(("Field", "Accepted", "Why it is not supported"), rows)
