"""The outbox: what was committed and is not known to be published.

A replica of the version before publishes its events without keeping them, and leaves alone what is kept here.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OUTBOX = """
CREATE TABLE event_outbox (
    pool text NOT NULL,
    epoch bigint NOT NULL,
    batch bigint NOT NULL,
    at_ms bigint NOT NULL,
    events bytea NOT NULL CHECK (octet_length(events) > 0),
    unwritten uuid[] NOT NULL,
    PRIMARY KEY (pool, epoch, batch)
) WITH (
    -- Every row lives for a moment: nearly all are dead, and vacuum must not wait for a share of those that live.
    fillfactor = 100,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 20000,
    toast.autovacuum_vacuum_cost_delay = 0
)
"""


def upgrade() -> None:
    """Make the table; its events come compressed."""
    op.execute(_OUTBOX)
    op.execute("ALTER TABLE event_outbox ALTER COLUMN events SET STORAGE EXTERNAL")


def downgrade() -> None:
    """What is not published yet is lost."""
    op.execute("DROP TABLE event_outbox")
