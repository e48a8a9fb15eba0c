"""A round trip through two processes: does a message in this file wake who waits for it, and how
soon?

`python -m channels_sqlite._tools.doctor` is the second process. It knows nothing of the project but
the database, so that what is tried is the file, the place where it is, and this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from django.conf import settings

from .._options import times
from .._options.conf import Options, database_settings
from .._waking.watchers import kinds
from ..exceptions import ChannelsSqliteError, DatabaseUnavailable
from ..layers import SqliteChannelLayer

CALLS = 3
WORDS = 10  # messages each way in one call
QUIET = 1.2  # seconds before a call; a watcher that has a pace has slowed down by then
PATIENCE = 5.0  # seconds, beyond the polling interval
START = 30.0  # seconds that the second process may take to start
SETTINGS = "CHANNELS_SQLITE_DOCTOR"  # in its environment, which other users cannot read


@dataclass
class Finding:
    """How messages came with one watcher; delays are seconds from send to receive."""

    watcher: str
    first: list[float] = field(default_factory=list)
    """The delays of the first message after a quiet spell."""
    following: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def all(self) -> list[float]:
        return self.first + self.following

    @property
    def works(self) -> bool:
        """True if messages came, and did not have to wait for the heartbeat."""
        late = bool(self.all) and median(self.all) > times.TIMES.heartbeat / 4
        deaf = late and self.watcher != "polling"
        return self.problem is None and not deaf


def verdict(findings: Sequence[Finding], watcher: str) -> tuple[bool, str]:
    """Return True if a layer that is told to use `watcher` is woken, and that in words."""
    chosen = next(kinds()) if watcher == "auto" else watcher
    name = f"The watcher is {chosen}" + (' ("auto")' if watcher == "auto" else "")
    working = {finding.watcher: finding for finding in findings if finding.works}
    if chosen in working:
        delay = median(working[chosen].following) * 1000
        return True, f"{name}, and it works: half of the messages come within {delay:.1f} ms."
    if not working:
        return False, "No message passes from process to process; the problems below say why."
    return False, (
        f"{name}, and it does not work here. Is the file on a network or virtual file system? "
        f'Move it to a local disk, or set "watcher": "{next(iter(working))}" in CONFIG.'
    )


# The first process


async def examine_all(layer: SqliteChannelLayer, say: Callable[[str], None]) -> list[Finding]:
    """Try each watcher. Raises the error that keeps the database from being used at all."""
    if layer.database.in_memory:
        raise DatabaseUnavailable("The database is in memory, where no other process can see it.")
    await layer.database.ready()
    findings = []
    for watcher in kinds():
        say(f"Trying {watcher} with a second process ...")
        findings.append(await examine(layer.options, watcher))
    return findings


async def examine(options: Options, watcher: str) -> Finding:
    """Talk with another process by way of the layer's database, for about five seconds.

    The messages are deleted as they are delivered, and nothing else is.
    """
    config = {
        "database": options.database,
        "polling_interval": options.polling_interval,
        "message_retention": 0,
        "auto_trim": False,  # it would delete what the project keeps, by this retention
        "watcher": watcher,
    }
    finding = Finding(watcher)
    layer = SqliteChannelLayer(**config)
    try:
        async with _second_process(config) as yours:
            await _converse(layer, yours, finding, PATIENCE + options.polling_interval)
    except (ChannelsSqliteError, ChildProcessError) as error:
        finding.problem = str(error)
    except TimeoutError:
        finding.problem = "The other process did not answer in time."
    finally:
        await layer.close()
    return finding


async def _converse(
    layer: SqliteChannelLayer, yours: str, finding: Finding, patience: float
) -> None:
    mine = await layer.new_channel()
    answer = asyncio.create_task(layer.receive(mine))
    try:
        for number in range(CALLS * WORDS):
            opening = number % WORDS == 0
            if opening:
                await asyncio.sleep(QUIET)
            sent_at = time.time()
            await layer.send(yours, {"type": "doctor.word", "reply_to": mine})
            reply = await asyncio.wait_for(answer, patience)
            delays = finding.first if opening else finding.following
            delays += [reply["at"] - sent_at, time.time() - reply["at"]]
            answer = asyncio.create_task(layer.receive(mine))
        await layer.send(yours, {"type": "doctor.end"})
    finally:
        answer.cancel()
        await asyncio.wait([answer])


@asynccontextmanager
async def _second_process(config: dict[str, Any]) -> AsyncIterator[str]:
    """The name of its channel; it ends when it is told to, or is killed."""
    # A value that is no JSON is for Django alone: the layer reads no other OPTIONS than these.
    said = json.dumps([database_settings(config["database"]), config], default=str)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "channels_sqlite._tools.doctor"),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), SETTINGS: said},
    )
    try:
        yield await asyncio.wait_for(_name(process), START)
        await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _name(process: Process) -> str:
    assert process.stdout and process.stderr  # noqa: PT018, S101 - for mypy
    if name := await process.stdout.readline():
        return name.decode().strip()
    words = (await process.stderr.read()).decode(errors="replace").strip()
    raise ChildProcessError(f"The other process ended: {words.rpartition(chr(10))[2]}")


# The second process


async def _answer(config: dict[str, Any]) -> None:
    """Say the name of a channel, and answer what comes there."""
    layer = SqliteChannelLayer(**config)
    channel = await layer.new_channel()
    word = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    sys.stdout.write(f"{channel}\n")
    sys.stdout.flush()
    while (message := await word)["type"] == "doctor.word":
        await layer.send(message["reply_to"], {"type": "doctor.reply", "at": time.time()})
        word = asyncio.create_task(layer.receive(channel))
    await layer.close()


if __name__ == "__main__":
    database, config = json.loads(os.environ[SETTINGS])
    settings.configure(DATABASES={"default": {}, config["database"]: database})
    asyncio.run(_answer(config))
