"""Submissions whose key another task has already: the same content is the same task, other content is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from callboard.orchestrator.store.port import Store, StoreUnavailableError
from callboard.orchestrator.tickets import Ticket
from callboard.schemas.errors import KeyConflictError, OutcomeUnknownError
from callboard.schemas.tasks import SubmitAnswer, TaskChange


@dataclass(frozen=True, slots=True)
class Repeat:
    """A submission that was refused by the key's owner. `scope` is `client`, or `retry` for `tasks.retry`."""

    ticket: Ticket
    scope: str
    key: str
    digest: bytes


async def answer_repeats(store: Store, pool: str, repeats: Sequence[Repeat]) -> None:
    """Answer each with the task that has its key."""
    for scope in sorted({repeat.scope for repeat in repeats}):
        mine = [repeat for repeat in repeats if repeat.scope == scope]
        try:
            holders = await store.key_holders(pool, scope, [repeat.key for repeat in mine])
        except StoreUnavailableError as error:
            for repeat in mine:
                repeat.ticket.refuse(OutcomeUnknownError(str(error)))
            continue
        except Exception:
            # A bug, which is logged: whoever asks again must not wait for this answer.
            for repeat in mine:
                repeat.ticket.refuse(OutcomeUnknownError("the task of this key could not be read"))
            raise
        for repeat in mine:
            holder = holders.get(repeat.key)
            if holder is None:
                # It was forgotten between the refusal and this look: asked again, it is accepted.
                repeat.ticket.refuse(OutcomeUnknownError(f"key {repeat.key!r} has just expired: submit again"))
            elif scope == "retry":
                state = holder.document.state
                repeat.ticket.answer(TaskChange(task_id=holder.task_id, state=state, changed=False))
            elif holder.digest != repeat.digest:
                conflict = KeyConflictError(
                    f"key {repeat.key!r} belongs to task {holder.task_id} with different content",
                    key=repeat.key,
                    task_id=holder.task_id,
                )
                repeat.ticket.refuse(conflict)
            else:
                repeat.ticket.answer(
                    SubmitAnswer(task_id=holder.task_id, state=holder.document.state, created=False, satisfiable=True)
                )
