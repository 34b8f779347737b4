"""What is paused: a pool, or a type of task in it."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; an empty `type` stands for the whole pool."""
    op.execute("CREATE TABLE pool_pause (pool text NOT NULL, type text NOT NULL, PRIMARY KEY (pool, type))")


def downgrade() -> None:
    """Nothing stays paused."""
    op.execute("DROP TABLE pool_pause")
