"""What a batch tells the world, encoded once: the same bytes are written with the batch and published after it."""

from callboard.orchestrator.core.effects import Batch, PublishTask
from callboard.orchestrator.store.port import Events
from callboard.schemas.codec import encode
from callboard.schemas.events import Change


def told_by(batch: Batch) -> tuple[list[Change], Events]:
    """What `batch` tells, one by one, and as it is written with its rows."""
    changes: list[Change] = []
    tasks: dict[str, bytes] = {}
    agents: list[bytes] = []
    for said in batch.announcements:
        data = encode(said.event)
        if isinstance(said, PublishTask):
            changes.append(Change.of_task(said.event, data))
            before = tasks.get(said.task_id)
            tasks[said.task_id] = data if before is None else b"%b\n%b" % (before, data)
        else:
            changes.append(Change.of_agent(said.event, data))
            agents.append(data)
    return changes, Events(tasks=tasks, agents=b"\n".join(agents) if agents else None)


def changes_in(lines: bytes) -> list[Change]:
    """What was written, one by one.

    Raises:
        msgspec.MsgspecError: that is not what was written.
    """
    # JSON has no line breaks outside of its strings, and strings escape theirs.
    return [Change.read(line) for line in lines.split(b"\n") if line]
