"""The account of a demo: a table and a plot for people, and whether everything was lawful."""

from pathlib import Path
from typing import Any

_SUITE_NAMES = {
    "held_out": "held-out tasks",
    "held_out_with_manual": "the same, with the manual in the prompt",
    "protected": "what it could do before",
}


def table(account: dict[str, Any]) -> str:
    """Before and after, per suite and per family."""
    lines = [f"{'':44}{'items':>6}{'before':>9}{'after':>9}"]
    for name, title in _SUITE_NAMES.items():
        before = account["measured_before"].get(name)
        after = account["measured_after"].get(name)
        if before is None or after is None:
            continue
        lines.append(_line(title, before["items"], before["rate"], after["rate"]))
        if len(after["by_family"]) > 1:
            for family, (items, passed) in sorted(after["by_family"].items()):
                was = before["by_family"].get(family, (items, 0))[1]
                lines.append(_line(f"  {family}", items, was / items, passed / items))
    return "\n".join(lines)


def unlawful(account: dict[str, Any], *, poison: str, shuffled: bool) -> list[str]:
    """What did not go as the law says; empty when all did."""
    wrong = []
    released = [r for r in account["rounds"] if r["verdict"] == "released"]
    if account["failed_requests"]:
        wrong.append(f"{account['failed_requests']} requests failed: {account['errors']}")
    if account["leaked_prompts"]:
        wrong.append(f"{account['leaked_prompts']} held-out or protected prompts were worked on")
    if account["served_adapter"] != account["approved_adapter"]:
        wrong.append(f"{account['served_adapter']} serves, {account['approved_adapter']} approved")
    if any(r["verdict"] == "failed" for r in account["rounds"]):
        wrong.append("a round failed")
    if shuffled and released:
        wrong.append("an adapter trained on shuffled outcomes was released")
    if not shuffled and poison != "none" and released and not account["refused_rounds"]:
        wrong.append(f"the round poisoned with {poison} was not refused")
    if not shuffled and poison == "none" and account["refused_rounds"]:
        wrong.append("a round was refused although nothing was poisoned")
    return wrong


def plot(account: dict[str, Any], scorecards: list[dict[str, Any]], path: Path) -> None:
    """What served after each round, from the base on, as lines; candidates that were not released
    as crosses; and the held-out rate before the first round and at the end.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=120, layout="constrained")
    for kind, marker, colour in (("target", "o", "#1b6e4b"), ("protected", "s", "#5b5b8c")):
        served, turned_away = rates(scorecards, kind)
        axes.plot(*zip(*served, strict=True), marker=marker, color=colour, label=f"{kind} suite")
        for number, before, rate in turned_away:
            axes.plot((number - 1, number), (before, rate), ":", color=colour, alpha=0.6)
            axes.plot(number, rate, "x", markersize=9, markeredgewidth=2, color=colour)
    last = max((entry["round"] for entry in scorecards), default=1)
    held_out = (account["held_out_before"], account["held_out_after"])
    axes.plot((0, last), held_out, "*", markersize=14, color="#b3541e", label="held-out tasks")
    axes.plot([], [], "x", markeredgewidth=2, color="#777777", label="candidate, not released")
    for entry in scorecards:
        if entry["verdict"] != "released":
            number = entry["round"]
            axes.axvspan(number - 0.3, number + 0.3, color="#b3541e", alpha=0.12)
    axes.set(ylabel="share of items passed", ylim=(-0.04, 1.05))
    names = [f"round {entry['round']}\n{entry['verdict']}" for entry in scorecards]
    axes.set_xticks([0, *(entry["round"] for entry in scorecards)], ["base", *names])
    axes.set_title("What the company's model can do, round by round")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)
    plt.close(figure)


_Served = list[tuple[int, float]]
_TurnedAway = list[tuple[int, float, float]]


def rates(scorecards: list[dict[str, Any]], kind: str) -> tuple[_Served, _TurnedAway]:
    """(round, rate) of what served after each round, and (round, rate before, rate) of the rest."""
    served: _Served = []
    turned_away: _TurnedAway = []
    for entry in scorecards:
        for suite in entry["scorecard"]["suites"] if entry["scorecard"] else ():
            if suite["kind"] != kind:
                continue
            items = max(1, suite["num_items"])
            champion, candidate = (
                suite["champion_passed"] / items,
                suite["candidate_passed"] / items,
            )
            served = served or [(0, champion)]
            if entry["verdict"] == "released":
                served.append((entry["round"], candidate))
            else:
                served.append((entry["round"], served[-1][1]))
                turned_away.append((entry["round"], served[-1][1], candidate))
    return served or [(0, 0.0)], turned_away


def _line(title: str, items: int, before: float, after: float) -> str:
    return f"{title:44}{items:6}{before:9.3f}{after:9.3f}"
