"""Running a company's own right answers through its own checks, to learn what they expect.

These are the operator's programs and answers, not a model's; they run in a Python of their own all
the same, so that a wrong one cannot hang or end the demo.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from appliance.demo.tables import CompanyError

_TIMEOUT_S = 60

_RUNNER = """
import json, sys
programs = {}
out = []
for program, answer, cases in json.load(sys.stdin):
    if program not in programs:
        programs[program] = {}
    try:
        if not programs[program]:
            exec(program, programs[program])
        run = programs[program]["run"]
        out.append([run(answer, case) for case in cases] if answer else None)
    except Exception as error:
        out.append(f"{type(error).__name__}: {error}")
json.dump(out, sys.stdout)
"""


def run_reference(work: Sequence[tuple[str, str, Sequence[Any]]]) -> list[list[Any] | str | None]:
    """For each (program, answer, cases): the results, the error's text, or None for no answer.

    Raises:
        CompanyError: a program does not end, or its result is not JSON.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _RUNNER],
            input=json.dumps(work),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise CompanyError(f"a check's program did not end within {_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CompanyError(f"a check's result cannot be read: {last[0]}") from error
    results: list[list[Any] | str | None] = json.loads(done.stdout)
    return results
