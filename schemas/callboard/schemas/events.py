"""What is published on `event.…`: CloudEvents 1.0 in structured JSON, one for each committed change.

Rules (protocol, section 5):
- An event's `id` follows from what it tells, so it is the same however often it is sent, by whichever owner: of a
  task's change id and version, of an agent's pool, id and revision, of a new owner pool and epoch.
- An envelope is put around its encoded `data`, which is what an orchestrator keeps until the event is published.
"""

from typing import Final, Literal, Self

import msgspec

from callboard.schemas.agents import AgentEvent
from callboard.schemas.base import Message
from callboard.schemas.codec import encode
from callboard.schemas.names import Instant
from callboard.schemas.status import OwnerEvent
from callboard.schemas.subjects import Subjects
from callboard.schemas.tasks import TaskEvent
from callboard.schemas.vocabulary import AgentState, TaskState

CONTENT_TYPE: Final = "application/cloudevents+json"
"""The header `content-type` of every event: structured mode (NATS binding of CloudEvents)."""
OWNED: Final = "pool.owned"
EVENT_TYPES: Final = (*(f"task.{state}" for state in TaskState), *(f"agent.{state}" for state in AgentState), OWNED)
"""What events are of, without the `callboard.` that stands before."""
_HEADERS: Final = f"NATS/1.0\r\ncontent-type: {CONTENT_TYPE}\r\nNats-Msg-Id: "
_TIME: Final = b'"at":"'


class CloudEvent(Message, frozen=True, kw_only=True):
    """The attributes of an event."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: Instant
    datacontenttype: Literal["application/json"]
    traceparent: str | None = None


class TaskChanged(CloudEvent, frozen=True, kw_only=True):
    """What `event.task.<state>.<task_id>` carries; `type` is `callboard.task.<state>`, `subject` the task's id."""

    data: TaskEvent


class AgentChanged(CloudEvent, frozen=True, kw_only=True):
    """What `event.agent.<state>.<agent_id>` carries; `type` is `callboard.agent.<state>`, `subject` the agent's id."""

    data: AgentEvent


class OwnerChanged(CloudEvent, frozen=True, kw_only=True):
    """What `event.owner` carries; `type` is `callboard.pool.owned`, `subject` the pool."""

    data: OwnerEvent


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    """An event as it is published."""

    subject: str
    id: str
    body: bytes

    @property
    def block(self) -> bytes:
        """The header block; ids are made of names, so that there is nothing to escape."""
        return f"{_HEADERS}{self.id}\r\n\r\n".encode()


class Change(msgspec.Struct, frozen=True, gc=False):
    """A change that is told: its event's id, `task.<state>` or `agent.<state>`, whose it is, and the encoded `data`."""

    id: str
    topic: str
    about: str
    data: bytes
    traceparent: str | None = None

    @classmethod
    def of_task(cls, event: TaskEvent, data: bytes) -> Self:
        """A task's change; `data` is `event` encoded."""
        name = f"{event.task_id}-{event.version}"
        return cls(name, f"task.{event.state}", event.task_id, data, event.traceparent)

    @classmethod
    def of_agent(cls, event: AgentEvent, data: bytes) -> Self:
        """An agent's change; `data` is `event` encoded."""
        return cls(f"{event.pool}-{event.agent_id}-{event.revision}", f"agent.{event.state}", event.agent_id, data)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The change whose `data` this is.

        Raises:
            msgspec.MsgspecError: it is none.
        """
        event = _DATA.decode(data)
        if event.task_id is not None:
            name = f"{event.task_id}-{event.version}"
            return cls(name, f"task.{event.state}", event.task_id, data, event.traceparent)
        return cls(f"{event.pool}-{event.agent_id}-{event.revision}", f"agent.{event.state}", event.agent_id, data)


class _Data(msgspec.Struct):
    """What names a change. A later version may have states that this one has not: it is passed on as it is."""

    pool: str
    state: str
    agent_id: str = ""
    revision: str = ""
    task_id: str | None = None
    version: int = 0
    traceparent: str | None = None


_DATA: Final = msgspec.json.Decoder(_Data)


class Envelopes:
    """Puts the changes of one pool into their envelopes: in two microseconds, since every change comes here."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._events = f"{subjects.root}.event"
        self._head = f'{{"specversion":"1.0","source":"/{subjects.prefix}/{subjects.pool}","id":"'

    def wrap(self, change: Change) -> EventMessage:
        """A change of a task or an agent, as it is published."""
        body = self._around(change.data, change.id, change.topic, change.about, change.traceparent)
        return EventMessage(f"{self._events}.{change.topic}.{change.about}", change.id, body)

    def of_owner(self, event: OwnerEvent) -> EventMessage:
        """A new owner."""
        name = f"{event.pool}-{event.epoch}"
        body = self._around(encode(event), name, OWNED, event.pool)
        return EventMessage(self._subjects.owner_event, name, body)

    def _around(self, data: bytes, name: str, topic: str, about: str, traceparent: str | None = None) -> bytes:
        # No name in here holds what JSON would escape; each `data` has its instant as `at`, before any free text.
        begin = data.index(_TIME) + len(_TIME)
        time = data[begin : data.index(b'"', begin)].decode()
        attributes = f'{name}","type":"callboard.{topic}","subject":"{about}","time":"{time}"'
        if traceparent is not None:
            attributes += f',"traceparent":"{traceparent}"'
        return f'{self._head}{attributes},"datacontenttype":"application/json","data":'.encode() + data + b"}"
