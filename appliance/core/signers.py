"""Who may approve now, and since when: the same answer for control and for serving."""

import sqlalchemy as sa

from appliance.core.tables import users


def signers(connection: sa.Connection, roles: frozenset[str]) -> dict[str, float]:
    """People of these roles who may sign in, each with the moment of their last change."""
    query = sa.select(users.c.name, users.c.changed_at).where(
        users.c.role.in_(roles), users.c.ended_at.is_(None)
    )
    return {row.name: row.changed_at for row in connection.execute(query)}
