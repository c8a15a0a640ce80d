"""`python -m tests.mutants [NAME…]`: each guard is taken out once, and its named test must fail.

Works on a copy of the tree. The last line is ``8 killed, 0 survived``; anything else than that,
a test that does not pass without the mutation included, ends non-zero.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.mutants.running import run_test
from tests.mutants.table import Mutant, MutantError, load

_ROOT = Path(__file__).parents[2]
_LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist")


def main() -> int:
    """Run the named mutants, or all."""
    mutants = load()
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these; all when none is given"
    )
    known = {mutant.name for mutant in mutants}
    wanted = set(parser.parse_args().names) or known
    if unknown := wanted - known:
        parser.error(
            f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    survived = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(_ROOT, tree, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        chosen = [mutant for mutant in mutants if mutant.name in wanted]
        for mutant in chosen:
            try:
                killed, said = _try(mutant, tree)
            except MutantError as error:
                killed, said = False, str(error)
            print(f"{'killed' if killed else 'SURVIVED'}  {mutant.name}: {said}", flush=True)
            if not killed:
                survived.append(mutant.name)
    print(f"{len(chosen) - len(survived)} killed, {len(survived)} survived")
    return 1 if survived else 0


def _try(mutant: Mutant, tree: Path) -> tuple[bool, str]:
    """Whether the mutant was killed, and in words what happened."""
    if not mutant.test:
        raise MutantError("the table names no test yet")
    path = tree / mutant.file
    original = path.read_text()
    mutated = mutant.apply(original)
    before = run_test(mutant.test, tree)
    if not before.passed:
        raise MutantError(f"{mutant.test} does not pass without the mutation:\n{before.output}")
    path.write_text(mutated)
    try:
        after = run_test(mutant.test, tree)
    finally:
        path.write_text(original)
    if after.failed:
        return True, f"{mutant.test} fails without {mutant.guards}"
    return False, f"{mutant.test} still passes without {mutant.guards}\n{after.output}"


if __name__ == "__main__":
    sys.exit(main())
