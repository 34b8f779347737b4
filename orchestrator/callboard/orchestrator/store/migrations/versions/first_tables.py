"""The first tables: leases, live tasks, their history, keys, agents.

CHECKs refuse rows that no sequence of events leads to: a bug must not become a fact.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LEASES = """
CREATE TABLE pool_lease (
    pool text PRIMARY KEY,
    holder text,
    replica text NOT NULL,
    epoch bigint NOT NULL CHECK (epoch >= 1),
    batch bigint NOT NULL CHECK (batch >= 0),
    since_ms bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 20)
"""

_COMMON = """
    id uuid NOT NULL,
    pool text NOT NULL,
    type text NOT NULL,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 3),
    state text NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    attempt bigint NOT NULL CHECK (attempt >= 0),
    agent_id text,
    incarnation text,
    created_ms bigint NOT NULL,
    started_ms bigint,
    updated_ms bigint NOT NULL,
    reason text,
    spec bytea NOT NULL,
    payload bytea NOT NULL,
    progress bytea,
    attempts text[] NOT NULL CHECK (cardinality(attempts) <= 20),
    retry_of uuid,
    epoch bigint NOT NULL,
    batch bigint NOT NULL,
"""

_TASKS = f"""
CREATE TABLE task ({_COMMON}
    order_ms bigint NOT NULL CHECK (order_ms >= created_ms),
    placement bytea NOT NULL CHECK (octet_length(placement) = 16),
    assigned_ms bigint,
    deadline_ms bigint,
    until_ms bigint,
    spent bigint NOT NULL CHECK (spent >= 0),
    crashes bigint NOT NULL CHECK (crashes >= 0),
    crashed_on text[] NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT task_is_live CHECK (state IN ('queued', 'deferred', 'assigned', 'running')),
    CONSTRAINT task_held_by_an_agent CHECK (
        CASE WHEN state IN ('assigned', 'running')
        THEN agent_id IS NOT NULL AND incarnation IS NOT NULL AND assigned_ms IS NOT NULL AND attempt >= 1
        ELSE agent_id IS NULL AND incarnation IS NULL AND assigned_ms IS NULL AND started_ms IS NULL END
    ),
    CONSTRAINT task_runs_since CHECK ((state = 'running') <= (started_ms IS NOT NULL)),
    CONSTRAINT task_deferred_until CHECK ((state = 'deferred') = (until_ms IS NOT NULL))
) WITH (
    fillfactor = 70,
    -- Every task is a few dead rows: without this they outnumber the live ones by far before vacuum comes.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 2000
)
"""

_HISTORY = f"""
CREATE TABLE task_history ({_COMMON}
    finished_ms bigint NOT NULL,
    result bytea,
    error bytea,
    PRIMARY KEY (id, finished_ms),
    CONSTRAINT task_history_is_final CHECK (state IN ('succeeded', 'failed', 'cancelled', 'expired', 'quarantined')),
    CONSTRAINT task_history_result CHECK ((state = 'succeeded') = (result IS NOT NULL))
) PARTITION BY RANGE (finished_ms)
"""

_KEYS = """
CREATE TABLE task_key (
    pool text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('client', 'retry')),
    key text NOT NULL,
    task_id uuid NOT NULL UNIQUE,
    digest bytea NOT NULL,
    claimed_ms bigint NOT NULL,
    finished_ms bigint,
    PRIMARY KEY (pool, scope, key)
)
"""

_AGENTS = """
CREATE TABLE agent (
    pool text NOT NULL,
    agent_id text NOT NULL,
    state text NOT NULL CHECK (
        state IN ('starting', 'online', 'suspect', 'offline', 'draining', 'quarantined', 'stopped')
    ),
    incarnation text,
    replaced bytea NOT NULL,
    role text,
    capabilities bytea NOT NULL,
    labels bytea NOT NULL,
    metadata bytea NOT NULL,
    slots bigint NOT NULL CHECK (slots >= 1),
    version text,
    operator_drain boolean NOT NULL,
    own_drain boolean NOT NULL,
    spawned boolean NOT NULL,
    seen_ms bigint NOT NULL,
    PRIMARY KEY (pool, agent_id)
)
"""

_STATEMENTS = (
    _LEASES,
    _TASKS,
    # The order in which a placement class is served (protocol, section 4).
    "CREATE INDEX task_queue ON task (pool, placement, priority DESC, order_ms, id) WHERE state = 'queued'",
    "CREATE INDEX task_newest ON task (pool, created_ms DESC, id DESC)",
    _HISTORY,
    "CREATE INDEX task_history_newest ON task_history (pool, created_ms DESC, id DESC)",
    # Takes what ends before its day has a partition, or at an impossible time: nothing is refused for that.
    "CREATE TABLE task_history_default PARTITION OF task_history DEFAULT",
    _KEYS,
    "CREATE INDEX task_key_finished ON task_key (finished_ms) WHERE finished_ms IS NOT NULL",
    _AGENTS,
)


def upgrade() -> None:
    """Make them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """There is nothing before."""
    raise NotImplementedError("the first tables hold the tasks: drop the database instead")
