"""The hooks around a fork, registered once, for the whole package.

SQLite's locks do not survive a fork, so all connections are closed before it. A fork that runs no
hooks of Python's (uWSGI, C code) is noticed later, by the process id.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from .weak import Weak

Identity = tuple[int, int]  # device and inode, which tell a file from another one of its name
Logs = dict[str, Identity]
"""A database's log and its index, by the ends of their names."""


class Forkable:
    """An object with something to do around a fork. All of it runs on the thread that forks."""

    def before_fork(self) -> None:
        """Close, or come to rest, and stay so until the fork is over."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent, and register again to go on."""


class Descriptor(Forkable):
    """An open file of this process alone, with its locks: a child that is forked closes it."""

    def __init__(self, number: int) -> None:
        self.number = number  # -1 once it is closed
        register(self)

    def close(self, *, _close: Callable[[int], None] = os.close) -> None:
        # `_close` is bound, because at exit a module may go before its objects.
        number, self.number = self.number, -1
        if number >= 0:
            try:  # noqa: SIM105
                _close(number)
            except OSError:  # a daemon has closed all of its parent's
                pass

    after_fork_in_child = close
    __del__ = close


class _Forks:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.noticing: dict[int, threading.Lock] = {}
        """By process id: a fork may leave the parent's taken for ever."""
        self.lock = threading.RLock()
        self.members: Weak[Forkable] = Weak()
        self.resting: list[Forkable] = []
        """The members that were told of the fork that is under way; others may have come since."""
        self.tainted: set[Identity] = set()  # files that this process must not open
        self.leaked: dict[Identity, Logs] = {}
        """Files that its children must not open, with the logs that this process has of them."""

    def begin_in_child(self) -> list[Forkable]:
        """The parent's members; those that go on in the child register again."""
        inherited = list(self.members)
        self.members = Weak()
        self.lock = threading.RLock()
        self.resting = []
        self.tainted |= self.leaked.keys()
        return inherited


_forks = _Forks()


def register(member: Forkable) -> None:
    """Have a member's methods called around every fork, for as long as it lives."""
    _forks.members.add(member)


def no_fork() -> threading.RLock:
    """The lock under which connections are opened and closed: nobody forks meanwhile."""
    return _forks.lock


def taint(file: Identity | None) -> None:
    """Note that this process has inherited an open connection to the file, if it is one."""
    if file is not None:
        _forks.tainted.add(file)


def leak(file: Identity | None, logs: Logs) -> None:
    """Note that this process keeps a connection to the file open for ever, if it is one."""
    if file is not None:
        _forks.leaked.setdefault(file, logs)


def leaked_logs(file: Identity | None) -> Logs | None:
    """The logs of such a connection, which SQLite uses for each new one of this process."""
    return None if file is None else _forks.leaked.get(file)


def notice() -> None:
    """Notice a fork without Python's hooks; all threads wait until it is dealt with."""
    if (pid := os.getpid()) != _forks.pid:
        with _forks.noticing.setdefault(pid, threading.Lock()):
            if pid != _forks.pid:
                _after_in_child()


def is_tainted(file: Identity | None) -> bool:
    """Return True if this process must not open the file."""
    return file in _forks.tainted


def _before() -> None:
    _forks.lock.acquire()
    _forks.resting = []
    for member in _forks.members:
        _forks.resting.append(member)  # first: an interruption must not leave its lock taken
        member.before_fork()


def _after_in_parent() -> None:
    resting, _forks.resting = _forks.resting, []
    try:
        for member in resting:
            member.after_fork_in_parent()
    finally:
        _forks.lock.release()


def _after_in_child() -> None:
    for member in _forks.begin_in_child():
        member.after_fork_in_child()
    _forks.pid = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
