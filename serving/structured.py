"""Answers that have to meet a JSON schema or a grammar: that is judged before, the answer after.

The engine keeps to it token by token. What it could not keep to is refused here, before anything is
sampled. Both judgements are made in processes with limits, never on the event loop, and one at a
time for each key, so that no key has the judges to itself. A reference to a schema elsewhere is
refused, never fetched.
"""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from policies.redaction import MAX_NESTING, is_too_deep
from serving.openai_errors import ApiError
from serving.schema_judge import CPU_S, MEMORY_BYTES

SCHEMA_MAX_BYTES = 64 << 10
_CHECK_S = 2.0
"""Longest time that finished answers wait for their check."""
_own = threading.local()
"""Each thread has a judge of its own: a process, started for its first job."""
_ANY_OBJECT = '{"type":"object"}'
_log = logging.getLogger("espalier.schema")


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


async def require_possible(schema: str, param: str, *, key_id: str) -> None:
    """Raise unless an answer can be held to this schema; empty asks for nothing.

    Raises:
        ApiError: 400; it is no schema, nothing can meet it, or it is too hard to compile.
    """
    if schema and (problem := await _judged_problem("schema", schema, key_id)):
        raise _bad(f"this schema: {problem}", param)


async def require_callable(grammar: str, *, key_id: str) -> None:
    """Raise unless an answer can be held to this grammar of calls; empty asks for nothing.

    Raises:
        ApiError: 400; a tool's schema is none, nothing can meet it, or it is too hard to compile.
    """
    if len(grammar.encode()) > SCHEMA_MAX_BYTES:
        raise _bad(f"tools whose schemas have more than {SCHEMA_MAX_BYTES >> 10} KiB", "tools")
    if grammar and (problem := await _judged_problem("grammar", grammar, key_id)):
        raise _bad(f"calls of these tools: {problem}", "tools")


async def require_schema_met(schema: str, answers: Sequence[str], *, key_id: str) -> None:
    """Raise unless finished answers meet the schema that was asked for.

    The engine held them to it already: what cannot be checked in time is logged, and passes.

    Raises:
        ApiError: 500; the engine did not keep to it.
    """
    check = _of_answers.judge(key_id, lambda: _judge("answers", schema, answers))
    try:
        why = await asyncio.wait_for(check, _CHECK_S)
    except (TimeoutError, _NoVerdict):
        _log.warning("answers under a schema were not checked: that takes too long")
        return
    if why:
        raise ApiError(
            500,
            f"the engine's answer does not meet the schema: {why}",
            kind="server_error",
            code="schema_not_met",
        )


class _NoVerdict(Exception):
    """The judge did not come to an end within its limits."""


class _Judges:
    """Two threads, and of each key one job at a time."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix=name)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def judge(self, key_id: str, job: Callable[[], str]) -> str:
        """Do a job once those that the same key gave before have ended."""
        turn = self._turns.setdefault(key_id, asyncio.Lock())
        await turn.acquire()
        running = asyncio.get_running_loop().run_in_executor(self._threads, job)

        def ended(done: "asyncio.Future[str]") -> None:
            turn.release()
            if not done.cancelled():
                done.exception()  # whoever waited has it

        running.add_done_callback(ended)
        # Who leaves does not end the job, so the key's next one waits for it all the same.
        return await asyncio.shield(running)


_of_schemas = _Judges("schema")
_of_answers = _Judges("answer")


def _bad(what: str, param: str) -> ApiError:
    return ApiError(400, f"no answer can be held to {what}", param=param, code="bad_schema")


async def _judged_problem(kind: str, text: str, key_id: str) -> str:
    try:
        return await _of_schemas.judge(key_id, lambda: _problem_with(kind, text))
    except _NoVerdict:
        return f"it takes more than {CPU_S} seconds or {MEMORY_BYTES >> 20} MiB to compile"


@lru_cache(maxsize=1024)
def _problem_with(kind: str, text: str) -> str:
    # What raises is not kept: on a machine that is less busy there may be a verdict.
    return _judge(kind, text)


def _judge(kind: str, *judged: str | Sequence[str]) -> str:
    judge: subprocess.Popen[str] | None = getattr(_own, "judge", None)
    if judge is None or judge.poll() is not None:
        judge = _own.judge = subprocess.Popen(
            [sys.executable, "-m", "serving.schema_judge"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    jobs, verdicts = judge.stdin, judge.stdout
    if jobs is None or verdicts is None:
        raise _NoVerdict
    try:
        jobs.write(json.dumps([kind, *judged]) + "\n")
        jobs.flush()
        said = verdicts.readline()
    except OSError as error:
        raise _NoVerdict from error
    if not said:
        judge.communicate()
    verdict = json.loads(said or "null")
    if verdict is None:
        raise _NoVerdict
    return str(verdict)
