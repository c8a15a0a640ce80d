"""``python -m serving.schema_judge``: can an answer be held to the schema on standard input?

A process of its own, with limits: a short schema can take for ever to compile, here as in the
engine, and one that is not judged in time is not let through. Prints why not; nothing where it can.
"""

import json
import resource
import sys

import jsonschema  # type: ignore[import-untyped] # no stubs in the environment
from llguidance import LLMatcher

CPU_S = 2
MEMORY_BYTES = 1 << 30


def problem_with(schema: str) -> str:
    """Why no answer can be held to this schema; empty where one can."""
    try:
        jsonschema.Draft202012Validator.check_schema(json.loads(schema))
    except jsonschema.SchemaError as error:
        return str(error.message)
    return str(LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema)))


def main() -> None:
    """Judge one schema."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.write(problem_with(sys.stdin.read())[:300])


if __name__ == "__main__":
    main()
