"""Answers that have to meet a JSON schema: the schema is judged before, the answer after.

The engine keeps to the schema token by token. What it could not keep to is refused here, before
anything is sampled. A reference to a schema elsewhere is refused, never fetched.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import jsonschema  # type: ignore[import-untyped] # no stubs in the environment
import msgspec
from referencing import Registry

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai_errors import ApiError
from serving.schema_judge import CPU_S, MEMORY_BYTES

SCHEMA_MAX_BYTES = 64 << 10
_JUDGE_S = 10.0
"""Of the clock, on a machine that is busy."""
_judges = ThreadPoolExecutor(max_workers=2, thread_name_prefix="schema")
_ANY_OBJECT = '{"type":"object"}'
_NOTHING_ELSEWHERE: Registry[Any] = Registry()


def schema_of(wanted: Mapping[str, Any] | None, param: str) -> str:
    """The schema that a `response_format` (chat) or a `text.format` (responses) asks for.

    Chat puts name and schema under ``json_schema``; responses puts them beside ``type``.

    Raises:
        ApiError: 400; a type that is not here, or a schema that is missing or too large.
    """
    kind = "text" if wanted is None else wanted.get("type", "text")
    if wanted is None or kind == "text":
        return ""
    if kind == "json_object":
        return _ANY_OBJECT
    if kind != "json_schema":
        raise ApiError(
            400, f"type must be 'text', 'json_object' or 'json_schema', got {kind!r}", param=param
        )
    holder = wanted.get("json_schema", wanted)
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    return _bounded(schema, param)


def _bounded(schema: Any, param: str) -> str:
    if not isinstance(schema, Mapping):
        raise ApiError(400, "a schema is a JSON object; none is here", param=param)
    if is_too_deep(schema):
        raise ApiError(400, f"the schema is nested deeper than {MAX_NESTING} levels", param=param)
    text = msgspec.json.encode(schema).decode()
    if len(text.encode()) > SCHEMA_MAX_BYTES:
        raise ApiError(400, f"a schema has at most {SCHEMA_MAX_BYTES >> 10} KiB", param=param)
    return text


async def require_possible(schema: str, param: str) -> None:
    """Raise unless an answer can be held to this schema; empty asks for nothing.

    Raises:
        ApiError: 400; it is no schema, nothing can meet it, or it is too hard to compile.
    """
    if not schema:
        return
    problem = await asyncio.get_running_loop().run_in_executor(_judges, _problem_with, schema)
    if problem:
        raise ApiError(
            400, f"no answer can be held to this schema: {problem}", param=param, code="bad_schema"
        )


def require_met(schema: str, answer: str) -> None:
    """Raise unless a finished answer meets the schema that was asked for.

    Raises:
        ApiError: 500; the engine did not keep to it.
    """
    try:
        _validator(schema).validate(json.loads(answer))
    except (ValueError, jsonschema.ValidationError) as error:
        why = error.message if isinstance(error, jsonschema.ValidationError) else str(error)
        raise ApiError(
            500,
            f"the engine's answer does not meet the schema: {why[:300]}",
            kind="server_error",
            code="schema_not_met",
        ) from error


@lru_cache(maxsize=1024)
def _problem_with(schema: str) -> str:
    try:
        judged = subprocess.run(
            [sys.executable, "-m", "serving.schema_judge"],
            input=schema, capture_output=True, text=True, timeout=_JUDGE_S, check=True,
        )  # fmt: skip
    except subprocess.SubprocessError:
        return f"it takes more than {CPU_S} seconds or {MEMORY_BYTES >> 20} MiB to compile"
    return judged.stdout


def _held_by_the_engine(*_: Any) -> Iterator[Any]:
    # Python would go back and forth over a hard pattern for ever, and the gateway with it.
    return iter(())


def _additional(validator: Any, extra: Any, answer: Any, schema: Mapping[str, Any]) -> Any:
    usual = jsonschema.Draft202012Validator.VALIDATORS["additionalProperties"]
    return None if "patternProperties" in schema else usual(validator, extra, answer, schema)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {
        "pattern": _held_by_the_engine,
        "patternProperties": _held_by_the_engine,
        "additionalProperties": _additional,
    },
)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    return _Validator(json.loads(schema), registry=_NOTHING_ELSEWHERE)
