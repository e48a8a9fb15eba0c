"""Processes that go on writing to each other, while some are killed and replaced."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from itertools import count
from pathlib import Path

from stress import ledger, roles
from stress.children import Child, ChildError
from stress.lab import Lab
from stress.layers import DATABASE
from stress.roles import Worker

GROUP = "everybody"
TASKS = "tasks"  # a normal channel, that all receivers compete for
CHANNELS = 3  # of each receiver, all in the group
RATE = 100.0  # messages a second, of each writer
# Before Python 3.12 a process keeps the space of each file that was replaced until it ends.
DISK = "48m" if sys.version_info >= (3, 12) else "512m"

Targets = list[tuple[str, bool]]  # a name, and whether it is a group's


class Troupe:
    """The processes. `keeper` is one that uses no layer, and that meets no fault."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.lab = lab
        self.size = size
        self.receivers: dict[Child, list[str]] = {}
        self.writers: dict[Child, asyncio.Task[None]] = {}
        self.place = lab.directory
        self.wrapper: tuple[str, ...] = ()
        self.keeper: Child
        self._numbers = count(1)

    @property
    def database(self) -> Path:
        return self.place / DATABASE

    async def enter(self, receivers: int, writers: int, *, own_disk: bool) -> None:
        """Start all. With `own_disk`, the database is on a small tmpfs that only they see."""
        if own_disk:
            self.place = self.lab.directory / "disk"
            await asyncio.to_thread(self.place.mkdir)
            script = (
                'mount -t tmpfs -o "size=$1" stress "$2" && cp "$3" "$2" && shift 3 && exec "$@"'
            )
            self.wrapper = (
                *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"),
                *(DISK, str(self.place), str(self.lab.database)),
            )
        self.keeper = await self._start("keeper")
        if own_disk:
            self.wrapper = (
                *("nsenter", "--preserve-credentials", "--user", "--mount"),
                *("--target", str(self.keeper.pid)),
            )
        await asyncio.gather(*(self.receiver() for _ in range(receivers)))
        await asyncio.gather(*(self.writer() for _ in range(writers)))

    async def _start(self, name: str) -> Child:
        child = await self.lab.child(name, wrapper=self.wrapper, directory=self.place)
        await child.call(roles.arrived)
        return child

    async def receiver(self) -> None:
        child = await self._start(f"receiver{next(self._numbers)}")
        channels = await child.call(roles.open_channels, many=CHANNELS, group=GROUP)
        await child.call(roles.listen, channel=TASKS)
        self.receivers[child] = channels
        await self._introduce()

    async def writer(self) -> None:
        child = await self._start(f"writer{next(self._numbers)}")
        await child.call(address, targets=self.targets)
        talking = asyncio.create_task(child.call(talk, rate=RATE, size=self.size))
        talking.add_done_callback(heard)
        self.writers[child] = talking

    @property
    def targets(self) -> Targets:
        """The group, the shared channel, and a channel of each receiver."""
        channels = [channels[0] for channels in self.receivers.values()]
        return [(GROUP, True), *((name, False) for name in (TASKS, *channels))]

    async def _introduce(self) -> None:
        """Tell the writers who lives: they write to no dead process, and to each new one."""
        for writer in self.writers:
            await writer.call(address, targets=self.targets)

    def anybody(self) -> Child:
        return random.choice([*self.receivers, *self.writers])

    async def replace(self, dead: Child) -> None:
        """Start another process instead of one that was killed."""
        if dead in self.receivers:
            del self.receivers[dead]
            await self.receiver()
        else:
            talk = self.writers.pop(dead)
            await asyncio.wait([talk])
            assert isinstance(talk.exception(), ChildError)
            await self.writer()

    async def lose_groups(self) -> None:
        """Note that nobody owes them the group's messages: their memberships will be lost."""
        for receiver, channels in self.receivers.items():
            await receiver.call(expect_nothing, channels=channels)

    async def rejoin(self) -> None:
        """Join again, as a client that reconnects does."""
        for receiver, channels in self.receivers.items():
            await receiver.call(join_again, channels=channels)

    async def leave(self) -> None:
        """Let the writers finish."""
        for writer in self.writers:
            await writer.call(address, targets=[])
        await asyncio.gather(*self.writers.values())


def heard(talking: asyncio.Task[None]) -> None:
    """Fetch the exception: no other code does if the measurement is cut short."""
    if not talking.cancelled():
        talking.exception()


async def address(worker: Worker, targets: Targets) -> None:
    worker.kept["targets"] = targets


async def talk(worker: Worker, rate: float, size: int) -> None:
    """Send to one target after the other, at fixed times, as long as there are any."""
    begin = time.monotonic()
    for number in count():
        targets: Targets = worker.kept["targets"]
        if not targets:
            return
        target, group = targets[number % len(targets)]
        await roles.send_one(worker, worker.name, number, target, group=group, size=size)
        await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))


async def expect_nothing(worker: Worker, channels: list[str]) -> None:
    for channel in channels:
        worker.recorder.note(ledger.LEAVING, target=GROUP, channel=channel)


async def join_again(worker: Worker, channels: list[str]) -> None:
    for channel in channels:
        worker.recorder.note(ledger.LEFT, target=GROUP, channel=channel)
        await roles.join(worker, GROUP, channel)
