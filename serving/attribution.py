"""Which version a feedback is about: the one that wrote the answer.

The newest answers are remembered here, because feedback often comes before the collectors have
filed the turn; older ones are looked up in the database.
"""

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.records import Feedback
from appliance.core.tables import turns

if TYPE_CHECKING:
    from serving.exchange import Exchange

_REMEMBERED = 16_384
_Name = tuple[str, str]
"""``("", turn_id)``, or key_id and session: a session is its key's own."""


class Attribution:
    """Lives on the gateway's event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest: OrderedDict[_Name, Digest | None] = OrderedDict()

    def note(self, exchange: "Exchange") -> None:
        """Remember who wrote this answer."""
        names = [("", exchange.request_id)]
        if exchange.session is not None:
            names.append((exchange.key.key_id, exchange.session))
        for name in names:
            self._newest[name] = exchange.adapter
            self._newest.move_to_end(name)
        while len(self._newest) > _REMEMBERED:
            self._newest.popitem(last=False)

    async def adapters_of(self, feedback: Feedback) -> list[Digest | None]:
        """The version that the target's last answer is of; empty where nothing says it."""
        target = feedback.target
        for name in (("", target.turn_id), (feedback.actor, target.session)):
            if name in self._newest:
                return [self._newest[name]]  # type: ignore[index]
        return await asyncio.to_thread(self._look_up, feedback)

    def _look_up(self, feedback: Feedback) -> list[Digest | None]:
        target = feedback.target
        if target.turn_id:
            about = turns.c.turn_id == target.turn_id
        elif target.trajectory_id:
            about = turns.c.trajectory_id == target.trajectory_id
        elif target.session:
            about = sa.and_(turns.c.session == target.session, turns.c.key_id == feedback.actor)
        else:
            return []
        last = sa.select(turns.c.adapter).where(about).order_by(turns.c.ended_at.desc()).limit(1)
        with self._database.read() as connection:
            return list(connection.scalars(last))
