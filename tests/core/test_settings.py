"""Settings: one file, environment overrides, unknown keys refused, each value's origin known."""

import json

import pytest

from appliance.core.errors import SettingsError
from appliance.core.home import Home
from appliance.core.settings import Settings, fields_of, load_settings, resolve


def _write(home: Home, text: str) -> None:
    home.settings.write_text(text)


def test_without_a_file_every_value_is_the_default(home: Home) -> None:
    settings, origin = resolve(home, {})
    assert settings == Settings()
    assert origin == {}


def test_the_environment_stands_above_the_file(home: Home) -> None:
    _write(home, '[gateway]\nport = 9000\nalias = "our-model"\n')
    environment = {"ESPALIER__GATEWAY__PORT": "9100", "ESPALIER_HOME": "/x", "PATH": "/bin"}
    settings, origin = resolve(home, environment)
    assert (settings.gateway.port, settings.gateway.alias) == (9100, "our-model")
    assert origin == {
        "gateway.port": "$ESPALIER__GATEWAY__PORT",
        "gateway.alias": str(home.settings),
    }


def test_every_setting_has_a_name_that_the_environment_can_override(home: Home) -> None:
    for name, value in fields_of(Settings()).items():
        variable = "ESPALIER__" + name.upper().replace(".", "__")
        text = json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)
        settings, origin = resolve(home, {variable: text})
        assert settings == Settings()
        assert origin == {name: f"${variable}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gateway]\nprot = 1\n", r"unknown setting gateway.prot .*did you mean gateway.port\?"),
        ("[gatewya]\nport = 1\n", r"unknown section \[gatewya\].*did you mean gateway\?"),
        ("[nothing]\nx = 1\n", r"unknown section \[nothing\].*known: "),
        ("port = 1\n", r"'port' must stand in a \[section\]"),
        ("[gateway\nport = 1\n", "is not TOML"),
        ("[gateway]\nport = 70000\n", "a setting is wrong.*65535"),
        ('[gateway]\nport = "http"\n', "a setting is wrong"),
        ("[engine]\nslots = 0\n", "a setting is wrong"),
        ('[log]\nkind = "redis"\n', "a setting is wrong"),
        ("[assembly]\nidle_s = 0\n", "a setting is wrong"),
        ("[gpu]\ntrainer_share = 1.5\n", "a setting is wrong"),
        ("[rollout]\nstages = [5, 1]\n", "must grow from one to the next"),
        ("[rollout]\nstages = [5, 60]\n", "a setting is wrong.*50"),
        ('[rollout]\nmetrics = ["latency"]\n', "a setting is wrong"),
        ("[rollout]\nmetrics = []\n", "a setting is wrong"),
        ('[gateway.team_aliases]\ncompany-model = "t"\n', "is the endpoint's own alias"),
        ('[gateway.team_aliases]\nCompany-Model = "t"\n', "is the endpoint's own alias"),
        ('[gateway]\nalias = "m"\n[gateway.team_aliases]\nm = "t"\n', "the endpoint's own alias"),
        ('[gateway.team_aliases]\n"" = "t"\n', "no @ and no space, got ''"),
        ('[gateway.team_aliases]\n"a@17" = "t"\n', "no @ and no space, got 'a@17'"),
        ('[gateway.team_aliases]\n"a b" = "t"\n', "no @ and no space"),
        ('[gateway.team_aliases]\n"a\\n" = "t"\n', "no @ and no space"),
        (f'[gateway.team_aliases]\n{"a" * 101} = "t"\n', "1 to 100 printable characters"),
        ('[gateway]\nalias = "a@b"\n', "no @ and no space"),
        ('[gateway.team_aliases]\na = ""\n', "'a' is for a team, got ''"),
        ('[gateway.team_aliases]\na = " t"\n', "'a' is for a team, got ' t'"),
    ],
)
def test_a_wrong_file_stops_the_start(home: Home, text: str, expected: str) -> None:
    _write(home, text)
    with pytest.raises(SettingsError, match=expected) as refusal:
        load_settings(home, {})
    assert f"mend it in {home.settings}" in refusal.value.next_step


def test_a_file_that_is_not_text_is_refused(home: Home) -> None:
    home.settings.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(home, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ESPALIER__GATEWAY__PROT", "1"),
        ("ESPALIER__GATEWAY", "1"),
        ("ESPALIER__NOTHING__X", "1"),
        ("ESPALIER__GATEWAY__PORT", "many"),
    ],
)
def test_a_wrong_override_is_refused(home: Home, name: str, text: str) -> None:
    with pytest.raises(SettingsError):
        load_settings(home, {name: text})


def test_an_unknown_override_names_the_variable(home: Home) -> None:
    with pytest.raises(SettingsError, match=r"\$ESPALIER__LOG__BOOTSTRAPS.*log\.bootstrap\?"):
        load_settings(home, {"ESPALIER__LOG__BOOTSTRAPS": "x"})
