"""Every room but the engine and the trainer runs where there is no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_TORCH = ("appliance.inference", "appliance.kernels", "adapter_training")
PROGRAM = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(name + " is not here", name=name)

sys.meta_path.insert(0, Refuse())
roots = ("appliance", "collectors", "serving", "policies")
rooms = [importlib.import_module(root) for root in roots]
count = len(roots)
for room in rooms:
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        # Alembic runs what is under migrations, Python what is __main__; neither can be imported.
        passed_over = module.name.startswith(({with_torch}, "appliance.core.migrations"))
        if not passed_over and not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def walk(*blocked: str) -> "subprocess.CompletedProcess[str]":
    code = PROGRAM.replace("{blocked}", repr(set(blocked)))
    code = code.replace("{with_torch}", ", ".join(map(repr, WITH_TORCH)))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_the_rest_of_the_house_needs_no_torch() -> None:
    ended = walk("torch", "transformers", "peft", "trl")
    assert ended.returncode == 0, ended.stderr
    rest = [p for top in ("appliance", "collectors", "serving", "policies") for p in modules(top)]
    assert int(ended.stdout) >= len(rest) > 150


def modules(top: str) -> list[Path]:
    left_out = ("inference", "kernels", "migrations", "__main__.py")
    found = (ROOT / top).rglob("*.py")
    return [p for p in found if not any(part in left_out for part in p.relative_to(ROOT).parts)]


@pytest.mark.parametrize("needed", ["msgspec", "fastapi"])
def test_a_room_that_needs_what_is_not_there_is_noticed(needed: str) -> None:
    ended = walk(needed)
    assert ended.returncode != 0
    assert f"{needed} is not here" in ended.stderr
