"""Mutants of the scheduling core."""

from typing import Final

from tests.mutants.mutant import Mutant

_CORE: Final = "orchestrator/callboard/orchestrator/core"
_UNIT: Final = "tests/unit/test_core"

CORE: Final = (
    # Who is heard of an attempt.
    Mutant(
        safeguard="attempt check on reports",
        path=f"{_CORE}/attempts.py",
        old="return task if task.attempt == held[1] and task.agent_id == agent_id else None",
        new="return task if task.agent_id == agent_id else None",
        tests=(f"{_UNIT}_reports.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="agent check on reports",
        path=f"{_CORE}/attempts.py",
        old="return task if task.attempt == held[1] and task.agent_id == agent_id else None",
        new="return task if task.attempt == held[1] else None",
        tests=(f"{_UNIT}_reports.py", f"{_UNIT}_agents.py"),
    ),
    Mutant(
        safeguard="incarnation check on reports",
        path=f"{_CORE}/reports.py",
        old="    if agent is None or agent.incarnation != event.incarnation:\n        if agent is not None and event",
        new="    if agent is None:\n        if agent is not None and event",
        tests=(f"{_UNIT}_agents.py",),
    ),
    Mutant(
        safeguard="a repeated report gets its first answer",
        path=f"{_CORE}/reports.py",
        old="    if first is not None and first.outcome is outcome:",
        new="    if first is not None and first.outcome is outcome and event.looked is event:",
        tests=(f"{_UNIT}_reports.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="late success: only of what was given up",
        path=f"{_CORE}/late.py",
        old="        and end.outcome in GIVEN_UP\n",
        new="",
        tests=(f"{_UNIT}_late_results.py",),
    ),
    Mutant(
        safeguard="late success: only while the task waits",
        path=f"{_CORE}/late.py",
        old="        and task.state in WAITING_TASK_STATES\n",
        new="",
        tests=(f"{_UNIT}_late_results.py",),
    ),
    Mutant(
        safeguard="terminal guard",
        path=f"{_CORE}/tasks.py",
        old=(
            "    if task.state.is_final:\n"
            "        _answer_ended(pool, event.ticket, task.task_id, task.state, wanted)\n"
            "        return\n"
        ),
        new="",
        tests=(f"{_UNIT}_outcomes.py",),
        simulated=True,
    ),
    # Questions and answers.
    Mutant(
        safeguard="the number of a question",
        path=f"{_CORE}/dialogues.py",
        old="elif dialogue is not None and dialogue.is_open and event.query in {None, dialogue.query}:",
        new="elif dialogue is not None and dialogue.is_open:",
        tests=(f"{_UNIT}_dialogues.py",),
    ),
    Mutant(
        safeguard="attempt check on answers",
        path=f"{_CORE}/dialogues.py",
        old="if event.attempt is not None and event.attempt != task.attempt:",
        new="if event.attempt is None and event.attempt != task.attempt:",
        tests=(f"{_UNIT}_dialogues.py",),
    ),
    Mutant(
        safeguard="what was reported occupies no slot when it is listed late",
        path=f"{_CORE}/holds.py",
        old="    agent.reported[held] = None\n",
        new="",
        tests=(f"{_UNIT}_agents.py",),
    ),
    Mutant(
        safeguard="an answer is sent until it is acknowledged",
        path=f"{_CORE}/dialogues.py",
        old="    if pool.is_committed(task.changed_in):\n        pool.at_once.append(effect)\n",
        new="",
        tests=(f"{_UNIT}_dialogues.py",),
    ),
    Mutant(
        safeguard="an answer is sent after the commit",
        path=f"{_CORE}/dialogues.py",
        old="        pool.after_commit.append(effect)\n        pool.timers.set(Clock.ANSWER",
        new="        pool.at_once.append(effect)\n        pool.timers.set(Clock.ANSWER",
        simulated=True,
    ),
    Mutant(
        safeguard="a new owner knows questions and answers",
        path=f"{_CORE}/restore.py",
        old="    task.dialogue = dialogue\n",
        new="",
        tests=(f"{_UNIT}_dialogues.py", f"{_UNIT}_restore.py"),
        simulated=True,
    ),
    Mutant(
        safeguard="what waits for an answer that cannot come is stopped",
        path=f"{_CORE}/listing.py",
        old="    if task.last_end is not None and task.last_end.awaits_answer:\n        return False\n",
        new="",
        tests=(f"{_UNIT}_late_results.py",),
    ),
    # Nobody is judged by what could not be heard.
    Mutant(
        safeguard="grace before a lease is over",
        path=f"{_CORE}/liveness.py",
        old="heard_ms = max(agent.seen_ms, pool.observing_from_ms)",
        new="heard_ms = agent.seen_ms",
        tests=(f"{_UNIT}_liveness.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="grace before a run or progress limit",
        path=f"{_CORE}/attempts.py",
        old=(
            "    if now_ms < pool.grace_until_ms:\n"
            "        pool.timers.set(clock, task.task_id, pool.grace_until_ms)\n"
            "        return\n"
        ),
        new="",
        tests=(f"{_UNIT}_liveness.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="grace before the deadline of a held task",
        path=f"{_CORE}/tasks.py",
        old="if task.state in HELD_TASK_STATES and now_ms < pool.grace_until_ms:",
        new="if task.state.is_final and now_ms < pool.grace_until_ms:",
        tests=(f"{_UNIT}_liveness.py",),
    ),
    Mutant(
        safeguard="heartbeat seq",
        path=f"{_CORE}/liveness.py",
        old="    if message.seq > agent.seq:\n",
        new="    if message.seq != -1:\n",
        tests=(f"{_UNIT}_agents.py",),
    ),
    Mutant(
        safeguard="two listings, not one, before unlisted is crashed",
        path=f"{_CORE}/listing.py",
        old="LISTINGS_TO_CRASH = 2",
        new="LISTINGS_TO_CRASH = 1",
        tests=(f"{_UNIT}_agents.py",),
    ),
    Mutant(
        safeguard="no cancel because of an uncommitted change",
        path=f"{_CORE}/listing.py",
        old="return task is None or pool.is_committed(task.changed_in)",
        new="return task is None or task is not None",
        tests=(f"{_UNIT}_agents.py",),
    ),
    Mutant(
        safeguard="replaced incarnations are remembered",
        path=f"{_CORE}/liveness.py",
        old=(
            "    if message.incarnation in agent.replaced:\n"
            "        pool.refuse(event.ticket, IncarnationReplacedError())\n"
            "        return\n"
        ),
        new="",
        tests=(f"{_UNIT}_agents.py",),
    ),
    # The window.
    Mutant(
        safeguard="window: everything waits behind a dry lane",
        path=f"{_CORE}/queue.py",
        old=(
            "                    self._mark_ready(placement)\n"
            "                    self._is_stalled = True\n"
            "                    return\n"
        ),
        new="                    continue\n",
        tests=(f"{_UNIT}_window.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="window: nothing is placed from beyond the edge",
        path=f"{_CORE}/lanes.py",
        old="return head if head is not None and (self.edge is None or head.place <= self.edge) else None",
        new="return head",
        tests=(f"{_UNIT}_window.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="window: what left memory is not taken from an old read",
        path=f"{_CORE}/window.py",
        old="        if not pool.absent.departures.since(stored.columns.task_id, stamp):\n            adopt",
        new="        if stored is not None:\n            adopt",
        tests=(f"{_UNIT}_window.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="window: nor from an old look at one task",
        path=f"{_CORE}/tasks.py",
        old="if looked is None or pool.absent.departures.since(event.task_id, event.stamp):",
        new="if looked is None:",
        tests=(f"{_UNIT}_window.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="window: the agenda is read before time changes a task",
        path=f"{_CORE}/window.py",
        old='        pool.timers.set(Clock.AGENDA, "", edge[0] - AGENDA_LEAD_MS)',
        new='        pool.timers.set(Clock.AGENDA, "", edge[0] + 3_600_000)',
        tests=(f"{_UNIT}_window.py",),
        simulated=True,
    ),
    # Slots and keys.
    Mutant(
        safeguard="slot held until the attempt is unlisted",
        path=f"{_CORE}/tasks.py",
        old="    end_attempt(pool, task, Outcome.CANCELLED, now_ms, what=what, reason=reason)\n",
        new=(
            "    agent, held = pool.agent_of(task), task.held\n"
            "    end_attempt(pool, task, Outcome.CANCELLED, now_ms, what=what, reason=reason)\n"
            "    from callboard.orchestrator.core import holds\n"
            "    holds.give_back(pool, agent, held)\n"
        ),
        tests=(f"{_UNIT}_agents.py", f"{_UNIT}_concurrency.py"),
    ),
    Mutant(
        safeguard="slot taken by an offer in flight",
        path=f"{_CORE}/holds.py",
        old="    agent.holds[task.held] = accepted\n",
        new="    if accepted:\n        agent.holds[task.held] = accepted\n",
        tests=(f"{_UNIT}_placement.py", f"{_UNIT}_agents.py"),
        simulated=True,
    ),
    Mutant(
        safeguard="concurrency key: what is over counts until it is given back",
        path=f"{_CORE}/sealing.py",
        old="kept_holds=holds.lingering(pool),",
        new="kept_holds=(),",
        tests=(f"{_UNIT}_concurrency.py",),
    ),
    Mutant(
        safeguard="concurrency key: a new owner counts that, too",
        path=f"{_CORE}/restore.py",
        old="        if holder is not None:\n            holds.restore_lingering",
        new="        if holder is None:\n            holds.restore_lingering",
        tests=(f"{_UNIT}_concurrency.py",),
    ),
    Mutant(
        safeguard="concurrency key: a new owner knows the limits",
        path=f"{_CORE}/restore.py",
        old="        pool.queue.add_limit(key, limit, tasks)",
        new="        pool.queue.add_limit(key, limit + 100, tasks)",
        tests=(f"{_UNIT}_concurrency.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="concurrency key: a lease that is over frees it",
        path=f"{_CORE}/liveness.py",
        old="        holds.release_keys(pool, agent)\n",
        new="",
        tests=(f"{_UNIT}_concurrency.py",),
        simulated=True,
    ),
    # After the commit.
    Mutant(
        safeguard="offers only after the commit",
        path=f"{_CORE}/attempts.py",
        old="    pool.after_commit.append(_offer(",
        new="    pool.at_once.append(_offer(",
        tests=(f"{_UNIT}_offers.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="`recorded` and other answers only after the commit",
        path=f"{_CORE}/pool.py",
        old="        self.after_commit.append(Answer(ticket, message))",
        new="        self.at_once.append(Answer(ticket, message))",
        tests=(f"{_UNIT}_reports.py", f"{_UNIT}_agents.py"),
        simulated=True,
    ),
    Mutant(
        safeguard="refused insert undone",
        path=f"{_CORE}/machine.py",
        old="        for task_id in event.refused:\n            self._undo(task_id)\n",
        new="",
        tests=(f"{_UNIT}_batches.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="an offer is repeated only once it is committed",
        path=f"{_CORE}/attempts.py",
        old="    if not pool.is_committed(task.changed_in):\n",
        new="    if task.changed_in < 0:\n",
        tests=(f"{_UNIT}_offers.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="an attempt that ended meanwhile is not offered",
        path=f"{_CORE}/sealing.py",
        old="return task is not None and task.state is TaskState.ASSIGNED and task.attempt == offer.attempt",
        new="return task is not offer",
        tests=(f"{_UNIT}_offers.py", f"{_UNIT}_batches.py", f"{_UNIT}_outcomes.py"),
    ),
    Mutant(
        safeguard="running is told when it is written",
        path=f"{_CORE}/pool.py",
        old="        if said.task_id in self.dirty:\n",
        new="        if said.task_id:\n",
        tests=(f"{_UNIT}_batches.py",),
    ),
    # Budgets and sickness.
    Mutant(
        safeguard="quarantine after crashes on two agents",
        path=f"{_CORE}/retry.py",
        old="if task.crashes >= settings.quarantine_crashes and len(task.crashed_on) >= settings.quarantine_agents:",
        new="if task.crashes < 0:",
        tests=(f"{_UNIT}_outcomes.py",),
    ),
    Mutant(
        safeguard="attempts are a budget",
        path=f"{_CORE}/retry.py",
        old="    if given_up or task.spent >= task.max_attempts:",
        new="    if given_up or task.spent > task.max_attempts:",
        tests=(f"{_UNIT}_outcomes.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="misses are free",
        path=f"{_CORE}/retry.py",
        old="COSTS_AN_ATTEMPT: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED})",
        new=(
            "COSTS_AN_ATTEMPT: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED, "
            "Outcome.UNDELIVERED})"
        ),
        tests=(f"{_UNIT}_outcomes.py",),
    ),
    Mutant(
        safeguard="a retry avoids the agent that it was spent on",
        path=f"{_CORE}/placement.py",
        old='            parts["retry"] = -RETRY_PENALTY\n',
        new='            parts["retry"] = 0.0\n',
        tests=(f"{_UNIT}_placement.py", f"{_UNIT}_labels.py"),
    ),
    Mutant(
        safeguard="undelivered makes suspect",
        path=f"{_CORE}/attempts.py",
        old='        set_liveness(pool, agent, AgentState.SUSPECT, now_ms, reason="offer undelivered")',
        new="        pass",
        tests=(f"{_UNIT}_offers.py",),
    ),
    Mutant(
        safeguard="a sick agent is quarantined",
        path=f"{_CORE}/health.py",
        old="        agent.failures_in_row += 1\n",
        new="",
        tests=(f"{_UNIT}_health.py",),
    ),
)
