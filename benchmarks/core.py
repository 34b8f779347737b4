"""The core alone: time per decision, and how it grows with the fleet and the backlog (`make bench-core`).

A decision is one turn of a busy pool: an agent reports a result, a client submits a task, the batch is sealed (which
places the next task), and its commit is taken in. The fleet and the tasks are mixed: eight capabilities, of which an
agent has four and a task needs none, one or two; four priorities. All agents are busy and all tasks wait, so that each
turn frees one slot and fills it again. No database, no NATS, no clock: what is measured is deciding.
"""

import argparse
import sys
from itertools import count
from time import perf_counter
from typing import Final

from callboard.orchestrator.core.dice import Dice
from callboard.orchestrator.core.effects import SendOffer
from callboard.orchestrator.core.events import AgentRegistered, BatchCommitted, ResultReported, TaskSubmitted
from callboard.orchestrator.core.machine import Machine
from callboard.orchestrator.core.settings import CoreSettings
from callboard.schemas.agents import Register
from callboard.schemas.labels import LabelOp, Preference
from callboard.schemas.tasks import Requirements, TaskSpec
from callboard.schemas.vocabulary import TaskAssignmentStrategy, TaskPriority

SKILLS: Final = [f"skill{n}" for n in range(8)]
PREFERS: Final = [Preference(key="zone", op=LabelOp.EQUALS, value=1, weight=1)]
INCARNATION: Final = "00000000-0000-4000-8000-000000000000"
BATCH: Final = 1_000
"""Submissions in a batch while the backlog is built."""
START_MS: Final = 1_700_000_000_000


class Bench:
    """A pool with `agents` busy agents, and as many waiting tasks as asked for."""

    def __init__(self, agents: int) -> None:
        settings = CoreSettings(max_tasks=10_000_000, max_agents=100_000, window=10_000_000)
        self.machine = Machine("default", settings, epoch=1, seed=1)
        self.dice = Dice(2)
        self.ids = (f"{n:012d}" for n in count())
        self.running: list[SendOffer] = []
        self.waiting = 0
        for n in range(agents):
            # Skills n, n + 1, n + 2 and n + 3: every pair of neighbours is somewhere.
            skills = [SKILLS[(n + step) % len(SKILLS)] for step in range(4)]
            message = Register(incarnation=INCARNATION, capabilities=skills, labels={"zone": n % 3})
            self.machine.handle(AgentRegistered(ticket=None, agent_id=f"a{n}", message=message), START_MS)
        self.seal()
        self.fill(agents)

    def seal(self) -> None:
        """Close the batch, and take its commit in."""
        while True:
            batch = self.machine.seal(START_MS)
            self.running += [effect for effect in batch.effects if isinstance(effect, SendOffer)]
            if batch.is_written:
                self.machine.handle(BatchCommitted(number=batch.number), START_MS)
            if not self.machine.has_decisions:
                return

    def submit(self, strategy: TaskAssignmentStrategy | None, *, prefers: bool) -> None:
        """One more task, of mixed requirements and priority."""
        roll = self.dice.below(len(SKILLS) * 3)
        skills = [SKILLS[(roll + step) % len(SKILLS)] for step in range(roll // len(SKILLS))]
        spec = TaskSpec(
            type="t",
            priority=list(TaskPriority)[self.dice.below(4)],
            requires=Requirements(capabilities=skills) if skills else None,
            strategy=strategy,
            prefers=PREFERS if prefers else None,
        )
        event = TaskSubmitted(
            ticket=None, task_id=next(self.ids), spec=spec, spec_json=b"{}", payload=b"null", digest=b""
        )
        self.machine.handle(event, START_MS)

    def fill(self, tasks: int) -> None:
        """Submit `tasks`; at first they make the agents busy, then they wait."""
        for n in range(tasks):
            self.submit(None, prefers=False)
            if n % BATCH == 0:
                self.seal()
        self.seal()

    def turn(self, strategy: TaskAssignmentStrategy, *, prefers: bool) -> None:
        """One result in, one task in, one decision."""
        at = self.dice.below(len(self.running))
        done, self.running[at] = self.running[at], self.running[-1]
        self.running.pop()
        report = ResultReported(
            ticket=None,
            agent_id=done.agent_id,
            task_id=done.task_id,
            attempt=done.attempt,
            incarnation=INCARNATION,
            result=b"1",
        )
        self.machine.handle(report, START_MS)
        self.submit(strategy, prefers=prefers)
        self.seal()

    def microseconds(self, turns: int, strategy: TaskAssignmentStrategy, *, prefers: bool) -> float:
        """The best of five rounds, per decision: what disturbs only ever adds."""
        best = float("inf")
        for _ in range(5):
            began = perf_counter()
            for _ in range(turns):
                self.turn(strategy, prefers=prefers)
            best = min(best, perf_counter() - began)
        return best / turns * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=500)
    options = parser.parse_args()
    kinds = [(strategy, False) for strategy in TaskAssignmentStrategy]
    kinds.append((TaskAssignmentStrategy.AVAILABILITY_BASED, True))
    names = [f"{strategy.value}{' + prefers' if prefers else ''}" for strategy, prefers in kinds]
    sys.stdout.write("microseconds per decision\n")
    sys.stdout.write(f"{'agents':>8}{'queued':>10}" + "".join(f"{name:>30}" for name in names) + "\n")
    first: list[float] = []
    last: list[float] = []
    for agents in options.agents:
        bench = Bench(agents)
        queued = 0
        for tasks in options.tasks:
            bench.fill(tasks - queued)
            queued = tasks
            last = [bench.microseconds(options.turns, strategy, prefers=prefers) for strategy, prefers in kinds]
            first = first or last
            sys.stdout.write(f"{agents:>8}{tasks:>10}" + "".join(f"{each:>30.1f}" for each in last) + "\n")
            sys.stdout.flush()
    ratios = "".join(f"{b / a:>30.2f}" for a, b in zip(first, last, strict=True))
    sys.stdout.write(f"{'last / first':>18}{ratios}\n")


if __name__ == "__main__":
    main()
