"""Choosing whom the servers run as for root, and copying programs to where that user can reach them."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from callboard.bus import unprivileged
from callboard.bus.child import Account, EmbeddedServerError
from callboard.bus.unprivileged import choose_account, reachable

if TYPE_CHECKING:
    from pathlib import Path

NOBODY_WE_ARE = Account(os.geteuid() + 54321, os.getegid() + 54321)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A program and its data in a directory closed to others."""
    root = tmp_path / "closed"
    (root / "bin").mkdir(parents=True)
    (root / "share" / "deep").mkdir(parents=True)
    (root / "bin" / "program").write_text("#!/bin/sh\n")
    (root / "bin" / "program").chmod(0o700)
    (root / "share" / "deep" / "table").write_text("data")
    (root / "other").write_text("not asked for")
    root.chmod(0o700)
    return root


def copy(programs: Path) -> Path:
    return reachable(programs, ["bin/program", "share", "absent"], key="test-1", account=NOBODY_WE_ARE)


def use_caches(monkeypatch: pytest.MonkeyPatch, *caches: Path) -> None:
    monkeypatch.setattr(unprivileged, "CACHES", caches)


def test_nothing_is_copied_without_need(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_caches(monkeypatch)
    assert reachable(programs, ["bin/program"], key="test-1", account=None) == programs
    us = Account(os.geteuid(), os.getegid())
    assert reachable(programs, ["bin/program"], key="test-1", account=us) == programs


def test_a_copy_is_open_whole_and_made_once(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_caches(monkeypatch, tmp_path)
    made = copy(programs)
    files = {path.relative_to(made): path for path in made.rglob("*")}
    assert sorted(map(str, files)) == ["bin", "bin/program", "share", "share/deep", "share/deep/table"]
    assert all(path.stat().st_mode & 0o005 for path in files.values())
    assert (made / "bin" / "program").stat().st_mode & 0o777 == 0o755
    before = made.stat().st_ino
    assert copy(programs) == made
    assert made.stat().st_ino == before


def test_a_copy_that_lost_files_is_made_again(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_caches(monkeypatch, tmp_path)
    table = copy(programs) / "share" / "deep" / "table"
    table.unlink()
    assert copy(programs) == table.parents[2]
    assert table.read_text() == "data"
    assert [path.name for path in (tmp_path / "callboard").iterdir()] == ["test-1"]


def test_a_folder_others_can_write_is_not_trusted(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, safe = tmp_path / "hostile", tmp_path / "safe"
    for base in (hostile, safe):
        base.mkdir()
    (hostile / "callboard").mkdir()
    (hostile / "callboard").chmod(0o777)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "callboard").symlink_to(tmp_path)
    use_caches(monkeypatch, hostile, linked, safe)
    assert copy(programs).parent == safe / "callboard"
    use_caches(monkeypatch, hostile, linked, tmp_path / "absent")
    with pytest.raises(EmbeddedServerError, match="run callboard as another user, or set NATS_URL") as refused:
        copy(programs)
    assert "that we alone can write" in str(refused.value)


def test_the_owner_of_the_data_stays_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    chosen = choose_account(tmp_path / "absent")
    assert chosen is not None
    assert chosen.uid != 0
    owner = tmp_path.stat().st_uid
    assert choose_account(tmp_path) == (Account(owner, tmp_path.stat().st_gid) if owner else chosen)


def test_a_machine_with_root_alone_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwall", lambda: [pwd.getpwuid(0)])
    with pytest.raises(EmbeddedServerError, match="set NATS_URL and DATABASE_URL, or add a user"):
        choose_account(tmp_path / "absent")
