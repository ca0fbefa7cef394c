"""Requests that schemathesis makes from an OpenAPI document, and what has to hold for their answers."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import requests
import schemathesis
from fuzz_documents import Document
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

PATIENCE = 60.0
"""Seconds for an answer; a request without one by then hangs."""
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance)
LEAST_VOCABULARY = 1024
"""Token ids below this are in the vocabulary of any model, and of the demo model."""
MOSTLY = 0.8
"""Share of the bodies that are mended."""
FEW = 2
"""Members that may be left out, and are kept at most, in these; also messages."""


@dataclass
class Tally:
    """What came of a document's cases."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_operation: dict[str, Counter[int]] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Why the cases of each operation were refused: code and field, without indices."""
    failures: dict[str, str] = field(default_factory=dict)
    """By operation and kind: the first example of each."""

    @property
    def cases(self) -> int:
        return self.statuses.total()

    @property
    def accepted(self) -> int:
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)

    def note(self, label: str, status: int, content: bytes) -> None:
        self.statuses[status] += 1
        self.by_operation.setdefault(label, Counter())[status] += 1
        if status >= 400:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                error = json.loads(content)["error"]
                param = re.sub(r"\[\d+\]", "[]", error["param"] or "")
                self.reasons.setdefault(label, Counter())[f"{error['code']} {param[:60]}"] += 1

    def fail(self, label: str, kind: str, report: str) -> None:
        self.failures.setdefault(f"{label}: {kind}", report)


@dataclass(frozen=True, slots=True)
class Mending:
    """Brings most bodies closer to what is accepted: of fifty members at random, some two exclude each other.

    The others are sent as they are. So are bodies that are wrong on purpose.
    """

    model: str
    vocab_size: int
    document: Document

    def mended(self, schema: dict[str, Any], body: Any) -> Any:
        draw = random.Random(json.dumps(body, sort_keys=True, default=str))
        if not isinstance(body, dict) or draw.random() > MOSTLY:
            return body
        body = self._known_members(schema, body)
        required = {name for part in self._parts(schema) for name in part.get("required", [])} | {"max_tokens"}
        others = sorted(name for name in body if name not in required)
        kept = set(draw.sample(others, min(len(others), draw.randint(0, FEW))))
        body = {name: value for name, value in body.items() if name in required or name in kept}
        if "model" in body:
            body["model"] = self.model
        if body.get("prompt", "Hi") in (None, "", []):
            body["prompt"] = "Hi"
        for name in ("prompt", "tokens", "stop_token_ids", "allowed_token_ids"):
            if name in body:
                body[name] = self._in_vocabulary(body[name])
        if isinstance(messages := body.get("messages"), list):
            body["messages"] = [each for each in messages if not _answers_a_call(each)][:FEW] or [
                {"role": "user", "content": "Hi"}
            ]
        return body

    def _known_members(self, schema: dict[str, Any], value: Any) -> Any:
        """Without members that the schema does not name, where it names any."""
        parts = list(self._parts(schema))
        if isinstance(value, list):
            items = {"anyOf": [part["items"] for part in parts if "items" in part]}
            return [self._known_members(items, each) for each in value]
        known: dict[str, dict[str, Any]] = {}
        for part in parts:
            for name, each in part.get("properties", {}).items():
                known[name] = {"anyOf": [*known.get(name, {}).get("anyOf", []), each]}
        if not isinstance(value, dict) or not known:
            return value
        return {name: self._known_members(known[name], each) for name, each in value.items() if name in known}

    def _parts(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The schemas that a value may be described by."""
        schema = self.resolved(schema)
        yield schema
        for key in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(key, []):
                yield from self._parts(part)

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema

    def _in_vocabulary(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._in_vocabulary(each) for each in value]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value % self.vocab_size if number else value


def _answers_a_call(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("tool", "function")


class Runner:
    """Sends the cases of one document to a server."""

    def __init__(
        self, document: Document, url: str, headers: Mapping[str, str], tally: Tally, *, exact: bool = True
    ) -> None:
        """``exact``: the server refuses what the document does."""
        self._document, self._url, self._headers, self._tally = document, url, dict(headers), tally
        self._schema = schemathesis.openapi.from_dict(document)
        self._schema.config.max_stream_events = 1_000_000  # the end of a stream is looked at, too
        self._session = requests.Session()
        self._wrong, self._exact = False, exact
        served = self._session.get(f"{url}/v1/models", headers=self._headers, timeout=PATIENCE).json()["data"][0]
        mending = Mending(served["id"], LEAST_VOCABULARY, document)

        @self._schema.hook("map_body")
        def _(context: Any, body: Any) -> Any:
            if self._wrong:
                return body
            operation = document["paths"][context.operation.path][context.operation.method.lower()]
            return mending.mended(operation["requestBody"]["content"]["application/json"]["schema"], body)

        @self._schema.hook("map_path_parameters")
        def _(context: Any, parameters: Any) -> Any:
            if parameters and len(parameters.get("model", "")) % 2:
                parameters["model"] = served["id"]
            return parameters

    def labels(self) -> list[str]:
        return [result.ok().label for result in self._schema.get_all_operations()]

    def has_body(self, label: str) -> bool:
        return bool(self._operation(label).body)

    def _operation(self, label: str) -> Any:
        return next(each.ok() for each in self._schema.get_all_operations() if each.ok().label == label)

    def run(self, label: str, cases: int, number: int, *, negative: bool = False) -> None:
        """So many cases of one operation."""
        operation = self._operation(label)
        self._wrong = negative
        mode = GenerationMode.NEGATIVE if negative else GenerationMode.POSITIVE

        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def each(case: schemathesis.Case) -> None:
            self._send(label, case)

        each()

    def _send(self, label: str, case: schemathesis.Case) -> None:
        try:
            response = case.call(self._url, self._session, self._headers, timeout=PATIENCE)
        except requests.exceptions.Timeout:
            self._tally.fail(label, "no answer", case.as_curl_command())
            return
        self._tally.note(label, response.status_code, response.content)
        checks: list[Callable[..., Any]] = [*CHECKS, *([negative_data_rejection] if self._exact else [])]
        streamed = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
        try:
            case.validate_response(response, checks=[*checks, *([] if streamed else [response_schema_conformance])])
            if streamed:
                self._check_stream(case, response.content)
        except (Failure, FailureGroup, jsonschema.ValidationError, AssertionError) as error:
            kind = ", ".join(sorted({type(each).__name__ for each in getattr(error, "exceptions", [error])}))
            self._tally.fail(label, kind, f"{str(error)[:3000]}\n{case.as_curl_command()[:3000]}")

    def _check_stream(self, case: schemathesis.Case, content: bytes) -> None:
        """Every event is what the document says; the last one ends the stream, or tells what is wrong with it."""
        events = [block.removeprefix(b"data: ") for block in content.split(b"\n\n") if not block.startswith(b":")]
        assert events[-1] == b"", "the stream ends in the middle of an event"
        answers = self._document["paths"][case.operation.path][case.operation.method.lower()]["responses"]["200"]
        schema = answers["content"]["text/event-stream"]["schema"] | {"components": self._document["components"]}
        validator = jsonschema.Draft202012Validator(schema)
        last = events[-2]
        if last != b"[DONE]":
            error = json.loads(last).get("error", {})
            assert error.get("type") == "invalid_request_error", f"the stream ends with {last!r}"
        for event in events[:-2]:
            validator.validate(json.loads(event))
