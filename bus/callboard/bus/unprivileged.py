"""Running the embedded servers for root, who may not run them: PostgreSQL refuses, and nats-server need not be trusted.

Rules:
- No user is added to the machine and no permission of a directory that is not ours is changed.
- The user is the one that owns the data already; else `postgres`, `nobody`, or the first other system user. It needs an
  entry in the user database: `initdb` looks its own name up.
- Programs that this user cannot reach (a virtual environment below `/root`) are copied once for each version to a
  directory that root alone may write. Data directories need no copy: a child enters its own before it changes user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from callboard.bus.child import Account, EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CACHES = (Path("/var/cache"), Path("/var/lib"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - `_cache` admits only a folder of our own
READ, SEARCH = 0o4, 0o1


def choose_account(data: Path) -> Account | None:
    """The user the server of the directory `data` runs as; none means ourselves, since we are not root.

    Raises:
        EmbeddedServerError: We are root, and the machine has no other user.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not entries:
        raise EmbeddedServerError(
            "the embedded servers do not run as root and this machine has no other user:"
            " set NATS_URL and DATABASE_URL, or add a user"
        )
    preferred = {"postgres": 0, "nobody": 1}
    entry = min(entries, key=lambda one: (preferred.get(one.pw_name, 2), one.pw_uid))
    return Account(entry.pw_uid, entry.pw_gid)


def reachable(root: Path, parts: Sequence[str], *, key: str, account: Account | None) -> Path:
    """A directory with the same `parts` (files or folders) as `root` that `account` can read: `root` itself, or a copy.

    Blocking, some 0.2 s when it copies: call it in a worker thread.

    Args:
        root: Where the programs are.
        parts: Relative paths; one that does not exist is left out.
        key: Names the copy, with the version of what is copied.
        account: The user, or none when no other user is involved.

    Raises:
        EmbeddedServerError: A copy is needed and none of `CACHES` can hold it.
    """
    root = root.resolve()
    if account is None or _can_read(root, parts, account):
        return root
    problems = []
    for base in CACHES:
        try:
            return _copy(root, parts, _cache(base) / key)
        except OSError as error:
            problems.append(f"{base}: {error.strerror or error}")
    raise EmbeddedServerError(
        f"{root} is closed to uid {account.uid}, as which the embedded servers run for root, and no copy can be made"
        f" ({'; '.join(problems)}): run callboard as another user, or set NATS_URL and DATABASE_URL"
    )


def _can_read(root: Path, parts: Sequence[str], account: Account) -> bool:
    parents = all(_allows(parent, account, SEARCH) for parent in (root, *root.parents))
    return parents and all(
        _allows(path, account, READ | SEARCH if path.is_dir() or os.access(path, os.X_OK) else READ)
        for path in (root / relative for relative in _entries(root, parts))
    )


def _allows(path: Path, account: Account, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == account.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted


def _entries(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Everything below the parts, and each folder between `root` and a part."""
    for part in parts:
        if not (root / part).exists():
            continue
        yield from (parent for parent in Path(part).parents if parent != Path())
        yield Path(part)
        yield from (path.relative_to(root) for path in (root / part).rglob("*"))


def _cache(base: Path) -> Path:
    """The folder of ours in `base`, safe against whoever else may write to `base`."""
    cache = base / "callboard"
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        raise OSError(None, "is mounted noexec")
    cache.mkdir(mode=0o755, exist_ok=True)
    status = cache.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(None, f"{cache} is not a directory that we alone can write")
    cache.chmod(0o755)
    return cache


def _copy(root: Path, parts: Sequence[str], target: Path) -> Path:
    """Copy the parts to `target`, in one step for whoever looks; a copy that is whole is kept."""
    if _same(root, parts, target):
        return target
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}."))
    try:
        work.chmod(0o755)
        fresh, old = work / "fresh", work / "old"
        for relative in sorted(set(_entries(root, parts))):
            source, copy = root / relative, fresh / relative
            if source.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
                copy.chmod(0o755)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        fresh.chmod(0o755)
        if target.exists():
            target.rename(old)  # it has lost files, as folders for temporary files do
        fresh.rename(target)
    except OSError:
        # Another process may have been first.
        if not _same(root, parts, target):
            raise
    finally:
        shutil.rmtree(work)
    return target


def _same(root: Path, parts: Sequence[str], target: Path) -> bool:
    for relative in _entries(root, parts):
        source, copy = root / relative, target / relative
        if source.is_dir():
            if not copy.is_dir():
                return False
        elif not copy.is_file() or copy.stat().st_size != source.stat().st_size:
            return False
    return True
