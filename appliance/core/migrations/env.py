"""Alembic's entry: runs migrations on the connection that `Database` hands over."""

from alembic import context

from appliance.core.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
