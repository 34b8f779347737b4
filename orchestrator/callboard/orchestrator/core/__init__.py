"""The scheduling core of one pool: a state machine without I/O, clock, randomness or logging.

Rules:

- `Machine.handle(event, now_ms)` is the only way in. Time, ids and seeds are values that events bring.
- Decisions become one `Batch`: the rows to write and the effects. What depends on the write happens after its commit.
- `moves.move` is the only place that changes a task's state, and only along the table in `transitions`.
- Memory is ahead of the database by at most the open batch and the one being decided; every record knows in which
  batch it changed last, so that answers which do not wait for a commit can be computed from committed state.
"""
