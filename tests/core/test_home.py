"""The home folder: one place, for its owner alone."""

from pathlib import Path

import pytest

from appliance.core.errors import NotFoundError
from appliance.core.home import Home


def test_the_folder_given_stands_above_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "environment"))
    assert Home.find().root == tmp_path / "environment"
    assert Home.find(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("ESPALIER_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.find().root == tmp_path / ".espalier"


def test_one_that_nobody_made_is_refused_and_not_made(tmp_path: Path) -> None:
    for missing in (tmp_path / "hom", tmp_path):
        with pytest.raises(NotFoundError, match=f"no Espalier home at {missing}") as refusal:
            Home.existing(missing)
        assert "espalier base make-tiny" in refusal.value.next_step
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "espalier.toml").touch()
    assert Home.existing(tmp_path).root == tmp_path
    Home(tmp_path / "made").create()
    assert Home.existing(tmp_path / "made").root == tmp_path / "made"


def test_only_its_owner_may_look_inside(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.create()
    assert home.root.stat().st_mode & 0o077 == 0
    assert home.secrets.stat().st_mode & 0o077 == 0


def test_a_folder_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir(mode=0o755)
    home.root.chmod(0o755)
    home.create()
    assert home.root.stat().st_mode & 0o077 == 0


def test_a_socket_path_fits_the_kernels_limit(tmp_path: Path) -> None:
    near, far = Home(tmp_path / "h"), Home(tmp_path / ("deep" * 30))
    assert near.socket("engine").parent == near.run or len(str(near.root)) > 80
    assert len(str(far.socket("engine"))) <= 107
    other = Home(tmp_path / ("deep" * 31))
    assert far.socket("engine") != other.socket("engine"), "two homes never share a socket"
