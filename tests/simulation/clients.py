"""The clients of one schedule: they submit, with keys and without, submit again, cancel, finish by hand and retry."""

from collections.abc import Callable
from typing import Final

import msgspec
from tests.simulation.book import BY_HAND, Book
from tests.simulation.network import Network
from tests.simulation.world import World

from callboard.orchestrator.core import events as ev
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import DEFAULT_MAX_ATTEMPTS, Backoff, Requirements, SubmitAnswer, TaskChange, TaskSpec
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskPriority, TaskState

Answer = Callable[[object], None]
EventOf = Callable[[Answer], ev.Event]

NAME: Final = "client"
PATIENCE_MS: Final = 1_500
PAUSE_MS: Final = 400
BACKOFF: Final = Backoff(initial_ms=100, max_ms=2_000)
RISKY: Final = ("ok", "ok", "ok", "slow", "flaky", "hang", "poison")
CALM: Final = ("ok", "ok", "flaky")


class Clients:
    """Everyone who asks something of tasks."""

    def __init__(self, world: World, network: Network, book: Book, serve: Callable[[ev.Event], None]) -> None:
        self._world, self._network, self._book, self._serve = world, network, book, serve
        self._ids = 0
        self._task_of_key: dict[str, str] = {}

    def spec(self, number: int, capabilities: tuple[str, ...], *, calm: bool) -> TaskSpec:
        """A task as somebody may want it; what could never end has a limit."""
        world = self._world
        kind = world.rng.choice(CALM if calm else RISKY)
        limited = kind == "hang"
        needs = Requirements(capabilities=[world.rng.choice(capabilities)]) if world.chance(0.3) else None
        keyed = world.chance(0.3)
        return TaskSpec(
            type=kind,
            key=f"key-{number}" if world.chance(0.7) else None,
            priority=world.rng.choice(list(TaskPriority)),
            requires=needs,
            concurrency_key=world.rng.choice(["K", "L"]) if keyed else None,
            concurrency_limit=world.between(1, 2) if keyed else None,
            strategy=world.rng.choice([None, *TaskAssignmentStrategy]),
            max_attempts=world.between(1, 5),
            backoff=BACKOFF,
            run_timeout_ms=world.between(500, 3_000) if limited else None,
            progress_timeout_ms=2_000 if limited and world.chance(0.5) else None,
            ttl_ms=world.between(500, 20_000) if not calm and world.chance(0.15) else None,
            delay_ms=world.between(1, 3_000) if world.chance(0.15) else None,
        )

    def submit(self, spec: TaskSpec, then: Callable[[str], None] | None = None) -> None:
        """Submit; with a key, until it is answered."""

        def answered(answer: object | None) -> None:
            if isinstance(answer, SubmitAnswer):
                self._accepted(spec.key, answer, then)
            elif spec.key is not None and (not isinstance(answer, OrchestratorError) or answer.retryable):
                self._world.after(PAUSE_MS, lambda: self.submit(spec, then))

        self._ask(self._submission(spec), answered)

    def _submission(self, spec: TaskSpec) -> EventOf:
        digest, spec_json = spec.content_digest(), spec.without_payload()

        def event_of(answer: Answer) -> ev.TaskSubmitted:
            # A message that arrives twice is two submissions, as the orchestrator sees it.
            self._ids += 1
            task_id = f"00000000-0000-7000-8000-{self._ids:012}"
            self._book.max_attempts[task_id] = spec.max_attempts or DEFAULT_MAX_ATTEMPTS
            if spec.concurrency_key is not None:
                self._book.keys[task_id] = (spec.concurrency_key, spec.limit_of_key or 0)
            return ev.TaskSubmitted(
                ticket=answer, task_id=task_id, spec=spec, spec_json=spec_json, payload=b"null", digest=digest
            )

        return event_of

    def _accepted(self, key: str | None, answer: SubmitAnswer, then: Callable[[str], None] | None) -> None:
        self._world.note("accepted", answer.task_id, key, "created" if answer.created else "known")
        self._book.submit_answered(answer.task_id)
        if key is not None and self._task_of_key.setdefault(key, answer.task_id) != answer.task_id:
            self._world.fail(f"key {key} is of {self._task_of_key[key]} and of {answer.task_id}", about=answer.task_id)
        if then is not None:
            then(answer.task_id)

    def conflict(self, spec: TaskSpec) -> None:
        """Use the key of a task for other content: refused, if the task is known by then."""
        if spec.key not in self._task_of_key:
            return
        other = msgspec.structs.replace(spec, description="other")

        def answered(answer: object | None) -> None:
            if isinstance(answer, SubmitAnswer):
                self._world.fail(f"key {spec.key} was taken for other content by {answer.task_id}")

        self._ask(self._submission(other), answered)

    def cancel(self, task_id: str) -> None:
        """Cancel, until it is answered."""
        self._operate(
            lambda answer: ev.CancelRequested(ticket=answer, task_id=task_id),
            task_id,
            TaskState.CANCELLED,
            lambda: self.cancel(task_id),
        )

    def finish(self, task_id: str) -> None:
        """Finish by hand, until it is answered."""
        self._book.by_hand.add(task_id)
        self._operate(
            lambda answer: ev.CompletionRequested(ticket=answer, task_id=task_id, result=BY_HAND),
            task_id,
            TaskState.SUCCEEDED,
            lambda: self.finish(task_id),
        )

    def _operate(
        self,
        event_of: EventOf,
        task_id: str,
        state: TaskState,
        again: Callable[[], None],
    ) -> None:
        def answered(answer: object | None) -> None:
            if isinstance(answer, TaskChange):
                self._world.note("told", task_id, answer.state.value)
                self._book.told(task_id, state)
            elif not isinstance(answer, OrchestratorError) or answer.retryable:
                self._world.after(PAUSE_MS, again)
            elif answer.code == "task_not_found":
                self._world.fail(f"{task_id} was accepted and is not found", about=task_id)

        self._ask(event_of, answered)

    def _ask(self, event_of: EventOf, answered: Callable[[object | None], None]) -> None:
        self._network.ask(NAME, lambda answer: self._serve(event_of(answer)), answered, patience_ms=PATIENCE_MS)
