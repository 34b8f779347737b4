"""From a specification to the machine's event: sizes checked, content digested, an id given."""

from collections.abc import Callable, Mapping
from datetime import UTC

import msgspec

from callboard.orchestrator.clock import PoolClock
from callboard.orchestrator.config import SizeLimits
from callboard.orchestrator.core.events import TaskSubmitted
from callboard.orchestrator.ids import TaskIds
from callboard.orchestrator.store.port import OfferContent
from callboard.orchestrator.tickets import Fresh, Ticket
from callboard.schemas.codec import check_size, checked_json, encode
from callboard.schemas.errors import InvalidRequestError
from callboard.schemas.names import is_traceparent
from callboard.schemas.tasks import TaskSpec

Prepared = tuple[Callable[[Ticket], TaskSubmitted], Fresh]
"""The event, once there is a ticket; and what its offer will carry."""


class Submissions:
    """Prepares submissions to one pool."""

    def __init__(self, limits: SizeLimits, ids: TaskIds, clock: PoolClock) -> None:
        self._limits = limits
        self._ids = ids
        self._clock = clock

    def of(self, spec: TaskSpec) -> Prepared:
        """A client's specification.

        Raises:
            PayloadTooLargeError, InvalidRequestError: the payload, the texts or the instants are not allowed.
        """
        check_size(_placement_bytes(spec), path="requires and prefers", limit=self._limits.text_bytes)
        spec = _in_utc(spec)
        payload = checked_json(spec.payload, path="payload", limit=self._limits.payload_bytes)
        check_size(_text_bytes(spec), path="description and metadata", limit=self._limits.text_bytes)
        digest = b"" if spec.key is None else spec.content_digest()
        return self._prepare(spec, payload, digest, None)

    def again(self, spec: TaskSpec, payload: bytes, *, retry_of: str) -> Prepared:
        """The specification of a task that is retried; the task's id is the key."""
        return self._prepare(spec, payload, b"", retry_of)

    def _prepare(self, spec: TaskSpec, payload: bytes, digest: bytes, retry_of: str | None) -> Prepared:
        spec_json = spec.without_payload()
        task_id = self._ids.next(self._clock.now_ms())

        def event_of(ticket: Ticket) -> TaskSubmitted:
            return TaskSubmitted(
                ticket=ticket,
                task_id=task_id,
                spec=spec,
                spec_json=spec_json,
                payload=payload,
                digest=digest,
                retry_of=retry_of,
            )

        content = OfferContent(spec=spec_json, payload=payload, progress=None, decoded=spec)
        scope, key = ("client", spec.key) if retry_of is None else ("retry", retry_of)
        return event_of, Fresh(content, scope, key, digest)


def traced(spec: TaskSpec, headers: Mapping[str, str]) -> TaskSpec:
    """The specification with the trace of the message that it came in; what is no trace is passed over, by W3C."""
    found = next((value for name, value in headers.items() if name.lower() == "traceparent"), None)
    if found is None or not is_traceparent(found):
        return spec
    return msgspec.structs.replace(spec, traceparent=found)


def _placement_bytes(spec: TaskSpec) -> int:
    return sum(len(encode(part)) for part in (spec.requires, spec.prefers) if part is not None)


def _in_utc(spec: TaskSpec) -> TaskSpec:
    """The specification with its instants as answers tell them: one instant is one content, at whatever offset.

    Raises:
        InvalidRequestError: one is an instant by its offset only, so that no answer could tell it.
    """
    for path, instant in (("not_before", spec.not_before), ("deadline", spec.deadline)):
        if instant is not None:
            try:
                spec = msgspec.structs.replace(spec, **{path: instant.astimezone(UTC)})
            except OverflowError:
                raise InvalidRequestError(f"{path}: its year in UTC is none of 1 to 9999", path=path) from None
    return spec


def _text_bytes(spec: TaskSpec) -> int:
    size = len((spec.description or "").encode())
    return size + sum(len(key.encode()) + len(value.encode()) for key, value in (spec.metadata or {}).items())
