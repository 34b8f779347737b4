"""Tasks that wait for an answer, and what was asked and answered.

The constraints of live tasks know the new state; every row that satisfied the old ones satisfies these. That is looked
up afterwards (`large_tables`).
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DIALOGUES = """
CREATE TABLE task_dialogue (
    pool text NOT NULL,
    task_id uuid NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (pool, task_id)
)
"""

_STATES = """
ALTER TABLE task
    DROP CONSTRAINT task_is_live,
    DROP CONSTRAINT task_held_by_an_agent,
    DROP CONSTRAINT task_runs_since,
    ADD CONSTRAINT task_is_live CHECK (state IN ({live})) NOT VALID,
    ADD CONSTRAINT task_held_by_an_agent CHECK (
        CASE WHEN state IN ({held})
        THEN agent_id IS NOT NULL AND incarnation IS NOT NULL AND assigned_ms IS NOT NULL AND attempt >= 1
        ELSE agent_id IS NULL AND incarnation IS NULL AND assigned_ms IS NULL AND started_ms IS NULL END
    ) NOT VALID,
    ADD CONSTRAINT task_runs_since CHECK ((state IN ({accepted})) <= (started_ms IS NOT NULL)) NOT VALID
"""


def _states(*accepted: str) -> str:
    """The constraints for the states in which an agent has accepted its attempt."""
    held = ("assigned", *accepted)
    names = {"accepted": accepted, "held": held, "live": ("queued", "deferred", *held)}
    return _STATES.format(**{name: ", ".join(f"'{state}'" for state in states) for name, states in names.items()})


def upgrade() -> None:
    """Make the table, and allow the state."""
    op.execute(_DIALOGUES)
    op.execute(_states("running", "waiting_input"))


def downgrade() -> None:
    """What waits for an answer runs on without one; what was asked is forgotten."""
    op.execute("UPDATE task SET state = 'running' WHERE state = 'waiting_input'")
    op.execute(_states("running"))
    op.execute("DROP TABLE task_dialogue")
