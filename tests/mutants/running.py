"""One test in a copy of the tree, by pytest in a process of its own."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.table import MutantError

_LIMIT_S = 600
_PYTEST_FAILED = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pytest reported. Neither is set where the test was skipped or not found."""

    passed: bool
    failed: bool
    output: str


def run_test(test: str, tree: Path) -> Outcome:
    """Run the test in `tree`, whose packages stand before any installed ones.

    Raises:
        MutantError: pytest did not end in time.
    """
    # A child of the test must find the copy too, not the tree that the environment installs.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-p", "no:cacheprovider", "--no-header", "--tb=short", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, test],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise MutantError(f"{test} did not end within {_LIMIT_S} s") from None
        counts = _counts(report)
    bad = counts["failures"] + counts["errors"]
    good = counts["tests"] - bad - counts["skipped"]
    return Outcome(
        passed=done.returncode == 0 and good > 0 and counts["skipped"] == 0,
        failed=done.returncode == _PYTEST_FAILED and bad > 0,
        output=done.stdout[-2000:],
    )


def _counts(report: Path) -> dict[str, int]:
    names = ("tests", "failures", "errors", "skipped")
    if not report.exists():
        return dict.fromkeys(names, 0)
    # Our own pytest wrote it a moment ago, so this is not a stranger's XML.
    suite = ElementTree.parse(report).getroot().find("testsuite")  # noqa: S314
    return {name: int(suite.get(name, 0)) if suite is not None else 0 for name in names}
