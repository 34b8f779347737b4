"""What a schedule is made of, drawn from its seed before it begins: who is there, what they want, what goes wrong.

Every ingredient can be left out without changing the others, so that a schedule that broke a rule can be reduced to
the little that breaks it (`shrink`).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from callboard.schemas.tasks import Backoff, Requirements, TaskSpec
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskPriority

WINDOW_MS: Final = 15_000
MOST_FAULTS: Final = 14
CALM_ONE_IN: Final = 8
FLOODS: Final = 0.4
FLOOD_PRIORITIES: Final = (TaskPriority.NORMAL, TaskPriority.HIGH)
CAPABILITIES: Final = ("x", "y", "z")
BACKOFF: Final = Backoff(initial_ms=100, max_ms=2_000)
TYPES: Final = ("ok", "slow", "flaky", "hang", "poison", "ask")
"""What a task does to its agent, see `fleet`."""
RISKY: Final = ("ok", "ok", "ok", "slow", "flaky", "hang", "poison", "ask")
CALM: Final = ("ok", "ok", "flaky", "ask")
WINDOWS: Final = (1, 8, 20_000)
"""Waiting tasks that memory holds: so few that most are read again and again, or all."""
ALL_IN_MEMORY: Final = WINDOWS[-1]
DRIFTS: Final = (0.0, 0.0002, 0.01)
"""How far a clock may be off: not at all, as a bad quartz is, far more than any."""
HAND_OVER: Final = "hand_over"
"""The one thing that may happen in calm weather, too."""
FAULTS: Final = (
    HAND_OVER,
    "owner_dies",
    "owner_dies_committing",
    "owner_stopped",
    "owner_stopped_decided",
    "owner_stopped_committed",
    "owner_stopped_sending",
    "owner_cut_off",
    "database_away",
    "database_slow",
    "bus_away",
    "agent_cut_off",
    "agent_dies",
    "agent_stopped",
    "agent_drained",
    "agent_shut_down",
    "agent_ends",
    "agent_spawned",
)
"""The methods of `weather.Weather`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An agent as it is configured."""

    agent_id: str
    slots: int
    capabilities: tuple[str, ...] = ()
    types: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A task that a client submits, and what it does about it later; delays in ms, from the submission."""

    number: int
    at_ms: int
    spec: TaskSpec
    again_ms: int | None = None
    conflict_ms: int | None = None
    cancel_ms: int | None = None
    finish_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong, when, for about how long (0 to 1), and to which of those whom it may concern (0 to 1)."""

    kind: str
    at_ms: int
    length: float
    pick: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What goes wrong with messages and commits all the time, as shares; `slow_ms` is the most that one is delayed."""

    loss: float = 0.0
    doubled: float = 0.0
    slow: float = 0.0
    slow_ms: int = 0
    lost_answers: float = 0.0
    late_commits: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of it. `salt` tells runs of one plan apart: who is unlucky differs."""

    seed: int
    salt: int = 0
    is_calm: bool
    replicas: int
    drift: float
    window: int
    adopts_late: bool
    members: tuple[Member, ...]
    wishes: tuple[Wish, ...]
    noise: Noise = Noise()
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        kinds = sorted(wish.spec.type for wish in self.wishes)
        faults = ", ".join(f"{fault.kind} at {fault.at_ms} ms" for fault in sorted(self.faults, key=lambda f: f.at_ms))
        noise = {name: value for name in Noise.__slots__ if (value := getattr(self.noise, name))}
        return (
            f"{self.replicas} replicas, {len(self.members)} agents, {len(kinds)} tasks ({', '.join(kinds[:12])}), "
            f"window {self.window}, drift {self.drift}, noise {noise or 'none'}, faults: {faults or 'none'}"
        )

    @property
    def oddities(self) -> list[str]:
        """What of it, beside who is there and what happens, is not as plain as it could be."""
        plain = {"replicas": 1, "drift": 0.0, "window": ALL_IN_MEMORY, "adopts_late": False}
        return [name for name in Noise.__slots__ if getattr(self.noise, name)] + [
            name for name, value in plain.items() if getattr(self, name) != value
        ]

    def made_plain(self, oddity: str) -> "Plan":
        """The same without one of the oddities."""
        if oddity in Noise.__slots__:
            return replace(self, noise=replace(self.noise, **{oddity: 0}))
        plain: dict[str, Any] = {"replicas": self.replicas - 1, "drift": 0.0, "window": ALL_IN_MEMORY}
        return replace(self, **{oddity: plain.get(oddity, False)})

    def without(self, field: str, start: int, length: int) -> "Plan":
        """The same without some of its faults, wishes or members."""
        parts: tuple[object, ...] = getattr(self, field)
        left: dict[str, Any] = {field: parts[:start] + parts[start + length :]}
        return replace(self, **left)


class Draw:
    """Draws plans from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = random.Random(seed)  # noqa: S311 - a replayable schedule

    def plan(self) -> Plan:
        """The plan of the seed."""
        rng, is_calm = self._rng, self.seed % CALM_ONE_IN == 0
        noise, faults = (Noise(), self._hand_overs()) if is_calm else (self._noise(), self._faults())
        return Plan(
            seed=self.seed,
            is_calm=is_calm,
            replicas=rng.choice((1, 2, 2, 3)),
            drift=rng.choice(DRIFTS),
            window=rng.choice(WINDOWS),
            adopts_late=rng.random() < 0.5,
            members=tuple(self._members(is_calm=is_calm)),
            wishes=tuple(self._wishes(is_calm=is_calm)),
            noise=noise,
            faults=faults,
        )

    def _noise(self) -> Noise:
        rng = self._rng
        return Noise(
            loss=rng.choice((0.0, 0.0, 0.02, 0.1)),
            doubled=rng.choice((0.0, 0.05, 0.2)),
            slow=rng.choice((0.0, 0.05, 0.2)),
            slow_ms=rng.choice((50, 1_000, 5_000)),
            lost_answers=rng.choice((0.0, 0.0, 0.05, 0.2)),
            late_commits=rng.choice((0.0, 0.0, 0.05)),
        )

    def _faults(self) -> tuple[Fault, ...]:
        count = self._rng.randint(0, MOST_FAULTS)
        return tuple(self._fault(self._rng.choice(FAULTS)) for _ in range(count))

    def _hand_overs(self) -> tuple[Fault, ...]:
        return tuple(self._fault(HAND_OVER) for _ in range(self._rng.randint(0, 3)))

    def _fault(self, kind: str) -> Fault:
        rng = self._rng
        return Fault(kind=kind, at_ms=rng.randint(0, WINDOW_MS), length=rng.random(), pick=rng.random())

    def _members(self, *, is_calm: bool) -> Iterator[Member]:
        rng = self._rng
        yield Member(agent_id="agent-0", slots=rng.randint(1, 3), capabilities=CAPABILITIES)
        for number in range(1, rng.randint(1, 4)):
            has = tuple(c for c in CAPABILITIES if rng.random() < 0.5)
            types = frozenset(TYPES) - {"flaky"} if rng.random() < 0.3 and not is_calm else None
            yield Member(agent_id=f"agent-{number}", slots=rng.randint(1, 3), capabilities=has, types=types)

    def _wishes(self, *, is_calm: bool) -> Iterator[Wish]:
        rng = self._rng
        for number in range(rng.randint(3, 14)):
            yield self._wish(number, rng.randint(0, WINDOW_MS), self._spec(number, is_calm=is_calm), is_calm=is_calm)
        if rng.random() < FLOODS:
            began_ms = rng.randint(0, WINDOW_MS)
            for number in range(100, 100 + rng.randint(10, 60)):
                # All in a few lanes, so that a window is too small for them.
                spec = msgspec.structs.replace(
                    self._spec(number, is_calm=is_calm),
                    type=TYPES[0],
                    requires=None,
                    priority=rng.choice(FLOOD_PRIORITIES),
                )
                yield self._wish(number, began_ms + rng.randint(0, 300), spec, is_calm=is_calm)

    def _wish(self, number: int, at_ms: int, spec: TaskSpec, *, is_calm: bool) -> Wish:
        repeats = spec.key is not None and self._rng.random() < 0.3
        return Wish(
            number=number,
            at_ms=at_ms,
            spec=spec,
            again_ms=self._rng.randint(0, 5_000) if repeats else None,
            conflict_ms=self._rng.randint(0, 5_000) if repeats else None,
            cancel_ms=None if is_calm else self._perhaps(0.15),
            finish_ms=None if is_calm else self._perhaps(0.1),
        )

    def _perhaps(self, share: float) -> int | None:
        return self._rng.randint(0, 5_000) if self._rng.random() < share else None

    def _spec(self, number: int, *, is_calm: bool) -> TaskSpec:
        """A task as somebody may want it; what could never end has a limit."""
        rng = self._rng
        kind = rng.choice(CALM if is_calm else RISKY)
        limited = kind == "hang" or (kind == "ask" and not is_calm and rng.random() < 0.5)
        keyed = rng.random() < 0.3
        return TaskSpec(
            type=kind,
            key=f"key-{number}" if rng.random() < 0.7 else None,
            priority=rng.choice(list(TaskPriority)),
            requires=Requirements(capabilities=[rng.choice(CAPABILITIES)]) if rng.random() < 0.3 else None,
            concurrency_key=rng.choice(("K", "L")) if keyed else None,
            concurrency_limit=rng.randint(1, 2) if keyed else None,
            strategy=rng.choice((None, *TaskAssignmentStrategy)),
            max_attempts=rng.randint(1, 5),
            backoff=BACKOFF,
            run_timeout_ms=rng.randint(500, 3_000) if limited else None,
            progress_timeout_ms=2_000 if limited and rng.random() < 0.5 else None,
            ttl_ms=rng.randint(500, 20_000) if not is_calm and rng.random() < 0.15 else None,
            delay_ms=rng.randint(1, 3_000) if rng.random() < 0.15 else None,
        )
