"""Replicas that serve our pools from another database: two truths of one pool, of which no lease knows. Pure.

Rules:
- Replicas with another identity are strangers. With pools of their own they are none of our business: several databases
  may share a NATS. What they say of themselves counts for no spread of ours.
- Of two that stand for the same pool only one may stay: who finds the other there does not begin, and of two that began
  at once the later one leaves. Nothing is lost, as each has its tasks in its own database.
- Wall clocks say who is later: a wrong one may end the wrong replica.
"""

from callboard.orchestrator.spread import Standing
from callboard.schemas.errors import ConfigurationError


def is_stranger(other: Standing, store: str | None) -> bool:
    """Whether `other` serves from another database than `store`; unknown is not another."""
    return None not in (store, other.store) and other.store != store


def shared_pool(other: Standing, pools: frozenset[str]) -> str | None:
    """One of `pools` that `other` has or would have."""
    return min((other.owns | other.would_serve) & pools, default=None)


def must_leave(own: Standing, other: Standing) -> bool:
    """Whether of two who stand for the same pool it is we who leave; the other concludes the opposite."""
    return (own.since_ms, own.holder) > (other.since_ms, other.holder)


def conflict(pool: str, other: Standing) -> ConfigurationError:
    """Why we cannot serve."""
    return ConfigurationError(
        f"pool {pool} is served from another database, by replica {other.holder}: use its database, or stop it, or "
        "choose other pools or another prefix",
        pool=pool,
        replica=other.holder,
    )
