"""Bells: for each reader a file, named after the client part of its process-local channels,
`prefix.CLIENT!suffix`. A sender touches it to wake the reader; its lock says that the reader lives.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from typing import Any

from .._storing import folders, forks, locks
from .._storing.database import Database
from .._storing.files import Files

CLIENT = re.compile(r"[A-Za-z0-9_-]{12}", re.ASCII)
BEING_MADE = ".new-"
STATUS_SIZE = 1024  # bytes, padded, so that one write replaces all of it
AT_ONCE = 200  # files that a sweeper has open
TRIES = 20  # to make a bell: a sweeper may have looked at it before it was locked
FOLLOWS = os.utime not in os.supports_follow_symlinks  # Windows cannot help it
LOOKING = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@lru_cache(16_384)
def client_of(inbox: str) -> str | None:
    """The client part of a process-local inbox; None for a normal channel, and for a name that
    cannot be a bell's.
    """
    if not inbox.endswith("!"):
        return None
    client = inbox[inbox.rfind(".") + 1 : -1]
    return client if CLIENT.fullmatch(client) else None


class Bell:
    """A reader's own bell; there, and locked, from the making of this object to its `close`."""

    def __init__(self, files: Files, client: str, status: dict[str, Any]) -> None:
        """Raises OSError where it cannot be made."""
        self.path = os.path.join(files.bells, client)
        self._status = status
        self._in_use = threading.RLock()
        with forks.no_fork():  # a child that is forked meanwhile would keep the lock
            self._descriptor = _make_locked(files, client, status)
        self._said_at = os.fstat(self._descriptor.number).st_mtime_ns

    def is_in(self, files: Files) -> bool:
        """Return True if it is still there, by its name, in the directory of these files."""
        return os.path.dirname(self.path) == files.bells and _is_named(self._descriptor, self.path)

    def say(self, status: dict[str, Any]) -> None:
        """Write how the reader is into its bell, if that has changed."""
        # Under the lock, because a descriptor that was closed may be another file's at once.
        with self._in_use, suppress(OSError):
            if status != self._status:
                _write(self._descriptor.number, status)
                self._status = status
                self._said_at = os.fstat(self._descriptor.number).st_mtime_ns

    @property
    def was_rung(self) -> bool:
        """Return False if its latest change was `say`: not all watchers can tell that from a
        touch.
        """
        try:
            return os.fstat(self._descriptor.number).st_mtime_ns != self._said_at
        except OSError:  # it is closed
            return True

    def close(self, *, remove: bool) -> None:
        """Give up the lock; without `remove`, for others to find that the reader is gone."""
        with self._in_use:
            if remove and _is_named(self._descriptor, self.path):
                with suppress(OSError):
                    os.unlink(self.path)
            self._descriptor.close()


def _make_locked(files: Files, client: str, status: dict[str, Any]) -> forks.Descriptor:
    for _ in range(TRIES):
        files.make_bells()
        with folders.opened(files.bells) as folder:
            if bell := _try_to_make_locked(files, folder, client, status):
                return bell
    raise FileNotFoundError(f"{client} in {files.bells} vanishes as soon as it is made")


def _try_to_make_locked(
    files: Files, folder: int, client: str, status: dict[str, Any]
) -> forks.Descriptor | None:
    """Make it under another name and lock it before it gets its own."""
    unfinished = BEING_MADE + client
    like = os.stat(files.path)
    with suppress(FileNotFoundError):
        # Of a try that an exception out of a signal handler has ended.
        os.unlink(unfinished, dir_fd=folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    bell, is_made = forks.Descriptor(os.open(unfinished, flags, 0o600, dir_fd=folder)), False
    try:
        if locks.lock(bell.number):
            folders.give_rights(bell.number, like, like.st_mode & 0o666)
            _write(bell.number, status)
            os.rename(unfinished, client, src_dir_fd=folder, dst_dir_fd=folder)
            if is_made := _is_named(bell, os.path.join(files.bells, client)):
                return bell
    except FileNotFoundError:  # a sweeper took it for dead, or the directory went away
        pass
    finally:  # after an interruption, too: no bell without a reader may stay
        if not is_made:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=folder)
            bell.close()
    return None


def _is_named(descriptor: forks.Descriptor, path: str, folder: int | None = None) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor.number), os.lstat(path, dir_fd=folder))
    except OSError:  # or it is closed
        return False


def _write(descriptor: int, status: dict[str, Any]) -> None:
    """With its inode: a copy, as a backup puts in its place, has another one and proves nothing."""
    said = json.dumps([os.fstat(descriptor).st_ino, status]).encode().ljust(STATUS_SIZE)
    os.pwrite(descriptor, said, 0)


# For others


@contextmanager
def _all(files: Files) -> Iterator[tuple[int, list[str]]]:
    """The directory of bells, and the names in it of all bells, and of those that are being made;
    none where there is no such directory.
    """
    with ExitStack() as stack:
        folder, names = -1, []
        with suppress(OSError):
            folder = stack.enter_context(folders.opened(files.bells))
            names = os.listdir(folder)
        yield folder, [name for name in names if CLIENT.fullmatch(name.removeprefix(BEING_MADE))]


def _open(folder: int, name: str) -> forks.Descriptor | None:
    """A bell, to look at; None if it cannot be opened, or is no file."""
    try:
        bell = forks.Descriptor(os.open(name, LOOKING, dir_fd=folder))
    except OSError:
        return None
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(bell.number).st_mode):
            return bell
    bell.close()
    return None


def living(files: Files) -> dict[str, dict[str, Any]]:
    """The status of each reader that lives, by client part."""
    found = {}
    with forks.no_fork(), _all(files) as (folder, names):  # a child would keep a dead one's lock
        for name in names:
            if name.startswith(BEING_MADE) or (bell := _open(folder, name)) is None:
                continue
            with closing(bell):
                if _lives(bell.number):
                    _, status = _said(bell.number)
                    found[name] = status if isinstance(status, dict) else {}
    return found


def _said(descriptor: int) -> tuple[object, object]:
    """The inode and the status that were written; None where others have written to it."""
    try:
        inode, status = json.loads(os.pread(descriptor, STATUS_SIZE, 0))
    except (OSError, ValueError, TypeError, RecursionError):
        return None, None
    return inode, status


def _is_a_copy(descriptor: int) -> bool:
    inode, _ = _said(descriptor)
    return inode not in (None, os.fstat(descriptor).st_ino)


def _lives(descriptor: int) -> bool | None:
    """Return True if the bell's reader lives; None where the file system has no locks, and nothing
    is known.
    """
    try:
        return not locks.lock(descriptor) if locks.SUPPORTED else None
    except OSError:
        return None


def remove_dead(files: Files, forget: Callable[[list[str]], None]) -> None:
    """Remove the bells of dead readers; before that, `forget` is told their client parts.

    Their locks are held meanwhile, and a bell is removed only if it still is the one that was
    locked.
    """
    with _all(files) as (folder, names):
        for start in range(0, len(names), AT_ONCE):
            _remove_dead(files, folder, names[start : start + AT_ONCE], forget)


def _remove_dead(
    files: Files, folder: int, names: list[str], forget: Callable[[list[str]], None]
) -> None:
    held: dict[str, forks.Descriptor] = {}
    try:
        with forks.no_fork():
            for name in names:
                if (bell := _open(folder, name)) is None:
                    continue
                if _lives(bell.number) is False:
                    held[name] = bell
                else:
                    bell.close()
        clients = [
            name
            for name, lock in held.items()
            if not (name.startswith(BEING_MADE) or _is_a_copy(lock.number))
            and _is_named(lock, os.path.join(files.bells, name))  # or it has another one by now
        ]
        if clients:
            forget(clients)
        for name, lock in held.items():
            if _is_named(lock, name, folder):
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
    finally:
        for lock in held.values():
            lock.close()


# Ringing


def ring(database: Database, inboxes: Collection[str]) -> None:
    """Wake the readers of these inboxes, from any thread: those of this process directly, other
    processes by their bells, and by the log those that read a normal channel.
    """
    clients = {client_of(inbox) for inbox in inboxes}
    if None in clients:
        touch(database.files.wal)
    elsewhere = [each for each in clients if each is not None and not database.readers.get(each)]
    if elsewhere:
        _touch_bells(database.files, elsewhere)
    _ring_here(database, inboxes)  # last: the others wake up meanwhile


def ask_for_room(database: Database, inbox: str) -> bool:
    """Have the reader of a process-local inbox acknowledge what it has taken; return True if that
    is another process, which does so soon.
    """
    client = client_of(inbox)
    if client is None:
        return False
    if (reader := database.readers.get(client)) is not None:
        reader.acknowledge_now()
        return False
    return _touch_bells(database.files, [client])


def ring_all(database: Database) -> None:
    _ring_here(database, None)
    touch(database.files.wal)
    with _all(database.files) as (_, names):
        _touch_bells(database.files, names)


def _ring_here(database: Database, inboxes: Collection[str] | None) -> None:
    running = _running_loop()
    for reader in database.readers:
        reader.rung(inboxes, running)


def _touch_bells(files: Files, clients: Collection[str]) -> bool:
    """Return True if any of them is there."""
    return files.has_bells() and sum(touch(f"{files.bells}/{each}") for each in clients) > 0


def touch(path: str) -> bool:
    """Set a file's time of change, by its path: to open a file of the database, and close it, would
    drop SQLite's locks. A file that is not there has no reader; a link is not followed.
    """
    try:
        os.utime(path, follow_symlinks=FOLLOWS)
    except OSError:
        return False
    return True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
