"""Concurrency keys and the scores of a placement; indexes to read the live tasks piece by piece.

A replica of the version before goes on writing meanwhile: every new column may be null.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE task
    ADD COLUMN concurrency_key text,
    ADD COLUMN concurrency_limit bigint CHECK (concurrency_limit >= 1),
    ADD COLUMN scores bytea,
    ADD CONSTRAINT task_key_and_limit CHECK ((concurrency_key IS NULL) = (concurrency_limit IS NULL))
"""

_HOLDS = """
CREATE TABLE key_hold (
    pool text NOT NULL,
    agent_id text NOT NULL,
    task_id uuid NOT NULL,
    attempt bigint NOT NULL,
    key text NOT NULL,
    PRIMARY KEY (pool, agent_id, task_id, attempt)
)
"""

_CONCURRENCY = """
CREATE INDEX task_concurrency ON task (pool, concurrency_key, concurrency_limit) WHERE concurrency_key IS NOT NULL
"""

_AGENDA = """
CREATE INDEX task_agenda ON task (pool, LEAST(until_ms, deadline_ms), id)
    WHERE state IN ('queued', 'deferred') AND LEAST(until_ms, deadline_ms) IS NOT NULL
"""

_STATEMENTS = (
    _COLUMNS,
    _HOLDS,
    # Equal entries share their place in an index: this one stays small however deep the queue is.
    "CREATE INDEX task_state ON task (pool, state)",
    _CONCURRENCY,
    # The waiting tasks that time will change, the next one first.
    _AGENDA,
)


def upgrade() -> None:
    """Make them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Limits are forgotten; tasks stay."""
    op.execute("DROP INDEX task_state, task_concurrency, task_agenda")
    op.execute("DROP TABLE key_hold")
    op.execute("ALTER TABLE task DROP COLUMN concurrency_key, DROP COLUMN concurrency_limit, DROP COLUMN scores")
