"""`python -m tests.storm`: `kill -9` over a recorded input, at moments drawn from a seed.

Before sealing, agents (the real `openai` client) work while processes are killed: nothing that was
acknowledged may be lost or doubled. After sealing, each kill has a round of its own, which must go
on by itself and end with the same dataset and adapter. The last line of text is
``20 kills, 0 lost, 0 doubled, 0 different adapters``; anything else ends non-zero.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from appliance.demo.house import DemoError, House
from tests.storm.after import StormAfter
from tests.storm.before import storm_before
from tests.storm.ground import bring_up
from tests.storm.plan import Kill, draw
from tests.storm.victims import StormError
from tests.storm.voice import Voice

_NUM_PIECES = 160


def main() -> int:
    """Run the storm; 0 when nothing was lost, doubled or different."""
    options = _parser().parse_args()
    kills = draw(options.seed, options.kills)
    folder = Path(tempfile.mkdtemp(prefix="espalier-storm-"))
    voice = Voice(kills)
    result = None
    try:
        result = _storm(options, kills, folder, voice)
    except (StormError, DemoError) as error:
        voice.say(f"the storm broke off: {error}")
    finally:
        _take_down(folder)
    harm = result is None or any(result[name] for name in ("lost", "doubled", "different_adapters"))
    if harm or options.keep:
        voice.say(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if result is None:
        return 1
    print(
        f"{result['kills']} kills, {result['lost']} lost, {result['doubled']} doubled, "
        f"{result['different_adapters']} different adapters"
    )
    if options.json:
        print(json.dumps(result))
    return 1 if harm else 0


def _storm(
    options: argparse.Namespace, kills: list[Kill], folder: Path, voice: Voice
) -> dict[str, Any]:
    """The numbers of the last line."""
    voice.say(f"seed {options.seed}: {_counted(kills)}")
    house, recorded = bring_up(folder, seed=options.seed, num_pieces=options.pieces)
    before = [kill for kill in kills if kill.phase == "before"]
    account, ledger = storm_before(house, recorded, before, seed=options.seed, voice=voice)
    after = StormAfter(house, voice)
    after.run([kill for kill in kills if kill.phase == "after"])
    return {
        "kills": voice.num_done,
        "lost": len(account.lost),
        "doubled": len(account.doubled),
        "different_adapters": after.different,
        "acknowledged_turns": len(ledger.turns),
        "acknowledged_feedback": len(ledger.feedback),
        "broken_requests": sum(ledger.failures.values()),
        "by_process": dict(sorted(Counter(kill.process for kill in kills).items())),
        "seconds": round(voice.seconds, 1),
    }


def _counted(kills: list[Kill]) -> str:
    counts = Counter(kill.process for kill in kills)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _take_down(folder: Path) -> None:
    try:
        House(folder / "home").ask("down")
    except DemoError as error:
        print(f"the appliance could not be taken down: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=_NUM_PIECES, help="of recorded work")
    parser.add_argument("--keep", action="store_true", help="keep the folder for a look")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
