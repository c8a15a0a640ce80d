"""How the command line shows things: one JSON value, or text for people."""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from appliance.core.digests import short

_WIDTH = 120
_NARROW = 100
_REASON_CHARS = 80
_SUITE_COLUMNS = (
    "suite", "kind", "items", "unit", "champion", "candidate", "Δ", "95 % bounds", "could see",
)  # fmt: skip
# No markup: settings and names hold square brackets.
_console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)


def emit(value: Any, as_json: bool, text: Callable[[Any], None]) -> None:
    """One line of JSON, or `text(value)`."""
    if as_json:
        print(json.dumps(value), flush=True)
    else:
        text(value)


def started(value: Any) -> None:
    """What an agent needs, then what runs."""
    status(value)
    print(f"\nexport OPENAI_BASE_URL={value['openai_base_url']}")
    print(f"export OPENAI_API_KEY={value['openai_api_key']}")
    print(f'# model="{value["alias"]}"')


def status(value: Any) -> None:
    """What is served, each part, what waits."""
    for one in (value, *value["team_aliases"]):
        whose = f"team {one['team']}" if "team" in one else f"gateway {one['gateway']}"
        print(f"{one['alias']} means {_adapter(one['serving'])}   {whose}")
        if one["rollout"]:
            print(tried_out(one["rollout"]))
    print(f"console {value['control']}")
    table = _table("part", "what it is", "state", "memory")
    for part in value["parts"]:
        state = "answers" if part["healthy"] else "does not answer"
        memory = "" if part["memory_mib"] is None else f"{part['memory_mib']:,.0f} MiB"
        table.add_row(part["name"], part["what"], f"{state}, pid {part['pid']}", memory)
    _console.print(table)
    for part in value["parts"]:
        if problem := ((part["says"] or {}).get("ingest") or {}).get("problem"):
            print(f"{part['name']} answers 503: {problem}\n  next: espalier doctor")
    for one in value["stopped"]:
        print(one["message"])
    for entry in value["under_way"]:
        if entry["state"] != "awaiting_approval":
            print(_under_way(entry))
    for number in value["waiting_for_approval"]:
        print(f"round {number} waits for approval: espalier review {number}")


def findings(value: Any) -> None:
    """One line a check."""
    table = _table("check", "", "found", "mend")
    for finding in value:
        table.add_row(
            finding["name"], "ok" if finding["ok"] else "WRONG", finding["detail"], finding["mend"]
        )
    _console.print(table)


def settings(value: Any) -> None:
    """One line a setting."""
    table = _table("setting", "value", "from")
    for name, entry in value.items():
        table.add_row(name, json.dumps(entry["value"]), entry["from"])
    _console.print(table)


def people(value: Any) -> None:
    """One line a person."""
    table = _table("name", "role", "sees up to", "since", "access")
    for entry in value:
        access = f"ended {_when(entry['ended_at'])}" if entry["ended_at"] else "may sign in"
        table.add_row(
            entry["name"], entry["role"], entry["label"], _when(entry["created_at"]), access
        )
    _console.print(table)


def law(value: Any) -> None:
    """One line an article."""
    table = _table("kind", "name", "digest", "by", "since")
    for entry in value:
        table.add_row(
            entry["kind"], entry["name"], short(entry["object"]), entry["actor"], _when(entry["at"])
        )
    _console.print(table)


def round_line(value: Any) -> None:
    """One round in a line or two."""
    print(f"round {value['round']}: {value['state']}  {value['reason']}")
    if value["state"] == "awaiting_approval":
        number = value["round"]
        print(f"  next: espalier review {number}, then espalier approve {number} --as NAME")


def decided(value: Any) -> None:
    """What a person has just said of a round, and what it still takes."""
    said = value["decisions"][-1]
    number = value["round"]
    if said["decision"] != "approve":
        done = "rejected" if said["decision"] == "reject" else "requested changes of"
        print(f"{said['approver']} {done} round {number}")
        return
    signed = value["signed"]
    rest = ": it is being released" if signed >= value["quorum"] else ""
    print(f"{said['approver']} approved round {number}, {signed} of {value['quorum']} needed{rest}")


def law_change(value: Any) -> None:
    """What stands in the law now."""
    if "proposed" in value:
        what = "a change of it" if value["object"] else "to repeal it"
        print(f"suite {value['suite']} is protected: {what} is proposed, as {value['proposed']}")
        print(f"  next: {value['next_step']}")
    elif "repealed" in value:
        print(f"repealed {value['repealed']}")
    else:
        print(f"{value['kind']} {value['name']} is in force, {short(value['object'])}")


def proposal_decided(value: Any) -> None:
    """What became of a proposed change of a suite."""
    if "state" in value:
        print(f"proposal {value['number']} of suite {value['name']} is {value['state']}")
    elif value["object"]:
        print(f"suite {value['name']} is in force, {short(value['object'])}", end="")
        print(f": proposed by {value['actor']}, accepted by {value['accepted_by']}")
    else:
        print(f"suite {value['name']} is repealed, as {value['actor']} proposed")


def rounds(value: Any) -> None:
    """One line a round."""
    table = _table("round", "state", "adapter", "authors", "changed", "reason")
    for entry in value:
        table.add_row(
            str(entry["round"]),
            entry["state"],
            _adapter(entry["adapter"]) if entry["adapter"] else "",
            ", ".join(entry["authors"]),
            _when(entry["changed_at"]),
            _cut(entry["waits"] or entry["reason"], _REASON_CHARS),
        )
    _console.print(table)


def review(value: Any) -> None:
    """A round as a person signs for it: change, gates, suites, data, decisions."""
    # Where there are gates, each says its own reason below.
    reason = "" if value["gates"] else value["reason"]
    print(f"round {value['round']}: {value['state']}  {reason}")
    print(f"  {_adapter(value['champion'])} → {_adapter(value['adapter'])}")
    print(f"  authors: {', '.join(value['authors'])}")
    if data := value["data"]:
        print(
            f"  data: {data['examples']} examples of {data['trajectories']} trajectories, "
            f"label {data['label']}, dataset {short(data['dataset'])}"
        )
        reasons = [f"{count} {reason}" for reason, count in data["reasons"].items()]
        print(f"  left out: {', '.join(reasons) or 'nothing'}")
    if value["scorecard"]:
        _console.print(_suites(value["scorecard"]["suites"], value["likelihoods"]))
    for gate in (value["gates"] or {}).get("gates", []):
        print(f"  {gate['outcome']:5} {gate['gate']}: {gate['reason']}")
    for decision in value["decisions"]:
        print(f"  {decision['approver']}: {decision['decision']}  {decision['comment']}")


def journal_entry(value: Any) -> None:
    """What the alias means now."""
    moved = value["release"]
    print(
        f"{moved['alias']} means {_adapter(moved['adapter'])} "
        f"(generation {moved['generation']}, {value['ms']:.1f} ms)"
    )
    if rollout := moved.get("rollout"):
        print(tried_out(rollout))


def tried_out(rollout: Any) -> str:
    """A candidate, and how far it is."""
    share = f"{rollout['share']} % of the sessions" if rollout["share"] else "the shadow"
    return f"tried out: {_adapter(rollout['candidate'])}, in {share}"


def audit(value: Any) -> None:
    """One line an act."""
    table = _table("#", "when", "who", "act", "subject", "detail")
    for entry in value:
        detail = dict(entry["detail"])
        why = [detail.pop(name) for name in ("comment", "reason", "why") if detail.get(name)]
        table.add_row(
            str(entry["sequence"]),
            _when(entry["at"]),
            entry["actor"],
            entry["act"],
            entry["subject"][:40],
            _cut("  ".join([*map(str, why), json.dumps(detail)]), _WIDTH),
        )
    _console.print(table)
    print(f"entries: {len(value)}, the chain is intact")


class Progress:
    """A round's state, its step's progress and time left, on one line of stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._last = ""
        self._started = time.monotonic()

    def show(self, value: Any) -> None:
        """Redraw where something changed."""
        line = _under_way(value)
        if not self._quiet and line != self._last:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        self._last = line

    def end(self) -> None:
        """Leave the line."""
        if not self._quiet:
            print(f"  ({time.monotonic() - self._started:.1f} s)", file=sys.stderr)


def _suites(suites: Any, likelihoods: Any) -> Table:
    rows = [_suite(suite, likelihoods) for suite in suites]
    # On a narrow terminal what is compared stays whole; --json has the rest.
    left_out = ("kind", "unit", "could see") if _console.width < _NARROW else ()
    table = _table(*(name for name in _SUITE_COLUMNS if name not in left_out))
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(row[name] for name in _SUITE_COLUMNS if name not in left_out))
    return table


def _suite(suite: Any, likelihoods: Any) -> dict[str, str]:
    items = suite["num_items"] or 1
    if suite["metric"] == "nats_per_token":
        # Higher is likelier; 0 would be certain.
        unit, sides = "nats per token", likelihoods.get(suite["suite"], {})
    else:
        unit = "share passed"
        sides = {side: suite[f"{side}_passed"] / items for side in ("champion", "candidate")}
    return {
        "suite": suite["suite"],
        "kind": suite["kind"],
        "items": str(suite["num_items"]),
        "unit": unit,
        **{s: f"{sides[s]:.3f}" if s in sides else "" for s in ("champion", "candidate")},
        "Δ": f"{suite['delta']:+.3f}",
        "95 % bounds": f"[{suite['lower_95']:+.3f}, {suite['upper_95']:+.3f}]",
        "could see": f"{suite['smallest_effect']:.3f}",
    }


def _under_way(value: Any) -> str:
    if value["waits"]:
        return f"round {value['round']}: {value['state']}, {value['waits']}"
    step = value["progress"] if value["state"] == "training" else None
    left = f"  step {step['step']}/{step['total']}, {step['eta_s']:.0f} s left" if step else ""
    return f"round {value['round']}: {value['state']}{left}"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _adapter(digest: str | None) -> str:
    return short(digest) if digest else "the base"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
