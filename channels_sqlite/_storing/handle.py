"""One connection, with the lock under which it is used and closed: between statements, and around a
fork.
"""

from __future__ import annotations

import ctypes
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .._options import times
from ..exceptions import LOCKED, code_of, translate
from . import forks
from .files import Files

logger = logging.getLogger("channels_sqlite")

T = TypeVar("T")
Function = Callable[[sqlite3.Connection], T]

NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE


class Busy(Exception):
    """Another connection holds a lock, and nothing was done. `__cause__` is SQLite's error."""


class Lost(Exception):
    """The connections were closed, by a fork for example, and nothing was done; open them again."""


def try_until(function: Callable[[], T], until: float) -> T:
    """The result of a function that is tried again while a lock of others is in the way; on the
    worker's thread, or at exit. Raises Busy at `until`.
    """
    since = time.monotonic()
    while True:
        try:
            return function()
        except Busy:
            if time.monotonic() >= until:
                raise
            time.sleep(pause(since))  # on the thread, or at exit: no event loop waits


def pause(since: float) -> float:
    """Seconds until the next try of what has been tried since then, of the monotonic clock."""
    ours = times.TIMES
    return ours.retry if time.monotonic() < since + ours.retry_for else ours.retry_later


def connect(
    files: Files, *, cached_statements: int = 128, timeout: float = 5.0
) -> sqlite3.Connection:
    """A connection to the file that was found. Raises Busy if its name means another one by now.

    The log is opened by its name, with the first statement: it would be that of the file before,
    and where the connection then cannot be closed, the process would keep its index for the new
    file as well.
    """
    raw = sqlite3.connect(
        files.target,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
        cached_statements=cached_statements,
    )
    if not files.in_memory and files.is_another():
        raw.close()
        raise Busy from sqlite3.OperationalError("the file was replaced while it was opened")
    return raw


class Handle(forks.Forkable):
    def __init__(self, raw: sqlite3.Connection, files: Files) -> None:
        self._raw = raw
        self._files = files
        self._file = files.identity
        self._in_use = threading.RLock()
        self._interrupted = False
        self._held = False
        self.closed = False
        forks.register(self)

    def run(self, function: Function[T]) -> T:
        """The result of `function(connection)`. Raises Busy, Lost, or SQLite's error in words of
        ours.

        An exception out of a signal handler may come whenever a call returns; it leaves no lock
        taken, and no transaction open.
        """
        if self.closed:  # perhaps another thread still closes it, which may take long
            raise Lost
        with self._in_use:
            if self.closed:
                raise Lost
            try:
                return function(self._raw)
            except sqlite3.Error as error:
                code = code_of(error)
                # A table-valued function that is interrupted while it is made has no code.
                if code == sqlite3.SQLITE_INTERRUPT or self._interrupted or self.closed:
                    raise Lost from error
                if code in LOCKED:
                    raise Busy from error
                if code is None:
                    raise  # Python's own: a bug of ours
                raise translate(error, self._files.path) from error
            finally:
                if not self.closed and self._raw.in_transaction:
                    self._raw.rollback()

    def close(self) -> None:
        """Close it when its statement has ended, and no other process opens or closes the file.

        The last connection to close deletes the log, by its name. Where the database's name means
        another file by now, so does the log's: it is left alone, and so is the connection if this
        Python cannot tell SQLite so.
        """
        with forks.no_fork(), self._files.opening_lock(times.TIMES.close) as alone, self._in_use:
            self._close(replaced=alone is False or self._files.is_another())

    def _close(self, *, replaced: bool) -> None:
        if self.closed:
            return
        self.closed = True
        if replaced and not self._files.in_memory:
            if not hasattr(self._raw, "setconfig"):  # before Python 3.12
                # If another one was found since, its logs are unknown, and match no others.
                is_ours = self._files.identity == self._file
                logs = self._files.logs(opened=True) if is_ours else {}
                self._keep_for_ever(partial(forks.leak, logs=logs))
                return
            self._raw.setconfig(NO_CHECKPOINT_ON_CLOSE, True)
        self._raw.close()
        if not (replaced or self._files.in_memory):
            self._files.note_closed()

    def before_fork(self) -> None:
        """Interrupt what runs, and close; in memory, come to rest."""
        self._held = self._in_use.acquire(blocking=False)
        if not self._held:
            if not self.closed:
                self._interrupted = True
                self._raw.interrupt()
            self._held = self._in_use.acquire(timeout=times.TIMES.fork)
        if not self._held:
            logger.error(
                "%s: a statement did not end within %.0f s, so the process was forked with its"
                " connection open. The child cannot use the layer: fork when no statement runs.",
                self._files.path,
                times.TIMES.fork,
            )
        elif not (self.closed or self._files.in_memory):
            with self._files.opening_lock(times.TIMES.fork) as alone:
                self._close(replaced=alone is False or self._files.is_another())

    def after_fork_in_parent(self) -> None:
        """Let the connection be used; one that was closed is opened again at the next use."""
        self._interrupted = False
        if self._held:
            self._held = False
            self._in_use.release()

    def after_fork_in_child(self) -> None:
        """Keep an open connection, unused and for ever: to close it would drop the parent's
        locks.
        """
        if self.closed:
            return
        self.closed = True
        self._keep_for_ever(forks.taint)

    def _keep_for_ever(self, note: Callable[[forks.Identity | None], None]) -> None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._raw))
        note(self._file)


def read_once(files: Files, function: Function[T]) -> T:
    """The result of a read on a connection of its own, which is closed again."""
    with forks.no_fork():
        handle = Handle(connect(files), files)
    try:
        handle.run(_only_read)
        return handle.run(function)
    finally:
        handle.close()


def _only_read(connection: sqlite3.Connection) -> None:
    connection.execute("pragma query_only = on")
    connection.execute("pragma read_uncommitted = on")  # tables in memory have locks
    connection.text_factory = text


text = partial(str, encoding="utf-8", errors="replace")
"""Reads a text column, into which others may have written anything."""
