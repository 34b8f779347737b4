"""How alembic runs the migrations: over the connection that `migrate` hands in, within its transaction."""

from alembic import context

from callboard.orchestrator.store.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
