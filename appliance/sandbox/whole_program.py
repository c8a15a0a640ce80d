"""Python source run as a whole program: what it prints is what it gives."""

from appliance.core.errors import UsageError
from appliance.sandbox.programs import Program

CODE_MAX_BYTES = 1 << 20
TIMEOUT_MAX_S = 60.0

# The code is the answer, so it is data to the harness and never part of its source. Every line is
# handed on at once, so that what was printed before the time was up is there.
_HARNESS = """
import linecache, sys, traceback

def run(answer, case):
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    linecache.cache["program"] = (len(answer), None, answer.splitlines(True), "program")
    try:
        exec(compile(answer, "program", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    except BaseException as error:
        inside = error.__traceback__.tb_next
        traceback.print_exception(type(error), error, inside, limit=-8)
        raise
"""


def whole_program(code: bytes, *, timeout_s: float) -> Program:
    """The code as something that the sandbox runs.

    Raises:
        UsageError: it is no text, too long, or the time is out of range.
    """
    if not 0 < timeout_s <= TIMEOUT_MAX_S:
        raise UsageError(f"expected a time limit up to {TIMEOUT_MAX_S:g} s, got {timeout_s:g}")
    if len(code) > CODE_MAX_BYTES:
        raise UsageError(f"expected at most {CODE_MAX_BYTES} bytes of code, got {len(code)}")
    try:
        answer = code.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the code is not UTF-8 text: {error}") from error
    if not answer.strip():
        raise UsageError("there is no code to run", next_step="give Python code on stdin")
    return Program(source=_HARNESS, answer=answer, cases=(None,), timeout_s=timeout_s)
