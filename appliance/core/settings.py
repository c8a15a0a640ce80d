"""Settings: one ``espalier.toml``, environment overrides, unknown keys refused.

``ESPALIER__GATEWAY__PORT=9000`` overrides ``[gateway] port``. Read before anything heavy is
imported. A relative path is relative to the home folder.
"""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.core.errors import SettingsError
from appliance.core.home import Home

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of espalier.toml."""


class Gateway(Section, frozen=True, kw_only=True):
    """Where agents connect."""

    host: str = "127.0.0.1"
    port: Port = 8600
    """0 takes a free port; `espalier up` prints it."""
    alias: str = "company-model"
    label: str = "internal"
    """The highest label that this endpoint may serve."""
    drain_s: Positive = 10.0


class Control(Section, frozen=True, kw_only=True):
    """Where people and schedules connect."""

    host: str = "127.0.0.1"
    port: Port = 8601
    url: str = ""
    """What people type, where that is not host and port, e.g. ``https://espalier.example``. Its
    host is answered beside loopback's; with https the cookies are Secure."""
    session_hours: Positive = 12.0
    """After so long a person signs in again."""
    idle_minutes: Positive = 60.0
    """After so long without a click, too."""


class Engine(Section, frozen=True, kw_only=True):
    """The embedded engine."""

    kind: Literal["embedded"] = "embedded"
    base: str = "tiny"
    """Name or digest of a registered base."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Meta(ge=0)] = 0
    """Torch threads; 0 measures at start and takes the fastest."""
    max_batch: Count = 64
    """Sequences decoded together."""
    slots: Count = 4
    """Adapters resident at once."""
    cache_tokens: Annotated[int, Meta(ge=0)] = 0
    """KV cache size in tokens over all sequences; 0 means what fits in `memory_mib`."""
    memory_mib: Count = 1024


class Log(Section, frozen=True, kw_only=True):
    """The event log."""

    kind: Literal["embedded", "kafka"] = "embedded"
    bootstrap: str = ""
    """host:port of a Kafka broker, for kind = "kafka"."""
    segment_mib: Count = 64


class Assembly(Section, frozen=True, kw_only=True):
    """From turns to trajectories."""

    idle_s: Positive = 900.0
    """A trajectory is sealed when it has been quiet for so long."""


class Round(Section, frozen=True, kw_only=True):
    """When a round may start, and how long it waits. Its law is set with `espalier law`."""

    min_trajectories: Count = 1
    approval_hours: Positive = 168.0
    """A scorecard that waits longer than this expires."""


class Gpu(Section, frozen=True, kw_only=True):
    """What the trainer may take while serving goes on."""

    trainer_memory_mib: Annotated[int, Meta(ge=0)] = 0
    """0 means no limit."""
    trainer_threads: Annotated[int, Meta(ge=0)] = 1
    """Torch threads of the trainer; fixed, because adapter bytes depend on it."""


class Settings(Section, frozen=True, kw_only=True):
    """All of espalier.toml."""

    gateway: Gateway = Gateway()
    control: Control = Control()
    engine: Engine = Engine()
    log: Log = Log()
    assembly: Assembly = Assembly()
    round: Round = Round()
    gpu: Gpu = Gpu()


def load_settings(home: Home, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings of this home: defaults, then espalier.toml, then the environment.

    Raises:
        SettingsError: the file does not parse, a key is unknown, a value is out of range.
    """
    return resolve(home, environment)[0]


def resolve(
    home: Home, environment: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Settings, and for each ``section.key`` where its value came from."""
    tables = _read_file(home)
    origin = {f"{s}.{k}": str(home.settings) for s, t in tables.items() for k in t}
    for name, text in (os.environ if environment is None else environment).items():
        if not name.startswith("ESPALIER__"):
            continue
        section, _, key = name.removeprefix("ESPALIER__").lower().partition("__")
        tables.setdefault(section, {})[key] = text
        origin[f"{section}.{key}"] = f"${name}"
    _refuse_unknown(tables, origin)
    try:
        settings = msgspec.convert(tables, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"a setting is wrong: {error}",
            next_step=_mend(*(set(origin.values()) or {str(home.settings)})),
        ) from error
    return settings, origin


def fields_of(settings: Settings) -> dict[str, Any]:
    """Every setting as ``section.key`` → value."""
    tables = msgspec.to_builtins(settings)
    return {
        f"{section}.{key}": value
        for section, table in tables.items()
        for key, value in table.items()
    }


def _read_file(home: Home) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(home.settings.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{home.settings} is not TOML: {error}", next_step=_mend(str(home.settings))
        ) from error
    except OSError as error:
        raise SettingsError(f"{home.settings} cannot be read: {error.strerror}") from error
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(
                f"{home.settings}: {section!r} must stand in a [section]",
                next_step=_mend(str(home.settings)),
            )
    return tables


def _refuse_unknown(tables: dict[str, dict[str, Any]], origin: Mapping[str, str]) -> None:
    known = fields_of(Settings())
    sections = {name.partition(".")[0] for name in known}
    for section, table in tables.items():
        if section not in sections:
            places = {origin[f"{section}.{key}"] for key in table}
            raise SettingsError(
                f"unknown section [{section}]{_did_you_mean(section, sections)}",
                next_step=_mend(*places),
            )
        for key in table:
            name = f"{section}.{key}"
            if name not in known:
                raise SettingsError(
                    f"unknown setting {name} (from {origin[name]}){_did_you_mean(name, known)}",
                    next_step=_mend(origin[name]),
                )


def _mend(*places: str) -> str:
    where = " or ".join(sorted(places)) or "espalier.toml"
    return f"mend it in {where}; espalier doctor checks it"


def _did_you_mean(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
