"""An agent's session with the orchestrator, as a pure state machine: events in, effects out, time given as a value.

Nothing here reads a clock, makes an id, logs or touches the bus; the shell (`callboard.agents.runtime`) does. So every
rule can be tested without a server, and a run can be replayed. The rules (protocol, section 3):

1. **Registration** lists every accepted attempt whose report is not answered, and so does every heartbeat.
   `unknown_incarnation` means: register, then repeat. `incarnation_replaced` means: stop, say nothing more.
2. **Lease.** No answer for `lease_ms`: what runs is finished, results are held, nothing new is accepted, registering
   goes on. Afterwards everything held is reported.
3. **Epochs.** What carries a lower epoch than has been seen is ignored, and not even answered.
4. **Offers.** The same `(task_id, attempt)` gets the same answer and runs once. Cancelled ones are declined for a
   lease, also when the cancel overtook the offer. Declined: `draining`, `lease_lost`, `unsupported`, `busy`,
   `cancelled`.
5. **Slots.** Never more live handlers than slots; a cancelled handler uses its slot until it has ended.
6. **Reports** are repeated, with back-off, until recorded or refused for good. A refused result becomes a `fail` of
   type `result_refused`. After a cancel nothing more is said of an attempt.
7. **The end.** Drain: take nothing new, finish, have everything recorded, leave. Shutdown and stop: the same with a
   limit, after which handlers are told to end; a result that still comes in time is reported, the rest is released
   by `leave`. Who has unfinished work when the end is wanted says so, once.
8. **Memory** is bounded: attempts by slots, answers by time and number.
"""

from callboard.agents.session.machine import Session, SessionConfig
from callboard.agents.session.states import ATTEMPTS, PHASES, AttemptCause, AttemptState, Intent, Phase, PhaseCause

__all__ = [
    "ATTEMPTS",
    "PHASES",
    "AttemptCause",
    "AttemptState",
    "Intent",
    "Phase",
    "PhaseCause",
    "Session",
    "SessionConfig",
]
