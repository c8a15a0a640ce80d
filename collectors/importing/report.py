"""The report of an import, for people. Why a file was not read whole goes to stderr instead."""

from collections import Counter
from collections.abc import Sequence

from collectors.importing.importer import FileReport


def show(reports: Sequence[FileReport]) -> str:
    """A table with one row per file, and below it what was skipped and why."""
    width = max(len(report.file) for report in reports)
    lines = [f"{'file':<{width}}  {'format':<12} trajectories  turns  successes  skipped"]
    lines += [
        f"{r.file:<{width}}  {r.format or '-':<12} {r.trajectories:>12}  {r.turns:>5}  "
        f"{r.successes:>9}  {r.num_skipped:>7}"
        for r in reports
    ]
    for report in reports:
        lines += [f"{report.file}: {line}" for line in _reasons(report)]
    return "\n".join(lines)


def _reasons(report: FileReport) -> list[str]:
    counts = Counter(skipped.reason for skipped in report.skipped)
    first = {skipped.reason: skipped for skipped in reversed(report.skipped)}
    lines = []
    for reason, count in sorted(counts.items()):
        detail = f" ({first[reason].detail})" if first[reason].detail else ""
        lines.append(f"{count} × {reason}, first at {first[reason].where}{detail}")
    if report.num_skipped > len(report.skipped):
        lines.append(f"and {report.num_skipped - len(report.skipped)} more")
    return lines
