"""What every store must do with what is told: written with its change or not at all, kept until it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from tests.support.store_rows import POOL, T0, S, draft, kept_lines, line_of, own, told

from callboard.orchestrator.store.port import NOWHERE, FencedError, Place, Published

if TYPE_CHECKING:
    from callboard.orchestrator.store.port import Store

AGENT = b'{"agent_id":"a"}'


class OutboxBattery:
    async def test_what_a_batch_tells_is_kept_in_the_order_of_the_commits(self, store: Store) -> None:
        owner = await own(store)
        first, second, brief = draft(), draft(key="k"), draft(key="b").insert_final(S.CANCELLED)
        inserts = (first.insert(), second.insert())
        await owner.commit(*inserts, events=told(*inserts, agents=AGENT))
        _, change = first.move(S.ASSIGNED)
        _, end = second.finish()
        await owner.commit(change, end, brief, events=told(change, end, brief))
        await owner.commit(draft().insert())
        await owner.commit(events=told(agents=AGENT))
        assert await kept_lines(store) == [
            (Place(1, 1), sorted([*map(line_of, inserts), AGENT])),
            (Place(1, 2), sorted([line_of(change), line_of(end), line_of(brief)])),
            (Place(1, 4), [AGENT]),
        ]
        assert [row.place for row in await store.outbox(POOL, Place(1, 1), limit=1)] == [Place(1, 2)]
        rows = await store.outbox(POOL, NOWHERE, limit=9)
        backlog = await store.backlog(POOL)
        # How they are kept is the store's affair.
        assert backlog.rows == 3
        assert backlog.bytes > 0
        assert backlog.oldest_ms == rows[0].at_ms > T0
        assert await store.backlog("other") == (0, 0, None)

    async def test_what_was_not_written_is_not_told(self, store: Store) -> None:
        owner = await own(store)
        holder, other = draft(key="k"), draft()
        await owner.commit(holder.insert(), other.insert())
        refused, twin, brief = draft(key="k"), draft(key="k"), draft(key="k").insert_final(S.EXPIRED)
        stale = replace(other.move(S.ASSIGNED)[1], guard=(S.RUNNING, 7))
        gone = replace(other.finish()[1], guard=(S.RUNNING, 7))
        good, first, second = draft(), draft(key="new"), draft(key="new")
        for changes in (
            (refused.insert(), good.insert(), stale),
            (twin.insert(), brief, gone, first.insert(), second.insert()),
        ):
            await owner.commit(*changes, events=told(*changes))
        assert await kept_lines(store) == [
            (Place(1, 2), [line_of(good.insert())]),
            (Place(1, 3), [line_of(first.insert())]),
        ]

    async def test_what_is_fenced_tells_nothing_and_forgets_nothing(self, store: Store) -> None:
        late = await own(store)
        task = draft().insert()
        await late.commit(task, events=told(task))
        heir = await own(store)
        everything = Published(NOWHERE, Place(9, 9))
        with pytest.raises(FencedError):
            await late.commit(draft().insert(), events=told(agents=AGENT), published=everything)
        with pytest.raises(FencedError):
            await store.renew(late.lease, lease_ms=60_000, published=everything)
        await store.release(late.lease, published=everything)
        assert await kept_lines(store) == [(Place(1, 1), [line_of(task)])]
        await heir.commit(events=told(agents=AGENT))
        assert [place for place, _ in await kept_lines(store)] == [Place(1, 1), Place(2, 1)]

    async def test_a_repeated_batch_tells_once(self, store: Store) -> None:
        owner = await own(store)
        task = draft().insert()
        await owner.commit(task, events=told(task))
        await owner.again(task, events=told(task))
        assert await kept_lines(store) == [(Place(1, 1), [line_of(task)])]

    @pytest.mark.parametrize("by", ["commit", "renew", "release"])
    async def test_what_is_published_is_forgotten(self, store: Store, by: str) -> None:
        theirs, former = await own(store, "other"), await own(store)
        await theirs.commit(events=told(agents=AGENT))
        await former.commit(events=told(agents=AGENT))
        owner = await own(store)
        for _ in range(3):
            await owner.commit(events=told(agents=AGENT))
        published = Published(Place(1, 0), Place(2, 2))
        if by == "commit":
            await owner.commit(published=published)
        elif by == "renew":
            await store.renew(owner.lease, lease_ms=60_000, published=published)
        else:
            await store.release(owner.lease, published=published)
        assert [place for place, _ in await kept_lines(store)] == [Place(2, 3)]
        assert [place for place, _ in await kept_lines(store, "other")] == [Place(1, 1)]
