"""``python -m serving.schema_judge``: a process that judges schemas and grammars, and answers.

A short schema can take for ever to compile, here as in the engine, and so can an answer's check.
The system ends this process where one job takes too long; `serving.structured` starts the next.
One job a line on standard input, as a list of a judgement's name and what it judges; one verdict a
line on standard output.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped] # no stubs in the environment
from llguidance import LLMatcher, LLTokenizer
from referencing import Registry

CPU_S = 2
"""To judge a schema."""
CHECK_CPU_S = 0.5
"""To check the answers of one request; a usual one takes a thousandth."""
CLOCK_S = 10
"""On a machine that is busy."""
MEMORY_BYTES = 1 << 30
_BYTES = LLTokenizer("byte")
_NOTHING_ELSEWHERE: Registry[Any] = Registry()
_SAID_MAX = 300


def problem_with(schema: str) -> str:
    """Why no answer can be held to this schema; empty where one can."""
    parsed = json.loads(schema)
    if any(_names_a_dialect(part) for part in parsed.values()):
        return "$schema may stand at its top only"
    try:
        jsonschema.Draft202012Validator.check_schema(parsed)
    except jsonschema.SchemaError as error:
        return str(error.message)
    compact = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    return _problem_with(compact)


def problem_with_grammar(lark: str) -> str:
    """Why no answer can be held to this grammar; empty where one can."""
    return _problem_with(LLMatcher.grammar_from_lark(lark))


def _problem_with(grammar: str) -> str:
    return str(LLMatcher.validate_grammar(grammar)).partition("\n")[0] or _dead_end(grammar)


def unmet(schema: str, answers: list[str]) -> str | None:
    """Why one of the answers does not meet the schema; empty where all do, None where unknown."""
    parsed = json.loads(schema)
    # Wherever jsonschema comes by a `$schema` it takes that dialect's own validator.
    parsed.pop("$schema", None)
    validator = _Validator(parsed, registry=_NOTHING_ELSEWHERE)
    try:
        for answer in answers:
            validator.validate(json.loads(answer))
    except jsonschema.ValidationError as error:
        return str(error.message)
    except json.JSONDecodeError as error:
        return str(error)
    except (ArithmeticError, RecursionError, ValueError):
        # More than Python can count or nest; the schema may well allow it.
        return None
    return ""


def _names_a_dialect(part: Any) -> bool:
    if isinstance(part, dict):
        named = isinstance(part.get("$schema"), str)
        return named or any(map(_names_a_dialect, part.values()))
    return isinstance(part, list) and any(map(_names_a_dialect, part))


def _dead_end(grammar: str) -> str:
    """Whether an answer cannot go on after what the schema forces it to begin with."""
    matcher = LLMatcher(_BYTES, grammar, log_level=0)
    forced = matcher.compute_ff_tokens()
    matcher.consume_tokens(forced)
    if not matcher.is_stopped():
        matcher.compute_bitmask()
    return "it refers to itself without an end" if matcher.is_error() else ""


def _held_by_the_engine(*_: Any) -> Iterator[Any]:
    # Python would go back and forth over a hard pattern for ever.
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


_JUDGEMENTS: dict[str, tuple[Callable[..., str | None], float]] = {
    "schema": (problem_with, CPU_S),
    "grammar": (problem_with_grammar, CPU_S),
    "answers": (unmet, CHECK_CPU_S),
}
"""Each with the seconds of processor time that it may take."""


def main() -> None:
    """Judge line by line until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        name, *judged = json.loads(line)
        judge, cpu_s = _JUDGEMENTS[name]
        # Python sets no handlers for these two: the system ends the process, whatever it is in.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, CLOCK_S)
        verdict = judge(*judged)
        print(json.dumps(verdict and verdict[:_SAID_MAX]), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
