"""Questions of agents and the answers of clients: how a task comes to wait for input, and goes on.

Rules:
- An attempt has one open question at a time: the next one takes its place, since whoever asks it goes on without the
  answer. Its number, which the agent counts from 1, tells a repeat from another question, and which question an answer
  is to. The first answer counts; a later one changes nothing.
- While a question is open the slot and the concurrency key stay taken, and the run and progress limits stand still:
  they are the agent's time, and it is somebody else who takes it. A deadline is the task's and goes on.
- An answer is committed first. It is sent until the agent acknowledges it, by whoever owns the pool then; an agent
  that asks the next question has the answer to the one before.
"""

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from callboard.orchestrator.core.attempts import begin, current, watch_limits
from callboard.orchestrator.core.effects import LookUp, SendAnswer
from callboard.orchestrator.core.events import AnswerDelivered, AnswerGiven, QuestionAsked
from callboard.orchestrator.core.model import Dialogue, Task
from callboard.orchestrator.core.moves import move
from callboard.orchestrator.core.pool import Pool
from callboard.orchestrator.core.timers import Clock
from callboard.orchestrator.core.transitions import Move
from callboard.schemas.agents import QueryRecorded
from callboard.schemas.errors import (
    InvalidTransitionError,
    StaleAttemptError,
    TaskNotFoundError,
    UnknownIncarnationError,
)
from callboard.schemas.tasks import TaskChange
from callboard.schemas.vocabulary import TaskState

SHOWN_CHARACTERS = 200
"""How much of the question is the task's `reason`, which lists and events show."""


def on_asked(pool: Pool, event: QuestionAsked, now_ms: int) -> None:
    """The current attempt asks something: its task waits for input."""
    message = event.message
    agent = pool.agents.get(event.agent_id)
    if agent is None or agent.incarnation != message.incarnation:
        if agent is not None and message.incarnation in agent.replaced:
            pool.refuse(event.ticket, StaleAttemptError("a newer process has this agent id", task_id=message.task_id))
        else:
            pool.refuse(event.ticket, UnknownIncarnationError())
        return
    task = current(pool, event.agent_id, (message.task_id, message.attempt))
    if task is None:
        what = f"attempt {message.attempt} of task {message.task_id} is over"
        pool.refuse(event.ticket, StaleAttemptError(what, task_id=message.task_id))
        return
    known = task.dialogue
    if known is not None and message.query <= known.query:
        pool.answer(event.ticket, QueryRecorded(recorded=True))
        return
    if task.state is TaskState.ASSIGNED:
        begin(pool, task, now_ms)
    pool.timers.clear(Clock.ANSWER, task.task_id)
    asked = Dialogue(
        attempt=task.attempt,
        query=message.query,
        asked_ms=now_ms,
        prompt=message.prompt,
        data=message.data,
        waited_ms=task.waited_ms(now_ms),
    )
    _note(pool, task, asked)
    move(pool, task, Move.ASKED, now_ms, reason=message.prompt[:SHOWN_CHARACTERS])
    pool.answer(event.ticket, QueryRecorded(recorded=True))


def on_answer(pool: Pool, event: AnswerGiven, now_ms: int) -> None:
    """A client answers: the task runs again at the commit, and its agent is told until it has heard."""
    task = pool.tasks.get(event.task_id)
    if task is None:
        _answer_absent(pool, event)
        return
    dialogue = task.dialogue
    if event.attempt is not None and event.attempt != task.attempt:
        what = f"task {task.task_id} is at attempt {task.attempt}, not {event.attempt}"
        pool.refuse(event.ticket, StaleAttemptError(what, task_id=task.task_id, state=task.state.value))
    elif dialogue is not None and dialogue.is_open and event.query in {None, dialogue.query}:
        _take(pool, task, dialogue, event, now_ms)
    elif dialogue is not None and event.query is not None and event.query <= dialogue.query:
        pool.answer(event.ticket, TaskChange(task_id=task.task_id, state=task.state, changed=False))
    elif dialogue is not None and dialogue.is_open:
        _refuse(pool, event, task.state, f"asks question {dialogue.query}, not {event.query}")
    else:
        _refuse_where_nothing_is_asked(pool, event, task.state)


def _take(pool: Pool, task: Task, dialogue: Dialogue, event: AnswerGiven, now_ms: int) -> None:
    answered = replace(dialogue, is_open=False, answer=Raw(event.answer), waited_ms=task.waited_ms(now_ms))
    _note(pool, task, answered)
    pool.unsealed_bytes += len(event.answer)
    move(pool, task, Move.ANSWERED, now_ms)
    watch_limits(pool, task, now_ms)
    send_answer(pool, task, now_ms)
    pool.answer(event.ticket, TaskChange(task_id=task.task_id, state=task.state, changed=True))


def _answer_absent(pool: Pool, event: AnswerGiven) -> None:
    """A task that is not in memory waits for an agent, is over, or never was: none of them asks anything."""
    looked = event.looked
    if looked is None or pool.absent.departures.since(event.task_id, event.stamp):
        pool.at_once.append(LookUp(replace(event, looked=None, stamp=pool.absent.departures.count)))
    elif looked.state is None:
        pool.refuse(event.ticket, TaskNotFoundError(f"there is no task {event.task_id}", task_id=event.task_id))
    else:
        _refuse_where_nothing_is_asked(pool, event, looked.state)


def _refuse_where_nothing_is_asked(pool: Pool, event: AnswerGiven, state: TaskState) -> None:
    remedy = "it has ended" if state.is_final else f"it is answered once it is {TaskState.WAITING_INPUT}"
    _refuse(pool, event, state, f"is {state} and asks nothing: {remedy}")


def _refuse(pool: Pool, event: AnswerGiven, state: TaskState, what: str) -> None:
    text = f"task {event.task_id} {what}"
    pool.refuse(event.ticket, InvalidTransitionError(text, task_id=event.task_id, state=state.value))


def _note(pool: Pool, task: Task, dialogue: Dialogue) -> None:
    task.dialogue = dialogue
    pool.dirty_dialogues[task.task_id] = dialogue


def send_answer(pool: Pool, task: Task, now_ms: int) -> None:
    """Send the answer that the agent has not acknowledged, if there is one, after the commit."""
    effect = _unacknowledged(task)
    if effect is not None:
        pool.after_commit.append(effect)
        pool.timers.set(Clock.ANSWER, task.task_id, now_ms + pool.settings.offer_repeats_ms[0])


def on_unacknowledged(pool: Pool, task: Task, now_ms: int) -> None:
    """Send the answer again, for as long as the attempt lives."""
    effect = _unacknowledged(task)
    if effect is None:
        return
    if pool.is_committed(task.changed_in):
        pool.at_once.append(effect)
    pool.timers.set(Clock.ANSWER, task.task_id, now_ms + pool.settings.offer_repeats_ms[-1])


def _unacknowledged(task: Task) -> SendAnswer | None:
    dialogue = task.dialogue
    if dialogue is None or task.agent_id is None or isinstance(dialogue.answer, UnsetType):
        return None
    return SendAnswer(
        agent_id=task.agent_id,
        task_id=task.task_id,
        attempt=task.attempt,
        query=dialogue.query,
        answer=bytes(dialogue.answer),
    )


def on_delivered(pool: Pool, event: AnswerDelivered, now_ms: int) -> None:
    """The agent has the answer: nobody needs to keep it. That is written with whatever is written next."""
    task = current(pool, event.agent_id, event.held)
    dialogue = None if task is None else task.dialogue
    if task is None or dialogue is None or dialogue.query != event.query or dialogue.answer is UNSET:
        return
    pool.timers.clear(Clock.ANSWER, task.task_id)
    _note(pool, task, replace(dialogue, answer=UNSET))
    pool.flush_by(now_ms + pool.settings.progress_write_ms)
