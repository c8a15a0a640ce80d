"""Killed before sealing: nothing acknowledged is lost, nothing is there twice."""

import time
from collections.abc import Sequence
from pathlib import Path

from appliance.control import local_http
from appliance.core.home import Home
from appliance.demo.house import House
from tests.storm.books import Account, Books
from tests.storm.clients import Clients
from tests.storm.ledger import Ledger
from tests.storm.plan import Kill
from tests.storm.victims import StormError, Victims
from tests.storm.voice import Voice

NUM_CLIENTS = 8
_TICK_S = 0.01
_MARGIN = 3
"""Pieces of work for each agent beyond the moment of a kill, so that it falls into work."""
_NEVER_S = 86_400.0


def storm_before(
    house: House, recorded: Path, kills: Sequence[Kill], *, seed: int, voice: Voice
) -> tuple[Account, Ledger]:
    """Agents work through the input while processes are killed; then everything is sealed."""
    ledger, victims, home = Ledger(), Victims(house), Home(house.home)
    books = Books(home)
    clients = Clients(
        recorded,
        base_url=house.base_url,
        api_key=house.api_key,
        num=NUM_CLIENTS,
        seed=seed,
        ledger=ledger,
    )
    voice.say(f"{clients.num_pieces} pieces of recorded work, {NUM_CLIENTS} agents")
    clients.start()
    lost: set[str] = set()
    doubled: set[str] = set()
    for kill in kills:
        _wait_for(kill, clients, ledger)
        in_flight = ledger.in_flight
        pid = victims.kill(kill.process)
        if pid is None:
            raise StormError(f"{kill.process} does not run, so it cannot be killed")
        promised = ledger.snapshot()
        gap_s = victims.wait_until_whole(kill.process, pid)
        flush(home, idle_s=_NEVER_S)
        account = books.taken_in(promised)
        lost |= account.lost
        doubled |= account.doubled
        state = f"{in_flight} in flight"
        voice.killed(kill, pid, state, f"whole in {gap_s:.1f} s; {describe(promised, account)}")
    clients.finish()
    flush(home, idle_s=0.0)
    account = books.sealed(ledger)
    books.close()
    voice.say(
        f"sealed: {describe(ledger, account)}; {account.unacknowledged} more that no client has; "
        f"{sum(ledger.failures.values())} requests broke: {ledger.failures}"
    )
    return Account(account.lost | lost, account.doubled | doubled), ledger


def flush(home: Home, *, idle_s: float) -> None:
    """Everything in the log is taken in; what was quiet for so long is sealed."""
    local_http.over_socket(home.socket("collectors"), "POST", "/flush", {"idle_s": idle_s})


def describe(promised: Ledger, account: Account) -> str:
    """One clause."""
    return (
        f"{len(promised.turns)} turns and {len(promised.feedback)} feedback acknowledged: "
        f"{len(account.lost)} lost, {len(account.doubled)} doubled"
    )


def _wait_for(kill: Kill, clients: Clients, ledger: Ledger) -> None:
    """Until the kill's share of the input is done, and more of it is under way."""
    moment = round(kill.share * clients.num_pieces)
    clients.deal(moment + _MARGIN * NUM_CLIENTS)
    while ledger.pieces < moment:
        clients.raise_errors()
        time.sleep(_TICK_S)
    time.sleep(kill.delay_s)
