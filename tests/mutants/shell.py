"""Mutants of what is around the core: the owner and its hand, the keeper, the store, the SDK's session."""

from typing import Final

from tests.mutants.mutant import Mutant

_SHELL: Final = "orchestrator/callboard/orchestrator"
_STORE: Final = f"{_SHELL}/store"
_SESSION: Final = "agents/callboard/agents/session"
_SESSION_TESTS: Final = ("tests/unit/test_agents_session.py",)

OWNER: Final = (
    Mutant(
        safeguard="trust check before effects",
        path=f"{_SHELL}/owner.py",
        old="            may_act=lambda: self._trust.holds and self._lost is None,",
        new="            may_act=lambda: self._lost is None,",
        tests=("tests/integration/test_owner_safeguards.py",),
    ),
    Mutant(
        safeguard="trust ends",
        path=f"{_SHELL}/trust.py",
        old="        return self._steady() < self._until_s",
        new="        return self._steady() > 0",
        tests=("tests/integration/test_take_over.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="trust runs from before the request was sent",
        path=f"{_SHELL}/writer.py",
        old="                    self._trust.extend(began_s)",
        new="                    self._trust.extend(steady_s())",
        tests=("tests/unit/test_writer.py",),
    ),
    Mutant(
        safeguard="trust is not extended by a repeated commit",
        path=f"{_SHELL}/writer.py",
        old="if tries == 1 or isinstance(result, Lease):",
        new="if tries > 0 or isinstance(result, Lease):",
        tests=("tests/unit/test_writer.py",),
    ),
    Mutant(
        safeguard="a commit in doubt is repeated",
        path=f"{_SHELL}/writer.py",
        old="                await asyncio.sleep(RETRY_S)",
        new='                self._on_lost("the database is away")\n                return None',
        tests=("tests/unit/test_writer.py",),
    ),
    Mutant(
        safeguard="lease renewal only while heard",
        path=f"{_SHELL}/owner.py",
        old="        if self._trust.is_heard and (",
        new="        if self._trust is not None and (",
        tests=("tests/integration/test_owner_safeguards.py",),
    ),
    Mutant(
        safeguard="a replica that is deaf takes no pool",
        path=f"{_SHELL}/keeper.py",
        old="                await self._premises.bus.rtt(HEAR_S)\n",
        new="",
        tests=("tests/integration/test_deaf_replica.py",),
    ),
    Mutant(
        safeguard="passive owner refuses",
        path=f"{_SHELL}/owner.py",
        old="        if not self.is_active or not self._trust.holds or self._writer.is_in_doubt:",
        new="        if self._lost:",
        tests=("tests/integration/test_take_over.py",),
    ),
    Mutant(
        safeguard="observation resumed before timers",
        path=f"{_SHELL}/owner.py",
        old="            # Before any timer: nobody may be judged by a silence that could not be heard.\n"
        "            self._effects.add(self.machine.handle(ObservationResumed(), self.clock.now_ms()))\n",
        new="",
        tests=("tests/integration/test_owner_safeguards.py",),
    ),
    Mutant(
        safeguard="a trusted owner believes no announcement",
        path=f"{_SHELL}/keeper.py",
        old="event.epoch > lease.epoch and not owner.is_active:",
        new="event.epoch > lease.epoch:",
        tests=("tests/contract/test_bad_input.py::test_a_forged_announcement_of_another_owner_is_not_believed",),
    ),
)

STORE: Final = (
    Mutant(
        safeguard="epoch fence in commits (Postgres)",
        path=f"{_STORE}/batch.py",
        old="WHERE pool = $1 AND epoch = $2 AND holder = $3 AND batch = $4::bigint - 1",
        new="WHERE pool = $1 AND $2::bigint > 0 AND $3::text <> '' AND batch = $4::bigint - 1",
        tests=("tests/integration/test_store_faults.py", "tests/integration/test_store_postgres.py"),
    ),
    Mutant(
        safeguard="epoch fence in commits (memory)",
        path=f"{_STORE}/memory.py",
        old="or (held.lease.holder, held.lease.epoch) != (lease.holder, lease.epoch):",
        new="or not lease.epoch:",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="batch number check (Postgres)",
        path=f"{_STORE}/batch.py",
        old="WHERE pool = $1 AND epoch = $2 AND holder = $3 AND batch = $4::bigint - 1",
        new="WHERE pool = $1 AND epoch = $2 AND holder = $3 AND $4::bigint > 0",
        tests=("tests/integration/test_store_faults.py", "tests/integration/test_store_postgres.py"),
    ),
    Mutant(
        safeguard="batch number check (memory)",
        path=f"{_STORE}/memory.py",
        old=(
            "        if held.lease.batch == number:\n"
            "            return replace(held.last, now_ms=now_ms)\n"
            "        if held.lease.batch != number - 1:"
        ),
        new="        if number < 0:",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="a batch committed before is known again (Postgres)",
        path=f"{_STORE}/commit.py",
        old="        if lease.batch != self._number:",
        new="        if lease.batch != -1:",
        tests=("tests/integration/test_store_faults.py", "tests/integration/test_store_postgres.py"),
    ),
    Mutant(
        safeguard="idempotency key (Postgres)",
        path=f"{_STORE}/batch.py",
        old="    WHERE k.finished_ms + (SELECT key_retention_ms FROM lease) <= excluded.claimed_ms\n",
        new="",
        tests=("tests/integration/test_store_postgres.py",),
    ),
    Mutant(
        safeguard="idempotency key (memory)",
        path=f"{_STORE}/memory.py",
        old=(
            "            if claim is not None and not self._is_over(claim, new.created_ms):\n"
            "                return False\n"
        ),
        new="",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="row guard (Postgres)",
        path=f"{_STORE}/batch.py",
        old="        AND t.state = x.was_state AND t.attempt = x.was_attempt\n    RETURNING t.id\n",
        new="    RETURNING t.id\n",
        tests=("tests/integration/test_store_postgres.py",),
    ),
    Mutant(
        safeguard="a lease that is not over is not taken (Postgres)",
        path=f"{_STORE}/leases.py",
        old="WHERE l.holder IS NULL OR l.holder = excluded.holder OR l.expires_at <= now()",
        new="WHERE l.pool IS NOT NULL",
        tests=("tests/integration/test_store_postgres.py",),
    ),
    Mutant(
        safeguard="a lease that is not over is not taken (memory)",
        path=f"{_STORE}/memory.py",
        old="if not held.is_given_up and held.lease.holder != holder and held.expires_ms > now_ms:",
        new="if held.expires_ms < 0:",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
)

SESSION: Final = (
    Mutant(
        safeguard="agents re-send what is not recorded",
        path=f"{_SESSION}/machine.py",
        old="        if held := self._current(event):\n            self._ledger.put_off(held, self._now_ms)\n",
        new="        self._current(event)\n",
        tests=_SESSION_TESTS,
        simulated=True,
    ),
    Mutant(
        safeguard="agents list what is finished and not recorded",
        path=f"{_SESSION}/states.py",
        old="frozenset({AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.REPORTING, AttemptState.RELEASED})",
        new="frozenset({AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.RELEASED})",
        tests=_SESSION_TESTS,
        simulated=True,
    ),
    Mutant(
        safeguard="duplicate assignment run once",
        path=f"{_SESSION}/offers.py",
        old="        known = self._recent.answer(ref, now_ms=now_ms)",
        new="        known = None",
        tests=_SESSION_TESTS,
        simulated=True,
    ),
    Mutant(
        safeguard="cancelled attempt remembered",
        path=f"{_SESSION}/machine.py",
        old="            self._offers.remember(ref, CANCELLED, now_ms=self._now_ms)\n            held = ",
        new="            held = ",
        tests=_SESSION_TESTS,
        simulated=True,
    ),
    Mutant(
        safeguard="lower epoch ignored by agents: orders",
        path=f"{_SESSION}/presence.py",
        old="        if epoch < self.epoch:\n            return False\n",
        new="",
        tests=_SESSION_TESTS,
        simulated=True,
    ),
    Mutant(
        safeguard="lower epoch ignored by agents: answers",
        path=f"{_SESSION}/presence.py",
        old="        if answer.epoch < self.epoch and not forgets_epoch:",
        new="        if answer.epoch < 0 and not forgets_epoch:",
        tests=_SESSION_TESTS,
    ),
    Mutant(
        safeguard="an agent without a lease takes nothing",
        path=f"{_SESSION}/offers.py",
        old="        if self._presence.phase is Phase.LEASE_LOST:\n            return AssignAnswer",
        new="        if self._presence.phase is Phase.GONE:\n            return AssignAnswer",
        tests=_SESSION_TESTS,
    ),
    Mutant(
        safeguard="unknown agents register and repeat",
        path=f"{_SESSION}/machine.py",
        old=("        if self.phase is Phase.SIGNED_IN:\n            self._do(self._presence.forget(self._now_ms))\n"),
        new="        pass\n",
        tests=_SESSION_TESTS,
    ),
    Mutant(
        safeguard="the first register is repeated within the shortest lease",
        path=f"{_SESSION}/presence.py",
        old="        return min(UNTOLD_INTERVAL_MS << doublings, self.interval_ms)",
        new="        return self.interval_ms + doublings",
        tests=_SESSION_TESTS,
    ),
    Mutant(
        safeguard="never more handlers than slots",
        path=f"{_SESSION}/ledger.py",
        old="return self.handlers >= self._slots or ",
        new="return ",
        tests=_SESSION_TESTS,
    ),
)

CLIENT: Final = (
    Mutant(
        safeguard="the server that was lost comes last",
        path="bus/callboard/bus/connection.py",
        old="                self._servers.rotate(-1)\n",
        new="",
        tests=("tests/integration/test_bus_connection.py",),
    ),
    Mutant(
        safeguard="an end in the moment of taking a connection over is noticed",
        path="bus/callboard/bus/link.py",
        old="        if has_ended:",
        new="        if error is not None:",
        tests=("tests/integration/test_bus_arrivals.py",),
    ),
    Mutant(
        safeguard="an exit status that is lost is no success",
        path="bus/callboard/bus/processes.py",
        old="            return LOST",
        new="            return 0",
        tests=("tests/integration/test_processes.py",),
    ),
    Mutant(
        safeguard="nobody begins beside another database",
        path=f"{_SHELL}/replicas.py",
        old="            raise conflict(pool, other)",
        new='            log.error("conflict")',
        tests=("tests/integration/test_strangers.py",),
    ),
    Mutant(
        safeguard="the later of two databases leaves",
        path=f"{_SHELL}/replicas.py",
        old="            self._on_conflict(error)",
        new='            log.error("conflict")',
        tests=("tests/integration/test_strangers.py",),
    ),
    Mutant(
        safeguard="news of another database do not spread our pools",
        path=f"{_SHELL}/replicas.py",
        old="            self._meet(standing)\n            return",
        new="            self._meet(standing)",
        tests=("tests/integration/test_strangers.py",),
    ),
    Mutant(
        safeguard="what a frozen owner does not answer is asked again",
        path="bus/callboard/bus/ask_again.py",
        old="        if left_s <= 0 or self.answered.done():",
        new="        if left_s >= 0:",
        tests=("tests/integration/test_client.py",),
    ),
    Mutant(
        safeguard="who answers late is asked less often",
        path="bus/callboard/bus/ask_again.py",
        old="        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)",
        new="        self.pause_s = FIRST_PAUSE_S",
        tests=("tests/integration/test_client.py",),
    ),
    Mutant(
        safeguard="an index that was half built is built anew",
        path=f"{_STORE}/large_tables.py",
        old="        if is_valid is False:",
        new="        if is_valid is True:",
        tests=("tests/integration/test_store_schema.py",),
    ),
)

EVENTS: Final = (
    Mutant(
        safeguard="what is told is written with its change",
        path=f"{_STORE}/batch_rows.py",
        old="(batch.TOLD, [(pressed(lines),)] if lines else []),",
        new="(batch.TOLD, []),",
        tests=("tests/integration/test_store_postgres.py",),
    ),
    Mutant(
        safeguard="what was not written is left out of what was told",
        path=f"{_STORE}/outbox.py",
        old='    if not row["unwritten"]:\n',
        new='    if row["unwritten"] is not None:\n',
        tests=("tests/integration/test_store_postgres.py",),
    ),
    Mutant(
        safeguard="what is told is kept, in memory too",
        path=f"{_STORE}/memory.py",
        old="        if told:\n",
        new="        if not told:\n",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="what was not written is not told",
        path=f"{_STORE}/memory.py",
        old="if task_id not in refused | stale]",
        new="if task_id]",
        tests=("tests/unit/test_store_memory.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="a task that never existed is not told of",
        path=f"{_SHELL}/settling.py",
        old="[change for change in told if change.about not in dropped]",
        new="told",
        tests=("tests/unit/test_settling.py", "tests/contract/test_events.py"),
    ),
    Mutant(
        safeguard="forgotten only once it has arrived",
        path=f"{_SHELL}/outgoing.py",
        old="        return Published(self._forgotten, self.published)",
        new="        return Published(self._forgotten, self.last)",
        tests=("tests/unit/test_publisher.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="what may not have arrived is read again",
        path=f"{_SHELL}/outgoing.py",
        old="        self._waiting_bytes = 0\n        self._read_through = self.last\n",
        new="        self._waiting_bytes = 0\n",
        tests=("tests/unit/test_publisher.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="what a former owner left is published",
        path=f"{_SHELL}/outgoing.py",
        old='        self._read_through = self.last\n        """Through',
        new='        self._read_through = NOWHERE\n        """Through',
        tests=("tests/unit/test_publisher.py",),
        simulated=True,
    ),
    Mutant(
        safeguard="events are published while the lease is trusted",
        path=f"{_SHELL}/publisher.py",
        old="        if not self._may_publish():",
        new="        if False:",
        tests=("tests/unit/test_publisher.py",),
    ),
    Mutant(
        safeguard="without a key the same again is another task",
        path=f"{_SHELL}/task_requests.py",
        old="        if spec.key is not None:\n            submission.expect_more()",
        new="        submission.expect_more()",
        tests=("tests/contract/test_submit_many.py",),
    ),
    Mutant(
        safeguard="nothing joins a submission that is answered",
        path=f"{_SHELL}/sendings.py",
        old="        self._open.pop(self._data, None)\n",
        new="",
        tests=("tests/unit/test_sendings.py",),
    ),
    Mutant(
        safeguard="a deep queue leaves room for what begins at once",
        path=f"{_SHELL}/recent.py",
        old="room = self._waited if columns.agent_id is None else self._began",
        new="room = self._waited",
        tests=("tests/unit/test_recent.py",),
    ),
    Mutant(
        safeguard="an answer that is long in coming holds nothing up",
        path="bus/callboard/bus/gather.py",
        old="                self._timer = self._loop.call_later(HELD_S, self._go)\n",
        new="                pass\n",
        tests=("tests/unit/test_gather.py",),
    ),
)
