"""Faults that the harness causes in a troupe. Each function returns when its fault is over."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from stress import ledger, roles, sabotage
from stress.clock import Clock
from stress.lab import template
from stress.ledger import Entry
from stress.recorder import Recorder
from stress.roles import Worker
from stress.troupe import Troupe

# Seconds for a layer to notice that its file is another one: several heartbeats.
RECOVERY = 4.0
MISSING = 1.0  # seconds that a deleted file is not there
SENT_BY_FORK = 20  # to each of its targets
FORKED = 20  # seconds a forked process may live, so that a deaf one does not delay the run
OFFSETS = (-3600.0, -300.0, 300.0, 3600.0)  # seconds that the clock is set forward or back
FILLER = "filler"
HARNESS = "harness"  # the harness's name in the ledger


async def kill(troupe: Troupe) -> None:
    """kill -9."""
    victim = troupe.anybody()
    await victim.kill()
    # It may have held one message of the shared channel, which it was being handed.
    troupe.lab.notes.append(Entry(ledger.KILLED, time.monotonic_ns(), victim.name, number=1))
    await troupe.replace(victim)


async def stop(troupe: Troupe) -> None:
    """SIGSTOP, and SIGCONT a while later."""
    victim = troupe.anybody()
    victim.signal(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0.2, 1.0))
    victim.signal(signal.SIGCONT)


async def fork(troupe: Troupe) -> None:
    """A fork in the middle of a process's work, after which both go on."""
    parent = random.choice(list(troupe.receivers))
    targets = [channels[1] for channels in troupe.receivers.values()]
    await parent.call(fork_and_send, targets=targets, size=troupe.size)


async def fork_and_send(worker: Worker, targets: list[str], size: int) -> None:
    """Fork. The child uses the layer that it inherits, while the parent uses it too."""
    number = next(worker.kept.setdefault("forks", count(1)))
    child = os.fork()
    if child == 0:
        signal.alarm(FORKED)
        try:
            asyncio.run(live(worker, f"{worker.name}-fork{number}", targets, size))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    if status:
        how = "got nowhere" if os.WIFSIGNALED(status) else "failed, see its standard error"
        raise RuntimeError(f"forked process {number} {how} (status {status})")


async def live(worker: Worker, name: str, targets: list[str], size: int) -> None:
    """Run the forked process: send to its parent, to others, and to itself."""
    path = worker.recorder.path.with_name(f"{name}.ledger")
    forked = Worker(name, worker.layer, Recorder(path, durable=True))
    (own,) = await roles.open_channels(forked, many=1)
    for index, target in enumerate([*targets, own]):
        for message in range(SENT_BY_FORK):
            sender = f"{name} {index}"
            await roles.send_one(forked, sender, message, target, group=False, size=size)
    for _ in range(500):
        if forked.arrived == SENT_BY_FORK:
            break
        await asyncio.sleep(0.01)


async def crash(troupe: Troupe) -> None:
    """Exceptions in the middle of a reader or of a writer's trimmer."""
    parts = random.choice((sabotage.READER, sabotage.READER, sabotage.WRITER))
    victims = troupe.receivers if parts is sabotage.READER else troupe.writers
    await random.choice(list(victims)).call(
        sabotage.sabotage, part=random.choice(list(parts)), seconds=random.uniform(0.2, 2.0)
    )


async def jump(troupe: Troupe) -> None:
    """A wall clock that is wrong for a while, in all processes.

    When it goes forward, to a wrong time or back to the right one, messages under way expire.
    """
    clock = Clock(troupe.lab.directory)
    for offset in (random.choice(OFFSETS), 0.0):
        forward = offset > clock.offset
        clock.offset = offset
        if forward:
            troupe.lab.notes.append(Entry(ledger.JUMPED, time.monotonic_ns(), HARNESS))
        await asyncio.sleep(random.uniform(0.5, 2.5))


async def fill(troupe: Troupe) -> None:
    """A disk that is full for a while."""
    await troupe.keeper.call(fill_disk, directory=str(troupe.place))
    await asyncio.sleep(random.uniform(0.5, 1.5))
    await troupe.keeper.call(clear_disk, directory=str(troupe.place))


async def fill_disk(worker: Worker, directory: str) -> None:
    del worker
    with suppress(OSError), (Path(directory) / FILLER).open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)) == 4096:
            pass


async def clear_disk(worker: Worker, directory: str) -> None:
    del worker
    (Path(directory) / FILLER).unlink()


async def replace(troupe: Troupe) -> None:
    """An empty database that replaces the one in use, in one step, as in a deployment."""
    source = await template(troupe.lab)
    await troupe.lose_groups()
    begin = time.monotonic_ns()
    await troupe.keeper.call(remove, database=str(troupe.database), source=str(source))
    await asyncio.sleep(RECOVERY)
    await troupe.rejoin()
    over(troupe, begin, "the file had been replaced")


async def delete(troupe: Troupe) -> None:
    """A database that is deleted, and migrated again a while later."""
    await troupe.lose_groups()
    begin = time.monotonic_ns()
    await troupe.keeper.call(remove, database=str(troupe.database), source="")
    await asyncio.sleep(MISSING)
    await troupe.keeper.call(roles.migrate)
    await asyncio.sleep(RECOVERY)
    await troupe.rejoin()
    over(troupe, begin, "the file had been deleted")


def over(troupe: Troupe, begin: int, what: str) -> None:
    now = time.monotonic_ns()
    troupe.lab.notes.append(Entry(ledger.FAULT, begin, HARNESS, number=now, target=what))


async def remove(worker: Worker, database: str, source: str) -> None:
    del worker
    await asyncio.to_thread(remove_file, database, source)


def remove_file(database: str, source: str) -> None:
    """Remove the file, its WAL and its index. A copy of `source` replaces the file."""
    new = Path(f"{database}.new")
    if source:
        shutil.copy(source, new)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    if source:
        new.rename(database)


Fault = Callable[[Troupe], Awaitable[None]]

# How often each comes in a long history, compared with the others.
FAULTS: dict[str, tuple[Fault, int]] = {
    "kill": (kill, 4),
    "stop": (stop, 4),
    "crash": (crash, 4),
    "fork": (fork, 2),
    "jump": (jump, 2),
    "fill": (fill, 2),
    "replace": (replace, 1),
    "delete": (delete, 1),
}
