"""The work of the processes of the tests of interrupts; see tests/processes.py."""

from __future__ import annotations

import asyncio
import atexit
import gc
import random
import signal
import sqlite3
import sys
import traceback
from collections.abc import Coroutine
from contextlib import closing, suppress
from functools import partial
from types import FrameType
from typing import Any

import msgpack
import psutil
from asgiref.sync import async_to_sync

from channels_sqlite.layers import SqliteChannelLayer
from tests.children import connect, main, say, use, use_and_close
from tests.rows import put_number
from tests.waiting import PATIENCE, soon, threads, wait_until

OURS = "channels_sqlite"
THREADS = 8 + 16
"""Threads of asgiref and of a sweep, and at most 16 that were to close inotify. One whose start is
interrupted may wait for ever, for a lock that Python then has left taken."""
SHORTEST, LONGEST = -5.0, -2.3  # powers of ten, in seconds: 10 us to 5 ms
NEXT_TRY = 0.00001  # seconds
WOKEN = 0.1  # of all times
SWALLOWED_AFTER = 0.5  # seconds
Coro = Coroutine[Any, Any, Any]


class TimeUp(Exception):
    """Task queues raise this when a task takes too long."""


class Stuck(Exception):
    """Something does not go on; says what."""


class Alarm:
    """Raises out of a signal handler, once, at a random moment while it is set."""

    def __init__(self, kind: type[BaseException], *, anywhere: bool) -> None:
        self.kind = kind
        self._anywhere = anywhere
        self._is_set, self.rang = False, True
        self._depth = 0  # of handlers that were interrupted by the next alarm
        self.where = ""
        """The innermost lines that the last one interrupted."""
        signal.signal(signal.SIGALRM, self._ring)

    def set(self) -> None:
        self._is_set, self.rang = True, False
        signal.setitimer(signal.ITIMER_REAL, 10 ** random.uniform(SHORTEST, LONGEST))

    def clear(self) -> None:
        self._is_set = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, _: int, frame: FrameType | None) -> None:
        if not self._is_set:
            return
        self._depth += 1
        try:
            swallowed = issubclass(self.kind, Exception) and is_in_a_callback()
            if swallowed or not (self._anywhere or is_ours(frame)):
                # asyncio itself forgets what it was about to call, and only logs an Exception out
                # of a call-back: then nobody goes on. The deeper this handler interrupts itself,
                # the later it tries again: on a busy machine it would never end.
                signal.setitimer(signal.ITIMER_REAL, NEXT_TRY * 2**self._depth)
                return
        finally:
            self._depth -= 1
        self._is_set, self.rang = False, True
        self.where = "".join(traceback.format_stack(frame)[-5:])
        raise self.kind


class Every:
    """Raises at every call in turn where a signal handler may raise: once each time it is set, one
    call later than before.
    """

    kind = KeyboardInterrupt

    def __init__(self) -> None:
        self.rang = True
        self.where = ""
        self._left = self._calls = 0

    def set(self) -> None:
        self.rang = False
        self._calls += 1
        self._left = self._calls
        sys.setprofile(self._count)

    def clear(self) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or frame.f_globals is globals() or not is_ours(frame):
            return
        self._left -= 1
        if self._left == 0:
            self.rang = True
            self.where = "".join(traceback.format_stack(frame)[-5:])
            raise self.kind


def is_in_a_callback() -> bool:
    """Return True where an event loop runs, and no task of it."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return False


def is_ours(frame: FrameType | None) -> bool:
    """Return True in code of ours, or in what it calls; not in asyncio's own."""
    while frame is not None and frame.f_globals is globals():  # the last alarm's own handler
        frame = frame.f_back
    if frame is not None and frame.f_globals.get("__name__", "").startswith("asyncio"):
        return False
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(OURS):
            return True
        frame = frame.f_back
    return False


class OneLoop:
    """`loop.run_until_complete`, on the same loop each time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.task: asyncio.Task[Any] | None = None

    def run(self, coro: Coro) -> Any:
        self.task = self._loop.create_task(coro)
        return self._loop.run_until_complete(self.task)

    def give_up(self) -> Any:
        """Cancel what was interrupted, which ends, perhaps with a result."""
        task, self.task = self.task, None
        if task is None:
            return None
        task.cancel()
        waiting = self._loop.create_task(asyncio.wait([task], timeout=PATIENCE))
        while not waiting.done():
            with suppress(RuntimeError):  # where the task had ended, it is yet to be stopped for it
                self._loop.run_until_complete(waiting)
        if not task.done():
            raise Stuck(f"a cancelled task does not end: {task}")
        return None if task.cancelled() or task.exception() else task.result()


class LoopEach:
    """A loop for each call, which is closed afterwards, whatever is left on it."""

    def run(self, coro: Coro) -> Any:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coro)
        finally:
            loop.close()

    def give_up(self) -> Any:
        return None


class AsyncToSync(LoopEach):
    """As views and tasks do. An interrupted call goes on, on a thread."""

    def run(self, coro: Coro) -> Any:
        async def awaits() -> Any:
            return await coro

        return async_to_sync(awaits)()


class Program:
    """Uses the layer, and keeps account of what it did and of what was interrupted."""

    def __init__(self, way: Any, alarm: Alarm | Every, raw: sqlite3.Connection) -> None:
        self._way, self._alarm, self._raw = way, alarm, raw
        self._layer = SqliteChannelLayer(capacity=1_000_000, expiry=3600, trim_batch_size=10)
        self._local = way.run(self._layer.new_channel())
        self._channels = (self._local, "in")
        self._numbers = 0
        kinds = ("sent", "perhaps sent", "got", "joined", "perhaps joined")
        self._account: dict[str, list[Any]] = {kind: [] for kind in kinds}
        self.interrupts = 0

    def step(self) -> None:
        """One call, under the alarm, and then a look whether all goes on."""
        acts = [self._send, self._group_add, self._group_send, self._close]
        if not isinstance(self._way, AsyncToSync):  # whose interrupted call would take the next one
            acts.append(self._receive)
        random.choices(acts, [10, 5, 5, 1, 10][: len(acts)])[0]()
        self._go_on()

    def at_every_call(self) -> None:
        """Each act, interrupted at each of its calls in turn."""
        acts = [self._send, self._group_add, self._group_send, self._close]
        for channel in self._channels:
            acts += [partial(self._receive, channel), partial(self._receive_in_vain, channel)]
        for act in acts:
            self._alarm = Every()
            while self._alarm.rang:
                act()
                self._go_on()

    def _try(self, coro: Coro) -> tuple[bool, Any]:
        """Return True if it was made without an interrupt, and its result."""
        try:
            self._alarm.set()
            result = self._way.run(coro)
            self._alarm.clear()
        except BaseException:  # it may have become the cause of another one
            if not self._alarm.rang:
                raise
            self._alarm.clear()
            self.interrupts += 1
            return False, self._way.give_up()
        return True, result

    def _message(self) -> dict[str, Any]:
        self._numbers += 1
        return {"type": "test", "number": self._numbers}

    def _send(self) -> None:
        message = self._message()
        done, _ = self._try(self._layer.send("out", message))
        self._account["sent" if done else "perhaps sent"].append(message["number"])

    def _group_send(self) -> None:
        self._way.run(self._layer.group_add("test-group", "out"))
        message = self._message()
        done, _ = self._try(self._layer.group_send("test-group", message))
        self._account["sent" if done else "perhaps sent"].append(message["number"])

    def _group_add(self) -> None:
        self._numbers += 1
        channel = f"{self._local}{self._numbers}"
        done, _ = self._try(self._layer.group_add("others", channel))
        self._account["joined" if done else "perhaps joined"].append(channel)

    def _receive(self, channel: str | None = None) -> None:
        """One message waits, and nothing else; it may be lost with the interrupt."""
        channel = channel or random.choice(self._channels)
        message = self._message()
        self._way.run(self._layer.send(channel, message))
        receiving = self._layer.receive(channel)
        if self._alarm.kind is TimeUp:  # which asyncio logs where a call-back raises it
            receiving = asyncio.wait_for(receiving, SWALLOWED_AFTER)
        done, found = self._try(receiving)
        if done and found != message:
            raise Stuck(f"{found} came for {message}")
        if found is not None:
            self._account["got"].append(found["number"])
        else:
            # It waits still, or it was in the hands of what was interrupted.
            del receiving
            if isinstance(self._way, LoopEach):
                gc.collect()  # closes what was left on the loop, which gives back what it held
            self._account["got"] += self._rest(channel)

    def _receive_in_vain(self, channel: str) -> None:
        """Nothing waits, and nothing comes, until it is cancelled."""

        async def receive() -> None:
            task: asyncio.Task[Any] | None = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.001, task.cancel)
            with suppress(asyncio.CancelledError):
                await self._layer.receive(channel)

        self._try(receive())

    def _close(self) -> None:
        self._try(self._layer.close())

    def _rest(self, channel: str) -> list[int]:
        """The numbers that still wait in a channel."""
        last = self._message()
        self._way.run(soon(self._layer.send(channel, last)))
        numbers: list[int] = []
        while True:
            message = self._way.run(soon(self._layer.receive(channel)))
            if message == last:
                return numbers
            numbers.append(message["number"])

    def _go_on(self) -> None:
        try:
            wait_until(self._lock_is_free)
            rest = [self._rest(channel) for channel in self._channels]
            if random.random() < WOKEN:
                put_number(self._raw, self._local, 0)  # as others write, who cannot ring
                self._way.run(soon(self._layer.receive(self._local)))
        except Exception as error:
            raise Stuck(f"{error!r} after an interrupt at\n{self._alarm.where}") from error
        if rest != [[], []]:
            raise Stuck(f"{rest} came late")

    def _lock_is_free(self) -> bool:
        """SQLite's write lock; the layer's own thread may have it for a moment."""
        with suppress(sqlite3.OperationalError):
            self._raw.execute("begin immediate")
            self._raw.execute("rollback")
            return True
        return False

    def on_a_thread(self) -> None:
        """Use and close the layer on another thread, which needs every lock of ours."""
        try:
            with threads(lambda: asyncio.run(soon(use_and_close(self._layer)))):
                pass
        except BaseException as error:
            raise Stuck(f"a thread is stuck after an interrupt at\n{self._alarm.where}") from error

    def end(self) -> dict[str, Any]:
        """Close the layer, and wait until few threads are left; the account."""
        self._way.run(self._layer.close())
        ((checked,),) = self._raw.execute("pragma integrity_check")
        kept = self._raw.execute(
            "select body from channels_sqlite_message where inbox = 'out' order by id"
        )
        account = {
            **self._account,
            "kept": [msgpack.unpackb(body)["number"] for (body,) in kept],
            "members": self._way.run(self._layer.group_channels("others")),
            "integrity": checked,
        }
        wait_until(lambda: psutil.Process().num_threads() <= THREADS)
        self._way.run(self._layer.close())
        return account


def interrupted(way: str, kind: str, count: int) -> None:
    """Use the layer until it was interrupted so often; say what came of it."""
    alarm = Alarm(globals().get(kind, KeyboardInterrupt), anywhere=way == "AsyncToSync")
    with closing(connect()) as raw:
        program = Program(globals()[way](), alarm, raw)
        turns = 0
        while program.interrupts < count:
            program.step()
            turns += 1
            if turns % 20 == 0:
                program.on_a_thread()
        say(program.end())


def interrupted_at_every_call() -> None:
    """The same, at every call in turn."""
    with closing(connect()) as raw:
        program = Program(OneLoop(), Every(), raw)
        program.at_every_call()
        say(program.end())


# The end of a program, or of a loop, in the middle


def in_a_late_handler() -> None:
    """Use the layer, and again in an exit handler that runs after its own; say what came there."""
    layer = SqliteChannelLayer()

    async def use_a_group(number: int) -> dict[str, Any]:
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        await layer.group_send("test-group", {"type": "test", "number": number})
        return await layer.receive(channel)

    asyncio.run(use_a_group(-1))
    # Handlers run in the reverse order of their registration, and the layer's is there by now.
    atexit._run_exitfuncs()
    for number in range(3):
        say(asyncio.run(soon(use_a_group(number)))["number"])


def on_loops_that_end(size: int) -> None:
    """Stop loops in the middle of sends, after every number of steps and at other moments; close
    half of them at once. Say what a loop does then.
    """
    layer = SqliteChannelLayer(capacity=1_000_000)
    message = {"type": "test", "body": "x" * size}
    for number in range(0, 100, 3):
        loop = asyncio.new_event_loop()
        tasks: list[asyncio.Task[Any]] = [
            loop.create_task(layer.send("out", message)) for _ in range(5)
        ]
        tasks.append(loop.create_task(layer.receive("in")))
        if number < 60:
            loop.call_later(number * 0.0002, loop.stop)
            loop.run_forever()
        for _ in range(60, number, 2):
            loop.call_soon(loop.stop)
            loop.run_forever()  # one step
        if number % 2:
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        del tasks
        gc.collect()
    asyncio.run(soon(use(layer)))
    say("used")


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
