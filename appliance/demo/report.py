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
    """Each round's candidate, from the base on: target and protected rates, refused rounds marked,
    and the held-out rate before the first round and at the end.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=120, layout="constrained")
    judged = [entry for entry in scorecards if entry["scorecard"]]
    for kind, marker, colour in (("target", "o", "#1b6e4b"), ("protected", "s", "#5b5b8c")):
        points = [
            (entry["round"], suite["candidate_passed"] / max(1, suite["num_items"]))
            for entry in judged
            for suite in entry["scorecard"]["suites"]
            if suite["kind"] == kind
        ]
        before = [
            (0, suite["champion_passed"] / max(1, suite["num_items"]))
            for entry in judged[:1]
            for suite in entry["scorecard"]["suites"]
            if suite["kind"] == kind
        ]
        rounds, rates = zip(*before, *points, strict=True) if points else ((), ())
        axes.plot(rounds, rates, marker=marker, color=colour, label=f"{kind} suite")
    last = max((entry["round"] for entry in scorecards), default=1)
    held_out = (account["held_out_before"], account["held_out_after"])
    axes.plot((0, last), held_out, "*", markersize=14, color="#b3541e", label="held-out tasks")
    for entry in scorecards:
        if entry["verdict"] == "refused":
            axes.axvspan(entry["round"] - 0.3, entry["round"] + 0.3, color="#b3541e", alpha=0.15)
            axes.annotate("refused", (entry["round"], 0.45), ha="center", rotation=90)
    axes.set(ylabel="share of items passed", ylim=(-0.04, 1.05), xticks=range(last + 1))
    axes.set_xticklabels(["base", *(f"round {n}" for n in range(1, last + 1))])
    axes.set_title("What the company's model learnt, round by round")
    axes.grid(alpha=0.25)
    axes.legend(loc="center left")
    figure.savefig(path)
    plt.close(figure)


def _line(title: str, items: int, before: float, after: float) -> str:
    return f"{title:44}{items:6}{before:9.3f}{after:9.3f}"
