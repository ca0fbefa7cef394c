"""All that is looked at in a JSON Schema of a request before the compiler sees it."""

from __future__ import annotations

from typing import Any

from gateway.errors import InvalidRequest
from gateway.grammars.json_schema import check_schema
from gateway.grammars.keyword_values import wrong_value


def check_whole_schema(schema: dict[str, Any], param: str, max_depth: int) -> None:
    """Raises InvalidRequest naming the place of what cannot be enforced, is nested too deeply, or makes no sense."""
    check_schema(schema, param, max_depth)
    if (found := wrong_value(schema)) is not None:
        path, why = found
        raise InvalidRequest(f"Invalid '{param}{path}': it {why}.", param=f"{param}{path}", code="invalid_json_schema")
