"""The processes of test_members.py and test_bells.py: see peers.py, and tests/processes.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.db import connections

from channels_sqlite._options import times
from channels_sqlite._receiving.queues import Queues
from channels_sqlite._storing.files import Files
from channels_sqlite._waking.bells import Bell, living, remove_dead
from channels_sqlite.exceptions import ChannelFull, ChannelsSqliteError, DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import connect, hear, main, make_inotify_deaf, say
from tests.rows import message, put_number

PATIENCE = 10.0  # seconds; only what never comes takes so many
OUTLIVES = 300  # seconds, after which a forked process ends by itself if its test has died


# A process that does what it is told


def obeys(**config: Any) -> None:
    """Do one order after the other, until the order is null or SIGTERM comes."""

    async def obey() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        obedient = Obedient(SqliteChannelLayer(**config))
        async for verb, arguments, options in orders():
            say(await obedient.do(verb, arguments, options))

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(obey())


async def orders() -> AsyncIterator[tuple[str, list[Any], dict[str, Any]]]:
    """The lines of stdin. No thread reads them, because asyncio.run() would wait for it."""
    stdin = asyncio.StreamReader(limit=2**20)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    try:
        while (order := json.loads(await stdin.readline() or "null")) is not None:
            yield order["verb"], order["arguments"], order["options"]
    finally:
        transport.close()


class Obedient:
    """One layer and its consumers. An order is a method of this class, or one of the layer's."""

    def __init__(self, layer: SqliteChannelLayer) -> None:
        self.layer = layer
        self.queues: dict[str, asyncio.Queue[int]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.logged: list[list[str]] = []
        logger = logging.getLogger("channels_sqlite")
        logger.setLevel(logging.INFO)
        logger.addFilter(self._note)

    def _note(self, record: logging.LogRecord) -> bool:
        """Note what is logged, and let nobody print it."""
        self.logged.append([record.levelname, record.getMessage()])
        return False

    async def do(self, verb: str, arguments: list[Any], options: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, verb, None) or getattr(self.layer, verb)
        try:
            result = method(*arguments, **options)
            if verb.startswith("keep_"):  # from now on, beside what else is ordered
                self.tasks.add(asyncio.create_task(result))
                return {"result": None}
            return {"result": await result if asyncio.iscoroutine(result) else result}
        except ChannelsSqliteError as error:
            return {"error": f"{type(error).__name__}: {error}"}

    # Consumers

    async def consume(self, channel: str | None = None) -> str:
        """Have a consumer wait, on a new channel unless one is given, before this returns."""
        channel = channel or await self.layer.new_channel()
        self.queues[channel] = asyncio.Queue()
        self.tasks.add(asyncio.create_task(self._consume(channel)))
        await asyncio.sleep(0)
        return channel

    async def _consume(self, channel: str) -> None:
        while True:
            received = await self.layer.receive(channel)
            self.queues[channel].put_nowait(received.get("number", -1))

    async def join(self, *groups: str) -> str:
        """Consume a new channel, and add it to the groups."""
        channel = await self.consume()
        for group in groups:
            await self.layer.group_add(group, channel)
        return channel

    async def join_many(self, group: str, count: int) -> list[str]:
        """Consume so many new channels, and add each to the group."""
        return [await self.join(group) for _ in range(count)]

    async def heard(self, channel: str, last: int) -> list[int]:
        """The numbers that came since this was asked before, up to `last` or until none comes."""
        numbers: list[int] = []
        with contextlib.suppress(TimeoutError):
            while numbers[-1:] != [last]:
                numbers.append(await asyncio.wait_for(self.queues[channel].get(), PATIENCE))
        return numbers

    async def taken(self, channel: str) -> list[int]:
        """The numbers that came since this or the last was asked before."""
        queue = self.queues[channel]
        return [queue.get_nowait() for _ in range(queue.qsize())]

    # Senders

    async def send_all(
        self, channel: str, numbers: list[int], size: int = 0, at: float = 0, at_once: int = 100
    ) -> list[int]:
        """At that time send messages of that size, so many at once; the numbers of the accepted."""
        await asyncio.sleep(max(0, at - time.time()))
        accepted = []
        for first in range(0, len(numbers), at_once):
            part = numbers[first : first + at_once]
            sends = [self.layer.send(channel, message(each, text="x" * size)) for each in part]
            results = await asyncio.gather(*sends, return_exceptions=True)
            for number, result in zip(part, results, strict=True):
                if result is None:
                    accepted.append(number)
                elif not isinstance(result, (ChannelFull, DatabaseUnavailable)):
                    raise result
        return accepted

    async def keep_sending(self, pause: float = 0.01) -> None:
        """Send to a channel of this process, which is read. So this process sweeps."""
        channel = await self.layer.new_channel()
        number = 0
        while True:
            number += 1
            with contextlib.suppress(ChannelsSqliteError):
                await self.layer.send(channel, message(number))
                await self.layer.receive(channel)
            await asyncio.sleep(pause)

    async def keep_opening(self) -> None:
        """Open the file and close it. Each time this process sweeps."""
        while True:
            with contextlib.suppress(FileNotFoundError):  # not only once a second
                os.unlink(f"{self.layer.database.files.bells}/.swept")
            await self.layer.group_count("nobody")
            await self.layer.close()
            await asyncio.sleep(0.001)

    def put_at(self, channel: str, number: int, at: float) -> None:
        """Insert a message at that moment, and tell nobody."""
        with closing(connect()) as connection:
            connection.execute("pragma busy_timeout = 10000")
            while time.time() < at:
                pass
            put_number(connection, channel, number)

    # Births

    async def births(self, count: int) -> list[str]:
        """Have so many layers begin to receive, and close each; say what each has missed."""
        missed = [await self._birth(f"birth-{os.getpid()}-{n}") for n in range(count)]
        return [each for each in missed if each]

    async def _birth(self, group: str) -> str:
        newborn = SqliteChannelLayer()
        channel = await newborn.new_channel()
        receiving = asyncio.create_task(newborn.receive(channel))
        await asyncio.sleep(0)
        try:
            await newborn.group_add(group, channel)
            await self.layer.group_send(group, message(1))
            await asyncio.wait_for(receiving, PATIENCE)
            if newborn.client_prefix not in os.listdir(newborn.database.files.bells):
                return f"{group}: its bell"
            await asyncio.sleep(random.uniform(0, 0.01))
            if await self.layer.group_count(group) != 1:
                return f"{group}: its membership"
            await self.layer.send(channel, message(2))
            await asyncio.wait_for(newborn.receive(channel), PATIENCE)
        except TimeoutError:
            return f"{group}: a message"
        finally:
            await newborn.close()
        return ""

    # This process

    def limit_watches(self, limit: str, count: int, again_after: float) -> None:
        """Let the kernel allow so many watches, and polling end that many seconds later."""
        times.TIMES = replace(times.TIMES, watch_again=again_after)
        Path("/proc/sys/user", limit).write_text(str(count))

    async def watcher(self) -> str:
        (reader,) = await self.layer.readers()
        return reader.watcher

    def limit_files(self, size: int) -> None:
        """Let no file of this process grow beyond so many bytes; -1 lifts that."""
        import resource  # not on Windows

        unlimited = resource.RLIM_INFINITY  # which is -1 before Python 3.15 only
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited if size < 0 else size, unlimited))

    def die_at_delivery(self) -> None:
        """Be killed with a claim that is committed, and that nobody has."""
        me = os.getpid()
        Queues.deliver = lambda *_, **__: os.kill(me, signal.SIGKILL)  # type: ignore[method-assign]

    def checkpoint(self) -> None:
        """Have the log copied into the database, on the worker's thread."""
        connections_ = self.layer.database.connections
        assert connections_ is not None
        connections_._worker.post("A checkpoint", connections_.checkpoint)

    def make_deaf(self) -> int:
        """Let nothing wake this process any more; of how many descriptors that was."""
        return make_inotify_deaf()

    def missed_wakes(self) -> int:
        return self.layer.counters.missed_wakes

    def set_clock(self, ahead: float) -> None:
        """Show this process a wall clock so many seconds ahead of the real one."""
        time.time = lambda: time.time_ns() / 1e9 + ahead

    def log(self) -> list[list[str]]:
        """The level and the words of what was logged since this was asked before."""
        logged, self.logged[:] = [*self.logged], []
        return logged

    def leave_behind(self, how: str) -> int:
        """Start a process that outlives this one and does not use the layer; its process id."""
        if how == "a program":
            quiet = subprocess.DEVNULL
            command = ["sleep", str(OUTLIVES)]
            # With what is inheritable: Popen would close it, and not all programs are started so.
            return subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=quiet, close_fds=False
            ).pid
        pid = fork()
        if pid == 0:
            for descriptor in range(3):  # or the test would wait for what it says
                os.close(descriptor)
            time.sleep(OUTLIVES)
            os._exit(0)
        return pid


# Processes that fork others


def fork() -> int:
    """Fork. The child ends by itself after a while, in case its test does not live to end it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork and threads do not go together, from 3.12
        pid = os.fork()
    if pid == 0:
        signal.alarm(OUTLIVES)
    return pid


def fork_for(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Fork a process that does the work in an event loop, and ends."""
    pid = fork()
    if pid == 0:
        asyncio.run(work())
        os._exit(0)
    return pid


def killed_while_young(count: int, within: float, group: str) -> None:
    """Fork so many processes that join a group; kill each at a random moment of its first steps."""
    connections["channels"]  # imports the backend, once for all

    async def live() -> None:
        layer = SqliteChannelLayer()
        channel = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.group_add(group, channel)
        await receiving

    for _ in range(count):
        pid = fork_for(live)
        time.sleep(random.uniform(0, within))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    say("killed")


def crowd(processes: int, layers: int, group: str) -> None:
    """Fork so many processes with so many layers each; each says when all its layers have joined,
    and then what they heard, and how many descriptors that took.
    """
    connections["channels"]

    async def attend() -> None:
        before = descriptors()
        readers = [SqliteChannelLayer() for _ in range(layers)]
        members = [(reader, await reader.new_channel()) for reader in readers]
        receiving = [asyncio.create_task(reader.receive(channel)) for reader, channel in members]
        for reader, channel in members:
            await reader.group_add(group, channel)
        say("joined")
        heard = [received["number"] for received in await asyncio.gather(*receiving)]
        say({"heard": heard, "descriptors": descriptors() - before})

    pids = [fork_for(attend) for _ in range(processes)]
    for pid in pids:
        os.waitpid(pid, 0)


def forks_while_bells_are_opened(path: str) -> None:
    """Make a bell, look who lives, and sweep, while another thread forks whenever a bell is opened.
    Say in the middle of the sweep how many children live on.
    """
    files, open_ = Files(path), os.open
    forking: list[threading.Thread] = []
    alive, says_so = os.pipe()

    def fork_and_live() -> None:
        if fork() == 0:
            os.write(says_so, b".")
            signal.pause()

    def open_and_be_forked(name: Any, *arguments: Any, **options: Any) -> int:
        descriptor = open_(name, *arguments, **options)
        if "dir_fd" in options:
            forking.append(threading.Thread(target=fork_and_live))
            forking[-1].start()
            forking[-1].join(0.1)  # it has to wait
        return descriptor

    def wait(clients: list[str]) -> None:
        for thread in forking:
            thread.join()
            os.read(alive, 1)  # until then a child may have what it inherited
        say(len(forking))
        hear()

    os.open = open_and_be_forked  # type: ignore[assignment]
    bell = Bell(files, "made-4567890", {})
    living(files)
    remove_dead(files, wait)
    bell.close(remove=False)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
