"""What the gateway counts, who may read it, and that the board and the alerts speak of it."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import openai
import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

import serving
from appliance.core.database import Database
from appliance.core.digests import Digest, digest_bytes
from appliance.core.tables import adapters as adapters_table
from appliance.core.tables import turns
from appliance.ingest import IngestCounts
from serving.keys import add_key
from serving.metrics import KINDS
from serving.version_names import MAX_GUESTS, MAX_NAMES, VersionNames
from serving.versions import Versions
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say, wait_for_key
from tests.serving.engine_simulator import EngineSimulator

GRAFANA = Path(serving.__file__).parent / "grafana"
BOARD = json.loads((GRAFANA / "board.json").read_text())
RULES = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ON_THE_BOARD = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTING = [rule["expr"] for rule in RULES]
VALUES = {
    "outcome": {"2xx", "4xx", "5xx", "left", "ok", "failed", "unknown"},
    "kind": {*KINDS, "other", "prompt", "cached", "completion"},
    "what": set(IngestCounts.__struct_fields__),
    "version": {"none", "other", "base"},
}
"""What may stand in a label; a rule about anything else would never fire."""

Labels = dict[str, str]


class Read:
    """``/metrics``, read once."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self) -> dict[str, set[str]]:
        """Label names by series."""
        found: dict[str, set[str]] = {}
        for sample in self.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        return found


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and text; 0 while nobody listens."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", f"/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionRefusedError:
        return 0, ""
    finally:
        connection.close()


def read(gateway: GatewayProcess) -> Read:
    status, text = get(f"{gateway.url}/metrics")
    assert status == 200
    return Read(text)


def ask(client: openai.OpenAI, text: str = "hello", model: str = ALIAS, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=say(text), **more)


@pytest.fixture(scope="module")
def seventeen(
    appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
) -> Iterator[str]:
    """The number, as a label, of an adapter that is served."""
    gateway.admin("POST", "/keys/reload")
    gateway.release(appliance, adapters[3])
    with appliance.database.read() as connection:
        yield str(
            connection.scalar(
                sa.select(adapters_table.c.number).where(adapters_table.c.content == adapters[3])
            )
        )


def test_an_answer_is_counted_under_its_version(
    client: openai.OpenAI, gateway: GatewayProcess, seventeen: str, appliance: Appliance
) -> None:
    before = read(gateway)
    whole = ask(client)
    list(ask(client, stream=True))
    ask(client, model=f"{ALIAS}@base")
    after = read(gateway)

    def grew(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    of = {"version": seventeen}
    assert grew("espalier_requests_total", **of, route="chat", outcome="2xx") == 2
    assert grew("espalier_requests_total", version="base", route="chat", outcome="2xx") == 1
    assert grew("espalier_requests_total") == 3
    assert grew("espalier_tokens_total", **of, kind="prompt") == 2 * whole.usage.prompt_tokens
    assert (
        grew("espalier_tokens_total", **of, kind="completion") == 2 * whole.usage.completion_tokens
    )
    assert grew("espalier_tokens_total", **of, kind="cached") == 2 * 3
    assert grew("espalier_request_seconds_count", **of, route="chat") == 2
    assert grew("espalier_first_token_seconds_count", **of, route="chat") == 2
    assert grew("espalier_ingest_records_total", what="appended") == 3
    assert grew("espalier_errors_total") == 0
    assert after.value("espalier_rollout_share", alias=ALIAS, version=seventeen) == 1
    assert after.value("espalier_ready", alias=ALIAS) == 1
    generation = gateway.admin("GET", "/releases")["generation"]
    assert after.value("espalier_release_generation", alias=ALIAS) == generation


def test_errors_are_counted_by_type_with_and_without_a_version(
    client: openai.OpenAI, gateway: GatewayProcess, seventeen: str
) -> None:
    before = read(gateway)
    with pytest.raises(openai.BadRequestError):
        ask(client, temperature=9)
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="esp-wrong"))
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-4o")
    after = read(gateway)
    for kind, count in (("invalid_request_error", 2), ("authentication_error", 1)):
        of = {"kind": kind, "version": "none"}
        assert after.value("espalier_errors_total", **of) == count + before.value(
            "espalier_errors_total", **of
        )
    of = {"outcome": "4xx", "version": "none"}
    assert after.value("espalier_requests_total", **of) == 3 + before.value(
        "espalier_requests_total", **of
    )


def test_who_leaves_and_what_is_under_way(
    client: openai.OpenAI, gateway: GatewayProcess, engine: EngineSimulator, seventeen: str
) -> None:
    before, left = read(gateway), engine.left_early
    with client.chat.completions.create(
        model=ALIAS, messages=say("x" * 500, 0.01), stream=True
    ) as stream:
        next(iter(stream))
        now = read(gateway)
        assert (now.value("espalier_under_way"), now.value("espalier_waiting")) == (1, 0)
    wait_until(lambda: engine.left_early > left)
    wait_until(lambda: read(gateway).value("espalier_under_way") == 0)
    of = {"outcome": "left", "version": seventeen}
    assert read(gateway).value("espalier_requests_total", **of) == 1 + before.value(
        "espalier_requests_total", **of
    )


def test_feedback_counts_for_the_version_that_wrote_the_answer(
    client: openai.OpenAI, gateway: GatewayProcess, appliance: Appliance, seventeen: str
) -> None:
    def counted(version: str, outcome: str = "ok") -> float:
        return read(gateway).value("espalier_feedback_total", version=version, outcome=outcome)

    def say_ok(**target: str) -> None:
        client.post("/feedback", body={"target": target, "outcome": "ok"}, cast_to=object)

    before = {version: counted(version) for version in (seventeen, "base", "none")}
    answer = ask(client, extra_headers={"x-espalier-session": "s"})
    say_ok(turn_id=answer.id)
    say_ok(session="s")
    assert counted(seventeen) == before[seventeen] + 2
    base = ask(client, model=f"{ALIAS}@base", extra_headers={"x-espalier-session": "s"})
    say_ok(turn_id=base.id)
    say_ok(session="s")
    assert counted("base") == before["base"] + 2
    say_ok(turn_id="nobody's")
    say_ok(reference="a commit")
    assert counted("none") == before["none"] + 2
    # One that is older than the gateway's memory is looked up where the collectors filed it.
    with appliance.database.read() as connection:
        adapter = connection.scalar(
            sa.select(adapters_table.c.content).where(adapters_table.c.number == int(seventeen))
        )
    with appliance.database.write() as connection:
        connection.execute(
            sa.insert(turns).values(
                turn_id="old", choice=0, trajectory_id="t-old", key_id="k", adapter=adapter,
                started_at=1.0, ended_at=2.0,
            )
        )  # fmt: skip
    say_ok(turn_id="old")
    say_ok(trajectory_id="t-old")
    assert counted(seventeen) == before[seventeen] + 4
    gateway.admin(
        "POST", "/feedback",
        {"target": {"turn_id": answer.id}, "outcome": "failed", "actor": "person:ada"},
    )  # fmt: skip
    assert counted(seventeen, "failed") == 1


def test_no_label_names_a_key_a_session_or_a_text(
    client: openai.OpenAI, gateway: GatewayProcess, appliance: Appliance
) -> None:
    session = "a-very-private-session"
    ask(client, "a very private text", extra_headers={"x-espalier-session": session})
    with pytest.raises(openai.NotFoundError):
        ask(client, model="a-very-private-model")
    _, text = get(f"{gateway.url}/metrics")
    assert "private" not in text
    assert "key-" not in text
    assert client.api_key not in text


def test_who_may_read_the_metrics(appliance: Appliance, gateway: GatewayProcess) -> None:
    def key(*, metrics: bool) -> str:
        secret, _ = add_key(
            appliance.database, team="t", project="p", agent="a", label="internal", exact=True,
            metrics=metrics, actor="test",
        )  # fmt: skip
        wait_for_key(gateway, secret)
        return secret

    def status(**headers: str) -> int:
        return get(f"{gateway.url}/metrics", **headers)[0]

    assert status() == 200
    # Through a proxy on this machine anybody comes from loopback.
    proxied = {"x-forwarded-for": "203.0.113.7"}
    assert status(**proxied) == 401
    assert status(**proxied, authorization=f"Bearer {key(metrics=False)}") == 403
    assert status(**proxied, authorization=f"Bearer {key(metrics=True)}") == 200


@pytest.mark.parametrize("expr", [*ON_THE_BOARD, *ALERTING])
def test_what_is_asked_for_exists(
    client: openai.OpenAI, gateway: GatewayProcess, seventeen: str, expr: str
) -> None:
    every_kind_of_end(client)
    known = read(gateway).labels()
    asked = re.findall(r"\b((?:espalier|process)_\w+)(?:\{([^}]*)\})?", expr)
    assert asked
    for name, selector in asked:
        assert name in known, name
        for label, _, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', selector):
            assert label in known[name]
            if value != "$version":
                assert set(value.split("|")) <= VALUES[label]
    for label in re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expr))):
        assert all(label in known[name] for name, _ in asked), label


def test_every_metric_is_on_the_board(
    client: openai.OpenAI, gateway: GatewayProcess, seventeen: str
) -> None:
    every_kind_of_end(client)
    names = {family.name for family in read(gateway).families if "espalier" in family.name}
    assert len(names) > 12
    assert {name for name in names if name not in " ".join(ON_THE_BOARD)} == set()


def every_kind_of_end(client: openai.OpenAI) -> None:
    """A series exists once something was counted in it."""
    answer = ask(client)
    client.post(
        "/feedback", body={"target": {"turn_id": answer.id}, "outcome": "ok"}, cast_to=object
    )
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-4o")


def test_the_board_is_one_that_grafana_imports() -> None:
    assert BOARD["uid"]
    assert BOARD["title"]
    assert BOARD["schemaVersion"] >= 36
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert variables == {"datasource", "version"}
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in PANELS:
        assert panel["title"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    taken = [cell for panel in BOARD["panels"] for cell in cells(panel["gridPos"])]
    assert len(set(taken)) == len(taken)
    assert all(x < 24 for x, _ in taken)


def cells(at: dict[str, int]) -> list[tuple[int, int]]:
    return [
        (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    page = (Path(serving.__file__).parents[1] / "docs" / "monitoring.md").read_text()
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "action"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert f"`{rule['alert']}`" in page
        for opening, closing in ("()", "{}", "[]"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)


def test_versions_are_named_by_number_and_few_at_once(database: Database) -> None:
    made = [digest_bytes(bytes([n])) for n in range(40)]
    with database.write() as connection:
        for number, digest in enumerate(made[:-1], 1):
            connection.execute(
                sa.insert(adapters_table).values(
                    content=digest, number=number, base="b", parent=None, dataset="d",
                    label="internal", record="{}", created_at=1.0,
                )
            )  # fmt: skip
    versions = Versions(None)  # type: ignore[arg-type]
    names = VersionNames(database, versions)
    forgotten: list[str] = []
    names.on_forget = forgotten.append
    assert names.name(None) == "base"
    guests = [names.name(digest) for digest in made[: MAX_GUESTS + 4]]
    assert guests == [*map(str, range(1, MAX_GUESTS + 1)), *["other"] * 4]
    # What is released always has a name; the one named longest ago makes room for it.
    for digest in made[MAX_GUESTS + 4 : -1]:
        versions.keep(ALIAS, digest)
        assert names.name(digest) == str(made.index(digest) + 1)
        named = {names.name(one) for one in made} - {"other"}
        assert len(named) <= MAX_NAMES
    assert forgotten == list(map(str, range(1, len(forgotten) + 1)))
    assert len(forgotten) == 39 - MAX_GUESTS - 4 - 3
    # One that the trainer has just made is known after the next look.
    versions.keep(ALIAS, made[-1])
    assert names.name(made[-1]) == "other"
    with database.write() as connection:
        connection.execute(
            sa.insert(adapters_table).values(
                content=made[-1], number=40, base="b", parent=None, dataset="d", label="internal",
                record="{}", created_at=1.0,
            )
        )  # fmt: skip
    names.reload()
    assert names.name(made[-1]) == "40"


def test_alive_before_it_is_ready(
    appliance: Appliance, engine: EngineSimulator, gateway: GatewayProcess
) -> None:
    gateway.stop()
    engine.stop()
    begun = len(gateway.log)
    starting = Thread(target=gateway.start)
    starting.start()
    try:
        wait_until(lambda: "gateway on" in gateway.log[begun:], 20)
        url = re.findall(r"gateway on (http://[\d.:]+)", gateway.log[begun:])[0]
        wait_until(lambda: get(f"{url}/livez") == (200, "ok\n"))
        wait_until(lambda: "engine" in get(f"{url}/readyz")[1])
        assert get(f"{url}/readyz")[0] == 503
        assert Read(get(f"{url}/metrics")[1]).value("espalier_ready") == 0
    finally:
        engine.start()
        starting.join()
    assert get(f"{url}/readyz") == (200, "ok\n")
    assert get(f"{url}/health") == (200, '{"ready":true}')
