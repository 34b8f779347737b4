"""Pausing a pool, or a type of task in it: nothing new is assigned; what runs goes on. Doing it again changes nothing.

A pause of the pool and a pause of a type are apart: resuming one leaves the other.
"""

from callboard.orchestrator.core.events import PoolPauseRequested
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.queue import WHOLE_POOL
from callboard.schemas.pools import PoolChange, PoolState


def on_pause(pool: Pool, event: PoolPauseRequested, _now_ms: int) -> None:
    """Pause or resume, at the commit."""
    what = event.type or WHOLE_POOL
    changed = pool.queue.set_paused(what, paused=event.paused)
    if changed:
        pool.dirty_pauses[what] = event.paused
        pool.is_urgent = True
    state = PoolState.PAUSED if event.paused else PoolState.ACTIVE
    pool.answer(event.ticket, PoolChange(pool=pool.name, state=state, changed=changed, type=event.type))
