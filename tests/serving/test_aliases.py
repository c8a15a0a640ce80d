"""Names: versions by their number, teams' own aliases, and what none of them may do."""

from collections.abc import Iterator

import openai
import pytest
import sqlalchemy as sa

from appliance.core.decisions import Release
from appliance.core.digests import Digest, digest_bytes, short
from appliance.core.tables import adapters as adapters_table
from serving import journal
from serving.keys import add_key
from tests.serving.asking import ask, generation, wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.rolling import entries, settle

TEAM_ALIAS = "payments-model"


@pytest.fixture(scope="module")
def gateway(appliance: Appliance, engine: EngineSimulator) -> Iterator[GatewayProcess]:
    settle(appliance, f'[gateway.team_aliases]\n{TEAM_ALIAS} = "payments"\n')
    process = GatewayProcess(appliance)
    process.start()
    yield process
    assert process.stop() == 0, process.log


@pytest.fixture(scope="module")
def payments(appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI) -> openai.OpenAI:
    """An agent of the team that has a model of its own."""
    secret, _ = add_key(
        appliance.database, team="payments", project="p", agent="a", label="internal", exact=False,
        actor="test",
    )  # fmt: skip
    gateway.admin("POST", "/keys/reload")
    return client.with_options(api_key=secret)


def number_of(appliance: Appliance, adapter: Digest) -> int:
    with appliance.database.read() as connection:
        query = sa.select(adapters_table.c.number).where(adapters_table.c.content == adapter)
        return int(connection.scalar(query) or 0)


def test_a_version_is_addressed_by_its_number(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    gateway.release(appliance, adapters[0])
    gateway.release(appliance, adapters[1])
    gateway.release(appliance, adapters[2])
    number = number_of(appliance, adapters[0])
    raw = client.chat.completions.with_raw_response.create(
        model=f"{ALIAS}@{number}", messages=[{"role": "user", "content": "who are you?"}]
    )
    assert raw.headers["x-espalier-adapter"] == adapters[0]
    assert raw.parse().choices[0].message.content == f"I am {short(adapters[0])}"
    assert client.models.retrieve(f"{ALIAS}@{number}").id == f"{ALIAS}@{number}"


@pytest.mark.parametrize("name", ["999", "0", "007", "-1", "1e3", "٣", "17 ", "sha256:17", ""])
def test_an_unknown_version_is_not_found(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError, match="no model") as caught:
        ask(client, f"{ALIAS}@{name}")
    assert caught.value.code == "model_not_found"
    assert ask(client).startswith("I am")


def test_a_number_is_an_exact_version(client: openai.OpenAI, payments: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="not an exact version"):
        ask(payments, f"{ALIAS}@1")


def test_an_alias_is_for_its_team_alone(client: openai.OpenAI, payments: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="team 'payments'"):
        ask(client, TEAM_ALIAS)
    assert [model.id for model in payments.models.list()] == [ALIAS, TEAM_ALIAS]
    assert TEAM_ALIAS not in {model.id for model in client.models.list()}


def test_each_alias_moves_alone_and_keeps_what_it_needs(
    appliance: Appliance,
    gateway: GatewayProcess,
    engine: EngineSimulator,
    client: openai.OpenAI,
    payments: openai.OpenAI,
    adapters: list[Digest],
) -> None:
    assert ask(payments, TEAM_ALIAS) == "I am base"
    gateway.release(appliance, adapters[3])
    now = gateway.admin("GET", f"/releases?alias={TEAM_ALIAS}")["generation"]
    gateway.release(appliance, adapters[4], alias=TEAM_ALIAS, expected_generation=now)
    gateway.release(appliance, adapters[5])
    gateway.release(appliance, adapters[6])
    assert ask(payments, TEAM_ALIAS) == f"I am {short(adapters[4])}"
    assert ask(payments) == ask(client) == f"I am {short(adapters[6])}"
    wait_until(lambda: set(engine.holders) == {adapters[4], adapters[5], adapters[6]})
    order = {"actor": "ada", "reason": "worse"}
    gateway.admin("POST", "/rollback", order)
    assert ask(payments, TEAM_ALIAS) == f"I am {short(adapters[4])}"
    gateway.admin("POST", "/kill", {**order, "alias": TEAM_ALIAS})
    assert ask(payments, TEAM_ALIAS) == "I am base"
    assert ask(client) == f"I am {short(adapters[5])}"
    with pytest.raises(RuntimeError, match="no alias 'nobody'") as caught:
        gateway.admin("POST", "/kill", {**order, "alias": "nobody"})
    assert caught.value.args[0] == 404
    assert [entry.reason for entry in entries(gateway, TEAM_ALIAS)] == ["start", "release", "kill"]


def test_another_teams_version_cannot_be_named(
    appliance: Appliance,
    gateway: GatewayProcess,
    client: openai.OpenAI,
    payments: openai.OpenAI,
) -> None:
    theirs = appliance.add_adapter(200)
    appliance.add_round(theirs)
    # A round's candidate that nobody released yet.
    assert ask(client, f"{ALIAS}@{theirs}") == f"I am {short(theirs)}"
    assert f"{ALIAS}@{theirs}" in {model.id for model in client.models.list()}
    now = gateway.admin("GET", f"/releases?alias={TEAM_ALIAS}")["generation"]
    gateway.release(appliance, theirs, alias=TEAM_ALIAS, expected_generation=now)
    assert ask(payments, TEAM_ALIAS) == f"I am {short(theirs)}"
    for name in (theirs, number_of(appliance, theirs)):
        with pytest.raises(openai.NotFoundError, match="no model"):
            ask(client, f"{ALIAS}@{name}")
    assert f"{ALIAS}@{theirs}" not in {model.id for model in client.models.list()}
    order = {"actor": "ada", "reason": "the test is over", "alias": TEAM_ALIAS}
    gateway.admin("POST", "/kill", order)


def test_where_the_journal_is_ahead_it_is_followed(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    """Somebody else wrote to it: a stale move is refused, and what it says is served."""
    stale = generation(gateway)
    last = journal.current(appliance.database, ALIAS)
    assert last is not None
    journal.append(
        appliance.database,
        Release(
            alias=ALIAS, generation=stale + 1, adapter=adapters[7], previous=last.adapter,
            reason="release", approvals=(digest_bytes(b"a"),), actor="elsewhere", at=1.0,
        ),
    )  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        gateway.release(appliance, adapters[0], expected_generation=stale)
    assert caught.value.args[0] == 409
    wait_until(lambda: ask(client) == f"I am {short(adapters[7])}")
    gateway.release(appliance, adapters[0])
    assert ask(client) == f"I am {short(adapters[0])}"


def test_a_full_disk_leaves_the_old_version(
    appliance: Appliance, gateway: GatewayProcess, client: openai.OpenAI, adapters: list[Digest]
) -> None:
    before = entries(gateway)[-1]
    limit = gateway.limit_file_size(1)
    try:
        with pytest.raises(RuntimeError, match="cannot be written") as caught:
            gateway.release(appliance, adapters[1])
        assert caught.value.args[0] == 503
        with pytest.raises(RuntimeError, match="cannot be written"):
            gateway.admin("POST", "/rollback", {"actor": "ada", "reason": "worse"})
        assert client.models.retrieve(ALIAS).id == ALIAS
        assert gateway.admin("GET", "/health")["ready"]
    finally:
        gateway.limit_file_size(limit)
    assert entries(gateway)[-1] == before
    assert ask(client) == f"I am {short(before.adapter or 'base')}"
    gateway.release(appliance, adapters[1])
    assert ask(client) == f"I am {short(adapters[1])}"
