"""The clients of one schedule: they submit, with keys and without, submit again, cancel, finish by hand and
retry; and they answer whatever agents ask.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from tests.simulation.book import BY_HAND, Book, answer_to
from tests.simulation.fleet import Serve
from tests.simulation.network import Network
from tests.simulation.plan import Wish
from tests.simulation.world import World

from callboard.orchestrator.core import events as ev
from callboard.schemas.errors import OrchestratorError
from callboard.schemas.tasks import DEFAULT_MAX_ATTEMPTS, SubmitAnswer, TaskChange, TaskSpec
from callboard.schemas.vocabulary import TaskState

EventOf = Callable[[object], ev.Event]

NAME: Final = "client"
PATIENCE_MS: Final = 1_500
PAUSE_MS: Final = 400
LONGEST_THOUGHT_MS: Final = 4_000
"""How long it takes at most until somebody answers a question."""


class Clients:
    """Everyone who asks something of tasks."""

    def __init__(self, world: World, network: Network, book: Book, serve: Serve) -> None:
        self._world, self._network, self._book, self._serve = world, network, book, serve
        self._ids = 0
        self._task_of_key: dict[str, str] = {}
        book.on_waiting = lambda task_id, attempt: world.after(
            world.between(1, LONGEST_THOUGHT_MS), lambda: self.answer(task_id, attempt)
        )

    def want(self, wish: Wish) -> None:
        """Have a wish, and what follows from it."""
        later, spec = self._world.after, wish.spec

        def accepted(task_id: str) -> None:
            if wish.cancel_ms is not None:
                later(wish.cancel_ms, lambda: self.cancel(task_id))
            if wish.finish_ms is not None:
                later(wish.finish_ms, lambda: self.finish(task_id))

        def begin() -> None:
            self.submit(spec, accepted)
            if wish.again_ms is not None:
                later(wish.again_ms, lambda: self.submit(spec))
            if wish.conflict_ms is not None:
                later(wish.conflict_ms, lambda: self.conflict(spec))

        later(wish.at_ms, begin)

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

        def event_of(answer: object) -> ev.TaskSubmitted:
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

    def answer(self, task_id: str, attempt: int) -> None:
        """Answer the question of an attempt, until that is answered or asked no more."""
        line = self._book.lines[task_id]
        if (line.state, line.attempt) != (TaskState.WAITING_INPUT, attempt):
            return

        def event_of(answer: object) -> ev.AnswerGiven:
            said = answer_to(task_id, attempt)
            return ev.AnswerGiven(ticket=answer, task_id=task_id, answer=said, attempt=attempt, query=1)

        def answered(answer: object | None) -> None:
            if isinstance(answer, TaskChange):
                self._world.note("answered", task_id, attempt, answer.changed)
                if (line.state, line.attempt) == (TaskState.WAITING_INPUT, attempt):
                    self._world.fail(f"{task_id}/{attempt} was said to be answered, and asks", about=task_id)
            else:
                self._world.after(PAUSE_MS, lambda: self.answer(task_id, attempt))

        self._ask(event_of, answered)

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
        self._network.ask(NAME, lambda answer: self._serve(event_of, answer), answered, patience_ms=PATIENCE_MS)
