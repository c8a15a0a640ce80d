"""Settings: one ``espalier.toml``, environment overrides, unknown keys refused.

``ESPALIER__GATEWAY__PORT=9000`` overrides ``[gateway] port``; a list is written as in the file,
``ESPALIER__ROLLOUT__STAGES='[5, 50]'``. Read before anything heavy is imported. A relative path is
relative to the home folder.
"""

import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from appliance.core.errors import SettingsError
from appliance.core.home import Home
from appliance.core.names import MAX_NAME, is_alias, is_name
from appliance.core.windows import parse_windows

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Metric = Literal[
    "errors",
    "left",
    "first_token",
    "whole",
    "longer",
    "shorter",
    "refusals",
    "tool_calls",
    "feedback",
]
"""What a rollout compares; policies/canary.py says what each is."""
Share = Annotated[float, Meta(ge=0, le=1)]


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
    team_aliases: dict[str, str] = {}
    """More aliases, each for one team's keys: alias → team. Each has releases of its own."""
    pin_sessions: bool = True
    """A session (``x-espalier-session``) keeps its version while that one stands: over a release,
    not over a rollback, a stop or a kill."""
    max_under_way: Count = 2048
    """Requests answered at once, those that wait included; one more is refused."""
    max_waiting: Count = 512
    """Requests whose first token has not come yet; one more is refused."""

    def __post_init__(self) -> None:
        for alias in (self.alias, *self.team_aliases):
            if not is_alias(alias):
                raise ValueError(
                    f"an alias has 1 to {MAX_NAME} printable characters, no @ and no space, "
                    f"got {alias[: MAX_NAME + 1]!r}"
                )
        for alias, team in self.team_aliases.items():
            if alias.casefold() == self.alias.casefold():
                raise ValueError(
                    f"team_aliases: {alias!r} is the endpoint's own alias; give the team another"
                )
            if not is_name(team):
                raise ValueError(f"team_aliases: {alias!r} is for a team, got {team!r}")


class Prices(Section, frozen=True, kw_only=True):
    """What tokens cost, in units of your own per million tokens. Budgets in units count by it."""

    prompt: Annotated[float, Meta(ge=0)] = 0.0
    completion: Annotated[float, Meta(ge=0)] = 0.0


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
    """What holds the model."""

    kind: Literal["embedded", "vllm"] = "embedded"
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


class Vllm(Section, frozen=True, kw_only=True):
    """Replicas of vLLM, for `[engine] kind = "vllm"`."""

    python: str = "vllm/bin/python"
    """The interpreter of the environment that vLLM is installed in."""
    replicas: Count = 1
    start: bool = True
    """Whether we start the replicas. If not, something else does (a container), on the sockets
    that `espalier serve vllm --print` names."""
    max_rank: Count = 16
    """The largest rank of an adapter; a larger one than needed costs memory and time."""
    context_length: Annotated[int, Meta(ge=0)] = 0
    """Tokens of prompt and answer together; 0 takes the base's."""
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.85
    """Share of the GPU's memory; what the trainer needs is left out."""
    arguments: list[str] = []
    """More words for vLLM's command, e.g. ``["--tensor-parallel-size", "2"]``."""


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


class Rollout(Section, frozen=True, kw_only=True):
    """How an approved adapter comes into use: at once, or tried out first."""

    staged: bool = False
    """True: in the shadow, then for a growing share, and only then released."""
    stages: tuple[Annotated[int, Meta(ge=1, le=50)], ...] = (1, 5, 25)
    """Percent of the sessions that the candidate answers, stage by stage; then all of them."""
    shadow_requests: Annotated[int, Meta(ge=0)] = 100
    """Conversations that both answer before anybody sees the candidate's answers; 0 omits it."""
    stage_requests: Count = 100
    """Pairs of sessions, one of each side, before the next stage."""
    stage_minutes: Annotated[float, Meta(ge=0)] = 5.0
    """A stage lasts at least so long, however many ask: those who are hurt have time to be seen."""
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share of the rollouts that may be stopped although the candidate does nothing worse."""
    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1)] = get_args(Metric)
    """What the candidate may not do worse at."""

    def __post_init__(self) -> None:
        if list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"stages must grow from one to the next, got {list(self.stages)}")


class Gpu(Section, frozen=True, kw_only=True):
    """What the trainer may take while serving goes on."""

    trainer_share: Share = 0.2
    """Of wall time, while people's requests are under way; all of it otherwise. 0 waits for quiet
    however long that takes, 1 never yields."""
    windows: str = ""
    """When rounds may train, in local time: ``22:00-06:00, sat, mon-fri 20:00-24:00``. Empty:
    always."""
    trainer_memory_mib: Annotated[int, Meta(ge=0)] = 0
    """Of the GPU where it trains on one, of the machine otherwise; 0 means no limit."""
    trainer_threads: Annotated[int, Meta(ge=0)] = 1
    """Torch threads of the trainer; fixed, because adapter bytes depend on it."""

    def __post_init__(self) -> None:
        parse_windows(self.windows)


class Settings(Section, frozen=True, kw_only=True):
    """All of espalier.toml."""

    gateway: Gateway = Gateway()
    prices: Prices = Prices()
    control: Control = Control()
    engine: Engine = Engine()
    vllm: Vllm = Vllm()
    log: Log = Log()
    assembly: Assembly = Assembly()
    round: Round = Round()
    rollout: Rollout = Rollout()
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
        tables.setdefault(section, {})[key] = _value(text)
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


def _value(text: str) -> Any:
    """A list or a table as TOML writes it; any other value converts from its text."""
    if text.startswith(("[", "{")):
        with suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"value = {text}")["value"]
    return text


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
