"""Concurrency keys and the scores of a placement.

A replica of the version before goes on writing meanwhile: every new column may be null. The indexes to read the live
tasks piece by piece are built afterwards (`large_tables`).
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE task
    ADD COLUMN concurrency_key text,
    ADD COLUMN concurrency_limit bigint,
    ADD COLUMN scores bytea,
    ADD CONSTRAINT task_concurrency_limit_check CHECK (concurrency_limit >= 1) NOT VALID,
    ADD CONSTRAINT task_key_and_limit CHECK ((concurrency_key IS NULL) = (concurrency_limit IS NULL)) NOT VALID
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


def upgrade() -> None:
    """Make them."""
    op.execute(_COLUMNS)
    op.execute(_HOLDS)


def downgrade() -> None:
    """Limits are forgotten; tasks stay."""
    op.execute("DROP INDEX IF EXISTS task_state, task_concurrency, task_agenda")
    op.execute("DROP TABLE key_hold")
    op.execute("ALTER TABLE task DROP COLUMN concurrency_key, DROP COLUMN concurrency_limit, DROP COLUMN scores")
