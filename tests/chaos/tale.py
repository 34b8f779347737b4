"""Histories made by hand, for the checker's own tests: each method tells one clean step; the caller may spoil it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from tests.chaos import history as h

E = TypeVar("E", bound=h.AnyEvent)

MS = 1_000_000
AGENT = "a1"


class Tale:
    """A history that grows; every step is 10 ms after the one before."""

    def __init__(self) -> None:
        self.events: list[h.AnyEvent] = []
        self.now_ns = 1_000_000 * MS
        self.epoch, self.batch = 1, 0
        self._sequence = 0
        self._tx = 0
        self._rows: dict[str, h.Row] = {}
        self.tell(h.LeaseRow(sequence=self._next(), tx=0, epoch=1, batch=0, replica="r1"))
        for agent_id in (AGENT, "a2"):
            self.tell(h.AgentBegan(agent_id=agent_id, incarnation=f"{agent_id}-i", slots=1))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def tell(self, event: E) -> E:
        """`event`, now."""
        self.now_ns += 10 * MS
        told = msgspec.structs.replace(event, at_ns=self.now_ns)
        self.events.append(told)
        return told

    # The database.

    def commit(self, *rows: tuple[str, dict[str, Any]]) -> None:
        """One batch: the lease, and for each task what of its row is new."""
        self.batch += 1
        self._tx += 1
        self.now_ns += 10 * MS
        at: dict[str, Any] = {"at_ns": self.now_ns, "tx": self._tx}
        lease = h.LeaseRow(sequence=self._next(), epoch=self.epoch, batch=self.batch, replica="r1", **at)
        self.events.append(lease)
        for task_id, new in rows:
            self.events.append(self._row(task_id, {**at, **new}))

    def _row(self, task_id: str, new: dict[str, Any]) -> h.Row:
        before = self._rows.get(task_id)
        stamp = {"sequence": self._next(), "epoch": self.epoch, "batch": self.batch, "ends": (), **new}
        if before is None:
            place = len(self._rows)
            first: dict[str, Any] = {
                "op": "insert", "state": "queued", "version": 1, "attempt": 0, "key": f"key-{task_id}",
                "order": (-1, place, task_id), "placement": "p", "spent": 0, "crashes": 0,
            }  # fmt: skip
            row = h.Row(task_id=task_id, **{**first, **stamp})
        else:
            row = msgspec.structs.replace(before, **{"op": "update", "version": before.version + 1, **stamp})
        self._rows[task_id] = row
        return row

    def of(self, task_id: str) -> h.Row:
        """The task's row as it stands."""
        return self._rows[task_id]

    # Whole steps of a task's life.

    def submitted(self, task_id: str, **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """A client submits, and is answered after the commit."""
        self.tell(h.Submitting(key=f"key-{task_id}"))
        self.commit((task_id, new))
        self.tell(h.Submitted(key=f"key-{task_id}", task_id=task_id))

    def assigned(self, task_id: str, agent_id: str = AGENT, **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """It is given out, offered and started."""
        who = {"agent_id": agent_id, "incarnation": f"{agent_id}-i"}
        attempt = (self.of(task_id).attempt if task_id in self._rows else 0) + 1
        self.commit((task_id, {"state": "assigned", "attempt": attempt, **who, **new}))
        ref: dict[str, Any] = {**who, "task_id": task_id, "attempt": attempt}
        self.tell(h.Offered(epoch=self.epoch, **ref))
        self.tell(h.OfferAnswered(accepted=True, **ref))
        self.tell(h.Started(**ref))

    def ref(self, task_id: str) -> dict[str, Any]:
        """The current attempt."""
        row = self.of(task_id)
        return {
            "task_id": task_id, "attempt": row.attempt, "agent_id": row.agent_id, "incarnation": row.incarnation
        }  # fmt: skip

    def reporting(self, task_id: str, verb: str) -> dict[str, Any]:
        """The handler ends, and the agent says so; the attempt."""
        ref = self.ref(task_id)
        self.tell(h.Finished(**ref))
        self.tell(h.Reporting(verb=verb, **ref))
        return ref

    def end(self, task_id: str, outcome: str, **new: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a row
        """What of the row is new when the current attempt has ended."""
        row = self.of(task_id)
        end = h.End(attempt=row.attempt, agent_id=str(row.agent_id), outcome=outcome, incarnation=row.incarnation)
        costs = outcome in {"failed", "timed_out", "crashed"}
        counted = {"spent": (row.spent or 0) + costs, "crashes": (row.crashes or 0) + (outcome == "crashed")}
        return {"ends": (end,), **counted, **new}

    def succeeded(self, task_id: str, **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """It is reported, committed and recorded."""
        ref = self.reporting(task_id, "complete")
        result = f'["{task_id}",{ref["attempt"]},"{ref["agent_id"]}","{ref["incarnation"]}"]'
        self.commit((task_id, self.end(task_id, "succeeded", op="final", state="succeeded", result=result, **new)))
        self.tell(h.Recorded(verb="complete", **ref))

    def failed_once(self, task_id: str, state: str = "queued", **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """Its agent says that it failed; it waits again, or has ended."""
        ref = self.reporting(task_id, "fail")
        nobody = {} if state == "failed" else {"agent_id": None, "incarnation": None}
        self.commit((task_id, self.end(task_id, "failed", state=state, **nobody, **new)))
        self.tell(h.Recorded(verb="fail", **ref))

    def given_up(self, task_id: str, outcome: str, state: str = "queued", **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """The orchestrator ends the attempt on its own."""
        nobody = {} if state == "quarantined" else {"agent_id": None, "incarnation": None}
        self.commit((task_id, self.end(task_id, outcome, state=state, **nobody, **new)))

    def whole(self, task_id: str) -> None:
        """A clean life."""
        self.submitted(task_id)
        self.assigned(task_id)
        self.succeeded(task_id)

    # Faults.

    def fault(self, number: int = 1, **agents: int) -> None:
        """A fault that comes and goes."""
        self.tell(h.FaultBegan(fault=number, kind="kill", target="x", agents=agents))
        self.tell(h.FaultEnded(fault=number))

    # Spoiling.

    def change(self, kind: type[E], nth: int = 0, **new: Any) -> None:  # noqa: ANN401 - fields of a row
        """Replace fields of the `nth` event of `kind`."""
        places = [place for place, event in enumerate(self.events) if type(event) is kind]
        place = places[nth]
        self.events[place] = msgspec.structs.replace(self.events[place], **new)

    def drop(self, kind: type[h.AnyEvent], nth: int = 0) -> None:
        """Leave out the `nth` event of `kind`."""
        del self.events[[place for place, event in enumerate(self.events) if type(event) is kind][nth]]
