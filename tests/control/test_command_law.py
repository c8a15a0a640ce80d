"""`espalier law set`, up to what it asks the control plane for."""

from pathlib import Path
from typing import Any

import pytest

from appliance.control import commands
from appliance.control.command import main
from appliance.core.home import Home


@pytest.mark.parametrize(
    ("words", "route"),
    [
        (["suite", "target.jsonl"], "/law/suite/target"),
        (["suite", "target.jsonl", "--name", "other"], "/law/suite/other"),
        (["suite", "target.jsonl", "--name", "räte & co"], "/law/suite/r%C3%A4te%20%26%20co"),
        (["gates", "gates.toml"], "/law/gates/gates"),
    ],
)
def test_an_article_has_its_own_name_and_not_its_authors(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], route: str
) -> None:
    """By one name, a person's second suite would repeal the first."""
    asked: list[str] = []

    def ask(_home: Home, arguments: Any, method: str, route: str, _body: Any) -> dict[str, Any]:
        assert (arguments.person, method) == ("olga", "PUT")
        asked.append(route)
        return {"kind": words[0], "name": "any", "object": "sha256:" + "0" * 64}

    monkeypatch.setattr(commands, "_ask", ask)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESPALIER_HOME", str(home.root))
    (tmp_path / words[1]).write_text("anything")
    assert main(["law", "set", *words, "--as", "olga"]) == 0
    assert asked == [route]
