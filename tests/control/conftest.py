"""A whole appliance, started by its command; a console over an empty home or the real gateway."""

import base64
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.control import supervisor
from appliance.control.acting import proposals, suites
from appliance.control.steps import Ground
from appliance.core import tables
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from appliance.engine.bases import Registry
from tests.adapter_training.conftest import base_folder  # noqa: F401 # registers the fixture
from tests.control.browser import PASSPHRASE, Browser
from tests.sandbox.conftest import boxes  # noqa: F401 # registers the fixture
from tests.serving.conftest import (  # noqa: F401 # registers the fixtures
    Appliance,
    GatewayProcess,
    adapters,
    appliance,
    context_length,
    engine,
    gateway,
)

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "appliance.control.command")
GATES = """schema = "gates/1"
name = "one"
[[gate]]
name = "improves"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
"""
SUITE = (
    '{"suite": "target", "kind": "target"}\n'
    '{"item_id": "1", "family": "f", "messages": [{"role": "user", "content": "q"}], '
    '"check": {"kind": "exact", "expected": "a"}}\n'
)


@dataclass(slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    message: str
    """What it said on stderr."""

    @property
    def json(self) -> Any:
        """Its last line."""
        return json.loads(self.out.splitlines()[-1])


@dataclass(slots=True)
class Running:
    """An appliance that is up, and the commands that its people use."""

    home: Home
    scratch: Path
    started: dict[str, Any] = field(default_factory=dict)

    def run(self, *words: str, person: str | None = None, **overrides: str) -> Ended:
        """Run `espalier words` in this home, as this person."""
        ended = subprocess.run(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(person) | overrides,
            cwd=ROOT,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def environment(self, person: str | None = None) -> dict[str, str]:
        """The environment of a command in this home."""
        found = {**os.environ, "ESPALIER_HOME": str(self.home.root), "OMP_NUM_THREADS": "1"}
        if person:
            found |= {"ESPALIER_AS": person, "ESPALIER_PASSPHRASE": PASSPHRASE}
        return found

    def write(self, name: str, content: str | bytes) -> str:
        """A file of this content; its path."""
        path = self.scratch / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def post(self, route: str, body: Any) -> tuple[int, Any]:
        """What the gateway answers an agent: status and JSON."""
        bearer = {"authorization": f"Bearer {self.started['openai_api_key']}"}
        return self._ask(self.state["gateway"], "POST", f"/v1{route}", body, bearer)

    def control(
        self,
        method: str,
        route: str,
        body: Any = None,
        *,
        sign_in: tuple[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """What the control plane's API answers a person: status and JSON."""
        headers = dict(headers or {})
        if sign_in:
            headers["authorization"] = (
                "Basic " + base64.b64encode(":".join(sign_in).encode()).decode()
            )
        return self._ask(self.state["control"], method, f"/api{route}", body, headers)

    @property
    def state(self) -> dict[str, Any]:
        """What the supervisor says; fails where it is gone."""
        state = supervisor.running(self.home)
        assert state is not None, "the appliance is down"
        return state

    def pid(self, name: str) -> int:
        """The process of a part."""
        return next(int(part["pid"]) for part in self.state["parts"] if part["name"] == name)

    def require_well(self) -> None:
        """Every part is the process that it was, and an agent gets its answer."""
        for part in self.state["parts"]:
            assert part["restarts"] == 0, part
            assert supervisor.health(self.home, part["name"]) is not None, part
        chat = {
            "model": "company-model",
            "messages": [{"role": "user", "content": "say add"}],
            "max_tokens": 2,
        }
        status, answer = self.post("/chat/completions", chat)
        assert status == 200, answer

    @staticmethod
    def _ask(
        address: list[Any], method: str, route: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*address, timeout=30)
        payload = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(
                method, route, payload, {"content-type": "application/json", **headers}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="session")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    base_folder: Path,  # noqa: F811
) -> Iterator[Running]:
    """Up on free ports; ada is admin, olga operator, bela approver."""
    scratch = tmp_path_factory.mktemp("appliance")
    home = Home(scratch / "home")
    home.create()
    home.settings.write_text(
        '[gateway]\nport = 0\n[control]\nport = 0\n[engine]\nbase = "small"\nthreads = 1\n'
        "[assembly]\nidle_s = 0.5\n"
    )
    Registry(home).add_directory(base_folder, "small", origin="test")
    appliance = Running(home, scratch)  # noqa: F811
    secret = appliance.write("passphrase", PASSPHRASE)
    for name, role in (("ada", "admin"), ("olga", "operator"), ("bela", "approver")):
        words = ("user", "add", name, "--role", role, "--new-passphrase-file", secret)
        assert appliance.run(*words, person="ada").code == 0
    up = appliance.run("up", "--json")
    assert up.code == 0, up.message
    appliance.started = up.json
    yield appliance
    assert appliance.run("down").code == 0


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


@pytest.fixture
def served(
    appliance: Appliance,  # noqa: F811
    gateway: GatewayProcess,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Ground:
    """The control plane's view of the home that the real gateway serves."""
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    monkeypatch.setattr(supervisor, "running", lambda _: {"gateway": [host, int(port)]})
    with appliance.database.write() as connection:
        for table in (tables.law, tables.proposals, tables.trajectories):
            connection.execute(table.delete())
    store = ObjectStore(appliance.home.objects)
    return Ground(appliance.home, appliance.settings, appliance.database, store)


@pytest.fixture
def released(
    appliance: Appliance,  # noqa: F811
    gateway: GatewayProcess,  # noqa: F811
    adapters: list[Digest],  # noqa: F811
) -> Digest:
    now = gateway.admin("GET", "/releases")["adapter"]
    if now is None:
        gateway.release(appliance, adapters[0])
    return adapters[0]


@pytest.fixture
def olga(ground: Ground) -> Iterator[Browser]:
    browser = Browser.signed_in(ground, "olga", "operator")
    yield browser
    browser.client.close()


@pytest.fixture
def bela(ground: Ground) -> Iterator[Browser]:
    browser = Browser.signed_in(ground, "bela", "approver")
    yield browser
    browser.client.close()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program that reads a suite as evaluation does."""
    for module in (suites, proposals):
        monkeypatch.setattr(module, "require_sound_suite", lambda *_: None)
