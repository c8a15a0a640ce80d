"""`espalier status`: what each alias means, and who is stopped, by whom and why."""

import pytest

from appliance.control import show
from appliance.control.running import _status
from appliance.control.steps import Ground
from appliance.core.decisions import Release
from appliance.core.digests import digest_bytes, short
from serving import journal
from serving.keys import Scope, add_key
from serving.pauses import list_pauses, pause

STATE = {"gateway": ["127.0.0.1", 8600], "control": ["127.0.0.1", 8601], "parts": []}
ADAPTER = digest_bytes(b"payments")


def test_it_shows_team_aliases_and_whom_somebody_stopped(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    ground.home.settings.write_text(
        '[gateway.team_aliases]\npayments-model = "payments"\nsales-model = "sales"\n'
    )
    journal.append(
        ground.database,
        Release(
            alias="payments-model", generation=1, adapter=ADAPTER, previous=None,
            reason="release", approvals=(digest_bytes(b"a"),), actor="ada", at=1.0,
        ),
    )  # fmt: skip
    for team, agent in (("sales", "coder"), ("payments", "writer")):
        add_key(
            ground.database, team=team, project="p", agent=agent, label="internal", exact=False,
            actor="test",
        )  # fmt: skip
    pause(ground.database, Scope("agent", "coder"), killed=False, actor="ada", reason="it loops")
    pause(ground.database, Scope("team", "payments"), killed=True, actor="bo", reason="leaked key")

    value = _status(ground.home, STATE)
    assert [(a["alias"], a["team"], a["serving"]) for a in value["team_aliases"]] == [
        ("payments-model", "payments", ADAPTER),
        ("sales-model", "sales", None),
    ]
    assert [(s["kind"], s["name"], s["killed"], s["actor"]) for s in value["stopped"]] == [
        ("agent", "coder", False, "ada"),
        ("team", "payments", True, "bo"),
    ]
    show.status(value)
    said = capsys.readouterr().out
    assert "company-model means the base" in said
    assert f"payments-model means {short(ADAPTER)}   team payments\n" in said
    assert "sales-model means the base   team sales\n" in said
    assert "agent 'coder' was paused by ada, since " in said
    assert "team 'payments' was killed by bo, since " in said
    assert ": leaked key\n" in said
    assert [s["message"] for s in value["stopped"]] == [
        one.message for one in list_pauses(ground.database)
    ]


def test_a_home_of_its_own_alias_alone_shows_no_others(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    value = _status(ground.home, STATE)
    assert (value["team_aliases"], value["stopped"]) == ([], [])
    show.status(value)
    assert "team" not in capsys.readouterr().out
