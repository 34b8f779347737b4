"""The pipeline of docs/pipelines.md, as it is printed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.desk import BLOCK, Desk, blocks, check_commands

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()


async def test_what_is_dropped_in_comes_out_at_the_end(tmp_path: Path) -> None:
    names = iter(("callboard.toml", "drop.py", "forward.py"))
    for kind, content in BLOCK.findall(PAGE):
        if kind in {"toml", "python"}:
            name = next(names)
            assert f"`{name}`" in PAGE
            (tmp_path / name).write_text(content)
    board, address, *terminals = blocks(PAGE, "sh")
    desk = Desk(tmp_path)
    async with AsyncExitStack() as open_ones:
        await open_ones.enter_async_context(desk.terminal(board, ready=b"callboard.json"))
        desk.export(address.strip())
        for terminal in terminals:
            await open_ones.enter_async_context(desk.terminal(terminal))
        await check_commands(desk, "".join(blocks(PAGE, "console")))
    assert next(names, None) is None
