"""Three SQLite connections to one file: one that writes, on a thread, where it may wait; one that
writes in place, where nothing has to be waited for; and one that reads in place.

A hand-over to the thread costs about 75 us, more than most statements: every write is one
function, and one hand-over at most. What only looks costs 10 us in place.

A connection outlives event loops. It does not outlive a fork, nor the file that it was opened on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast
from weakref import WeakSet

import aiosqlite

from .in_place import InPlace, NotNow

T = TypeVar("T")

Setup = Callable[[sqlite3.Connection], None]


FORK_WAITS = 1.0  # seconds; a statement that waits for a lock of others may take longer


class ConnectionLost(Exception):
    """The thread ended, or the file was replaced, before the call was run."""


class Call:
    """A function to run on the connection's thread, who waits for it, and what became of it."""

    __slots__ = ("done", "function", "lost", "result", "since", "task")

    def __init__(
        self, function: Callable[[sqlite3.Connection], Any], since: float | None = None
    ) -> None:
        self.function = function
        self.since = time.monotonic() if since is None else since
        self.task = asyncio.current_task()
        self.result: Any = None
        self.done = False
        self.lost = False

    def fetchall(self) -> Any:
        """aiosqlite asks what `execute` returned for its rows."""
        return self.result


class Writer(sqlite3.Connection):
    """What aiosqlite drives: its `execute` also takes a `Call`.

    aiosqlite has no public way to run a function on its thread, and a transaction of several awaits
    costs a hand-over each, with the write lock held in between. The connection's class is ours to
    choose.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread = threading.current_thread()
        self.working = threading.Lock()
        self.closed = False
        self._patience: int | None = None
        self._busy_timeout = 0
        _writers.add(self)

    def learn_patience(self) -> None:
        """How many milliseconds it waits for a lock, as the project has set it by now."""
        ((self._busy_timeout,),) = super().execute("pragma busy_timeout").fetchall()
        self._patience = self._busy_timeout

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        if not isinstance(sql, Call):
            return super().execute(sql, parameters)
        try:
            with self.working:
                self._wait_since(sql.since)
                sql.result = sql.function(self)
        finally:
            sql.done = True
        return sql

    def _wait_since(self, since: float) -> None:
        """Have SQLite wait for what is left of the call's time: it may have spent it in the queue.

        Ten calls behind a lock of others would else wait ten times as long as the project has said.
        One whose time is up is tried once all the same: the lock may be free by now.
        """
        if self._patience is None:
            return
        left = max(0, self._patience - round((time.monotonic() - since) * 1000))
        if left > 0.9 * self._patience:
            left = self._patience  # nearly every call, and spares it the pragma
        if left != self._busy_timeout:
            super().execute(f"pragma busy_timeout = {left}").close()
            self._busy_timeout = left

    def close(self) -> None:
        super().close()
        self.closed = True


class Reader(sqlite3.Connection):
    """For short reads in place, of any thread: who reads holds `in_use`. To close it under a
    statement crashes the interpreter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_use = threading.RLock()
        self.is_closed = False
        _readers.add(self)

    def close(self) -> None:
        with self.in_use:
            super().close()
            self.is_closed = True


class Connection:
    """All three connections; made on a daemon thread, used from any.

    aiosqlite's thread is as daemonic as the thread that makes it. One that is not would keep the
    interpreter from exiting, because nobody closes a channel layer.
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any],
        check: Setup,
        configure: Setup,
        *,
        in_memory: bool = False,
    ) -> None:
        self.closed = False
        self.ended: Future[None] = Future()
        """Done when the thread is gone, and those who waited for it have been told."""
        self._timeout: float = arguments["timeout"]
        self._calls: set[Call] = set()
        self._quick: set[Call] = set()  # those among them that quick ones must not overtake
        self._in_place: InPlace | None = None
        self.reader = sqlite3.connect(name, factory=Reader, check_same_thread=False, **arguments)
        try:
            check(self.reader)
            self.reader.execute("pragma busy_timeout = 0")
            self.reader.execute("pragma query_only = on")
            # Only databases in memory have table locks; there a look must not meet them.
            self.reader.execute("pragma read_uncommitted = on")
            self.reader.text_factory = _text
            asyncio.run(self._connect(name, arguments, configure, in_memory=in_memory))
        except BaseException:
            self.reader.close()
            raise

    async def _connect(
        self, name: str, arguments: dict[str, Any], configure: Setup, *, in_memory: bool
    ) -> None:
        # Any thread: its own may die, and then it is for another to close it.
        self._writer = await aiosqlite.connect(
            name, factory=Writer, check_same_thread=False, **arguments
        )
        try:
            itself = Call(lambda raw: raw)
            await self._writer.execute_fetchall(cast(str, itself))
            self._raw = cast(Writer, itself.result)
            self._raw.text_factory = _text
            await self.run(configure)
            await self.run(lambda _: self._raw.learn_patience())
            # In memory, connections share one cache, whose locks are for whole tables.
            if not in_memory:
                self._in_place = self._connect_in_place(name, arguments, configure)
        except BaseException:
            await self._writer.close()
            raise

    def _connect_in_place(self, name: str, arguments: dict[str, Any], configure: Setup) -> InPlace:
        raw = sqlite3.connect(name, factory=Writer, check_same_thread=False, **arguments)
        try:
            raw.text_factory = _text
            configure(raw)
            return InPlace(raw, raw.working)
        except BaseException:
            raw.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether its thread still works calls off.

        It dies when it reports to an event loop that was closed with a call in flight.
        """
        return self._raw.thread.is_alive()

    async def run(
        self,
        function: Callable[[sqlite3.Connection], T],
        since: float | None = None,
        *,
        quick: bool = False,
        aside: bool = False,
    ) -> T:
        """The result of `function(connection)`.

        It runs on the writing connection's thread; a `quick` one in place, if no other quick one
        waits for the thread. One whose order does not matter waits for a lock `aside`, so that
        nobody waits behind it.

        A lock of others is waited for as long as the connection's busy timeout says, counted from
        `since` (of the monotonic clock; by default now). A cancelled await waits for the function
        all the same, for it cannot be taken back. Raises ConnectionLost when it was not run.
        """
        since = time.monotonic() if since is None else since
        if quick and self._in_place is not None and (aside or not self._quick):
            try:
                return await self._in_place.run(function, since + self._timeout, aside=aside)
            except NotNow:
                pass
        call = Call(function, since)
        self._calls.add(call)
        if quick:
            self._quick.add(call)
        try:
            if not self.is_alive:
                # `outlive` may have come by before this call was there to be told.
                await asyncio.shield(asyncio.wrap_future(self.ended))
                raise ConnectionLost
            await self._writer.execute_fetchall(cast(str, call))
        except asyncio.CancelledError:
            if call.lost:
                _uncancel(call)
                raise ConnectionLost from None
            await self._settle()
            raise
        except ValueError as error:
            if self.closed and not call.done:
                raise ConnectionLost from error
            raise
        finally:
            self._calls.discard(call)
            self._quick.discard(call)
        return cast(T, call.result)

    async def _settle(self) -> None:
        """aiosqlite works its calls off in order: one behind the cancelled call has waited for it.

        And for its report: a thread that reports to a loop that was closed meanwhile dies.
        """
        following = Call(lambda _: None)
        self._calls.add(following)
        while self.is_alive and not (following.lost or self.closed):
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer.execute_fetchall(cast(str, following))
                break
        self._calls.discard(following)

    def outlive(self) -> None:
        """Wait for the thread to end; then tell those who wait for it that it did not come to them.

        Called on a thread of its own, for they may have nobody else who notices.
        """
        self._raw.thread.join()
        for call in [each for each in list(self._calls) if not each.done]:
            call.lost = True
            if call.task is not None:
                with contextlib.suppress(RuntimeError):  # the closed loop's own
                    call.task.get_loop().call_soon_threadsafe(call.task.cancel)
        if not self._raw.closed:
            # It died. aiosqlite's half of it can no longer be closed, and would warn of that when
            # it is collected: it is kept instead.
            self._close_in_place()
            self._raw.close()
            _dead.append(self)
        self.ended.set_result(None)

    def abandon(self) -> None:
        """Let the thread end what it was asked for, and then itself; the file is no longer ours."""
        self._close_in_place()
        self._writer.stop()

    async def close(self) -> None:
        """Close all three, after the calls in flight.

        Not by aiosqlite's own `close`, which waits for ever for a thread that dies meanwhile.
        """
        self.abandon()
        # Shielded: others may wait for the same end.
        await asyncio.shield(asyncio.wrap_future(self.ended))

    def _close_in_place(self) -> None:
        """Both that are used in place; what is asked of the thread from now on is lost."""
        self.closed = True
        self.reader.close()
        if self._in_place is not None:
            self._in_place.close()


_dead: list[Connection] = []


def _text(value: bytes) -> str:
    """Whatever others wrote into a text column, it must not end a reader."""
    return value.decode("utf-8", "replace")


def _uncancel(call: Call) -> None:
    """Take back the cancellation that `lose_calls` used; Python 3.10 does not count them."""
    if call.task is not None and sys.version_info >= (3, 11):
        call.task.uncancel()


# SQLite keeps its locks in memory too: a child that is born in the middle of a statement finds them
# taken for ever. So a process forks between statements.

_writers: WeakSet[Writer] = WeakSet()
_readers: WeakSet[Reader] = WeakSet()
_fork = threading.local()


def _before_fork() -> None:
    locks = [each.working for each in list(_writers)] + [each.in_use for each in list(_readers)]
    _fork.held = [lock for lock in locks if lock.acquire(timeout=FORK_WAITS)]


def _after_fork_in_parent() -> None:
    for lock in _fork.held:
        lock.release()


def _after_fork_in_child() -> None:
    """What is inherited is not used, and its locks are not released: a fork of this process must
    not wait for them.
    """
    _writers.clear()
    _readers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
