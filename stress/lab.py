"""The place of one measurement: an empty database or redis-server, and the processes on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stress import recorder, roles
from stress.children import Child, Children
from stress.layers import DATABASE, Layer
from stress.ledger import Entry
from stress.plan import Case
from stress.redis_server import RedisServer

# Seconds without a receipt after which a message counts as missing: the slowest wake, our
# heartbeat, comes every second.
QUIET = 1.7


class Lab:
    def __init__(
        self,
        layer: Layer,
        directory: Path,
        server: RedisServer | None,
        nursery: Children,
        config: Mapping[str, Any],
        *,
        durable: bool = False,
        prepare: Callable[[Path], None] | None = None,
    ) -> None:
        self.layer = layer
        self.nursery = nursery
        self.directory = directory
        self.server = server
        self.config = config
        self.durable = durable
        self.prepare = prepare
        self.children: list[Child] = []
        self.parts: list[Lab] = []
        self.notes: list[Entry] = []  # the harness's own entries: kills and faults
        self.errors: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self._births: list[asyncio.Task[Child]] = []
        self._entries: list[Entry] | None = None

    @property
    def database(self) -> Path:
        return self.directory / DATABASE

    def settings(self, directory: Path | None = None, layer: Layer | None = None) -> dict[str, Any]:
        url = self.server.url if self.server else ""
        return (layer or self.layer).settings(directory or self.directory, url, self.config)

    async def part(self, name: str, database: Path | None = None, **config: Any) -> Lab:
        """A lab within this one, with a database (a copy of `database`) and a ledger of its own."""
        place = Lab(
            self.layer,
            self.directory / name,
            self.server,
            self.nursery,
            {**self.config, **config},
            durable=self.durable,
            prepare=self.prepare,
        )
        await asyncio.to_thread(place.directory.mkdir)
        if self.layer.file:
            source = database or await template(self)
            await asyncio.to_thread(_copy, source, place.database)
        self.parts.append(place)
        return place

    async def child(
        self,
        name: str,
        *,
        wrapper: tuple[str, ...] = (),
        directory: Path | None = None,
        layer: Layer | None = None,
    ) -> Child:
        """Start a process. It is ready when its first call is answered.

        `wrapper` is a command that runs it, `directory` another place for its database, `layer`
        another layer than the lab's.
        """
        birth = asyncio.create_task(
            self.nursery.start(
                name,
                self.directory,
                self.settings(directory, layer),
                durable=self.durable,
                prepare=self.prepare,
                wrapper=wrapper,
            )
        )
        # If this is cancelled, the child exists all the same, and `end` must know of it.
        self._births.append(birth)
        child = await asyncio.shield(birth)
        self.children.append(child)
        return child

    async def start(self, *names: str) -> list[Child]:
        """Start several processes side by side, and wait until they run."""
        children = await asyncio.gather(*(self.child(name) for name in names))
        await asyncio.gather(*(child.call(roles.arrived) for child in children))
        return children

    async def settle(self, expected: int | None = None) -> int:
        """Wait until so many messages have arrived, or none has come for a while."""
        last, changed = -1, time.monotonic()
        while True:
            alive = [child for child in self.children if child.alive]
            arrived = sum(await asyncio.gather(*(child.call(roles.arrived) for child in alive)))
            if arrived != last:
                last, changed = arrived, time.monotonic()
            if (expected is not None and arrived >= expected) or (
                time.monotonic() - changed > QUIET
            ):
                return arrived
            await asyncio.sleep(0.02)

    async def entries(self) -> list[Entry]:
        """The whole ledger, once the measurement is over."""
        if self._entries is None:
            for child in self.children:
                if child.alive:
                    report = await child.call(roles.write_ledger)
                    self.errors.update(report["errors"])
                    self.counters.update(report["counters"])
            self._entries = list(self.notes)
            for path in sorted(self.directory.glob("*.ledger")):
                self._entries += await asyncio.to_thread(recorder.read, path)
        return self._entries

    async def ledgers(self) -> list[list[Entry]]:
        """The ledgers of this lab and of its parts: each is a history of its own."""
        own = await self.entries()
        parts = [await part.entries() for part in self.parts]
        for part in self.parts:
            self.errors.update(part.errors)
            self.counters.update(part.counters)
        return [own, *parts]

    async def end(self) -> None:
        """End all that was started here. A second call is a no-op."""
        births = [birth for place in (self, *self.parts) for birth in place._births]
        born = await asyncio.gather(*births, return_exceptions=True)
        await asyncio.gather(*(child.end() for child in born if isinstance(child, Child)))


def talk_beside(case: Case, sender: Child, target: str, seconds: float) -> asyncio.Task[int]:
    """Let others talk meanwhile, at the case's rate and size. It returns how many they sent."""
    rate, size = case.arguments["rate"], case.arguments["size"]
    how = {"target": target, "rate": rate, "seconds": seconds, "size": size}
    return asyncio.create_task(sender.call(roles.send_paced, sender="others", **how))


def _copy(source: Path, target: Path) -> None:
    """Copy to the disk: otherwise the first checkpoint writes all of it, and is measured."""
    shutil.copy(source, target)
    with target.open("rb") as copy:
        os.fsync(copy.fileno())


@asynccontextmanager
async def lab(
    layer: Layer,
    directory: Path,
    server: RedisServer | None,
    nursery: Children,
    config: Mapping[str, Any],
    *,
    durable: bool = False,
    prepare: Callable[[Path], None] | None = None,
) -> AsyncIterator[Lab]:
    """Make a lab in `directory`. Afterwards, remove it, and end all that was started in it."""
    await asyncio.to_thread(directory.mkdir)
    server = server if layer.redis else None
    if server is not None:
        await asyncio.to_thread(server.forget)
    place = Lab(layer, directory, server, nursery, config, durable=durable, prepare=prepare)
    try:
        if layer.file:
            await asyncio.to_thread(_copy, await template(place), place.database)
        yield place
    finally:
        await asyncio.shield(place.end())
        await asyncio.to_thread(shutil.rmtree, directory)


async def template(place: Lab) -> Path:
    """A database with empty tables: migrated once a run and kept beside the labs."""
    path = place.directory.parent / f"{place.layer.app}.template"
    if not path.exists():
        child = await place.child("migrate")
        await child.call(roles.migrate)
        await child.end()
        place.children.remove(child)
        place.directory.joinpath("migrate.ledger").unlink()
        place.database.rename(path)
        for left in place.directory.glob(f"{DATABASE}-*"):
            if left.is_dir():  # the readers' bells
                await asyncio.to_thread(shutil.rmtree, left)
            else:
                left.unlink()
    return path
