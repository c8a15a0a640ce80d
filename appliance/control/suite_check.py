"""Whether a suite could be evaluated: a round must not find out after it has trained."""

import tempfile
from pathlib import Path

import msgspec

from appliance.control import law, programs
from appliance.control.steps import Ground
from appliance.core.errors import RecordError


def require_sound_suite(ground: Ground, name: str, text: str) -> None:
    """Read the suite as evaluation will.

    Raises:
        RecordError: evaluation would not take it, or not beside the suites in force.
    """
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        path = Path(folder) / "suite.jsonl"
        path.write_text(text)
        verb = ("check", str(path), "--json")
        try:
            made = programs.run_now("appliance.evaluation", *verb, home=ground.home)
        except programs.ProgramError as error:
            why = error.message.removeprefix("espalier: ").replace(f"suite {path}", "the suite")
            raise RecordError(why, next_step=law.SUITE_HELP) from error
    for other in law.in_force(ground.database):
        if other.kind == "suite" and other.name != name:
            head = msgspec.json.decode(ground.store.get(other.object).splitlines()[0])
            if head.get("suite") == made["suite"]:
                raise RecordError(
                    f"a suite named {made['suite']!r} is in force as article {other.name!r}",
                    next_step=f"espalier law repeal suite {other.name!r}, or give this one "
                    "another name in its first line",
                )
