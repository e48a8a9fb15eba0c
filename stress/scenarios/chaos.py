"""Things that go wrong: processes killed, stopped and forked, files deleted, a full disk."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

from stress import ledger, measure, roles
from stress.children import Child, ChildError
from stress.lab import Lab, template
from stress.layers import DATABASE
from stress.ledger import Entry
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.recorder import Recorder
from stress.roles import Worker

GROUP = "everybody"
TASKS = "tasks"  # a normal channel, that all receivers compete for
# Rows for processes that are gone pile up: nobody is to be refused for that.
ROOM = {"capacity": 1_000_000}
RATE = 50.0  # messages a second, of each writer to each of its targets
EVERY = 0.5  # seconds between two blows
# Seconds a layer has to notice that its file is another one: several heartbeats.
RECOVERY = 4.0
FORKS = 5
SENT_BY_FORK = 20  # to each of its targets
FORKED = 20  # seconds a forked process may live; a deaf one must not hold up the run
DISK = "4m"


def cases(plan: Plan) -> list[Case]:
    troupe = plan.processes or 3
    common = {
        "seconds": plan.seconds or plan.choose(quick=2.0, normal=6.0, full=20.0),
        "size": plan.body,
        "processes": troupe,
    }

    def case(name: str, how: str) -> Case:
        return Case(name, {**common, "how": how}, troupe + 2, config=ROOM, durable=True)

    def ours(name: str, how: str, why: str, *, able: bool = True) -> Case:
        return Case(
            name,
            {**common, "how": how},
            config=ROOM,
            durable=True,
            only=lambda layer: layer.ours and able,
            why=why,
        )

    found = [
        case("kill -9 of random processes", "kill"),
        case("SIGSTOP of random processes", "stop"),
        case("fork of a process that uses the layer", "fork"),
        ours("the file is replaced by a new one", "replace", "has no file of ours"),
        ours("the disk is full", "full", "needs ours and a small tmpfs", able=small_disks()),
        ours("the file is deleted", "delete", "has no file of ours"),
    ]
    return found[:-1] if plan.profile == "quick" else found


@cache
def small_disks() -> bool:
    """Whether this machine lets us mount a tmpfs of our own, in a user namespace."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m stress /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Troupe:
    """Writers and receivers, whoever of them is there at the moment."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.lab = lab
        self.size = size
        self.end = 0.0  # time.monotonic()
        self.receivers: dict[Child, list[str]] = {}
        self.writers: list[Child] = []
        self.talks: list[asyncio.Task[int]] = []
        self.born = 0

    async def receiver(self) -> None:
        self.born += 1
        (child,) = await self.lab.start(f"receiver{self.born}")
        channels = await child.call(roles.open_channels, many=3, group=GROUP)
        await child.call(roles.listen, channel=TASKS)
        self.receivers[child] = channels

    async def writer(self) -> Child:
        self.born += 1
        (child,) = await self.lab.start(f"writer{self.born}")
        self.writers.append(child)
        return child

    def speak(self, writer: Child) -> None:
        """Until the end: to the group, to the shared channel, and to one channel of each."""
        targets = [GROUP, TASKS, *(channels[0] for channels in self.receivers.values())]
        for number, target in enumerate(targets):
            talk = writer.call(
                roles.send_paced,
                sender=f"{writer.name} {number}",
                target=target,
                group=target == GROUP,
                rate=RATE,
                seconds=max(0.1, self.end - time.monotonic()),
                size=self.size,
            )
            self.talks.append(asyncio.create_task(talk))

    def victim(self) -> Child:
        return random.choice([*self.receivers, *self.writers])

    async def over(self) -> None:
        """All has been said; who was killed did not finish."""
        for result in await asyncio.gather(*self.talks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ChildError):
                raise result


async def kill(lab: Lab, troupe: Troupe) -> None:
    victim = troupe.victim()
    await victim.kill()
    # Of the shared channel it may have held the one message that it was being handed.
    lab.notes.append(Entry(ledger.KILLED, time.monotonic_ns(), victim.name, number=1))
    if victim in troupe.receivers:
        del troupe.receivers[victim]
        await troupe.receiver()
    else:
        troupe.writers.remove(victim)
        troupe.speak(await troupe.writer())


async def stop(lab: Lab, troupe: Troupe) -> None:
    del lab
    victim = troupe.victim()
    victim.signal(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0.2, 1.0))
    victim.signal(signal.SIGCONT)


async def blows(
    lab: Lab, case: Case, blow: Callable[[Lab, Troupe], Awaitable[None]]
) -> dict[str, float]:
    troupe = Troupe(lab, case.arguments["size"])
    await asyncio.gather(
        *(troupe.receiver() for _ in range(case.arguments["processes"])),
        troupe.writer(),
        troupe.writer(),
    )
    troupe.end = time.monotonic() + case.arguments["seconds"]
    for writer in troupe.writers:
        troupe.speak(writer)
    dealt = 0
    while time.monotonic() < troupe.end - EVERY:
        await asyncio.sleep(EVERY)
        await blow(lab, troupe)
        dealt += 1
    await troupe.over()
    await lab.settle()
    delays = measure.percentiles(measure.since_sent(await lab.entries(), ledger.RECEIVED))
    return {"blows": dealt, **{f"delay {name}": value for name, value in delays.items()}}


async def fork(lab: Lab, case: Case) -> dict[str, float]:
    parent, other = await lab.start("parent", "other")
    (own,) = await parent.call(roles.open_channels, many=1)
    (far,) = await other.call(roles.open_channels, many=1)
    size = case.arguments["size"]
    talk = asyncio.create_task(
        parent.call(
            roles.send_paced, sender="parent", target=far, rate=RATE, seconds=FORKS * 0.5, size=size
        )
    )
    for number in range(FORKS):
        await asyncio.sleep(0.2)
        await parent.call(fork_and_send, number=number, targets=[own, far], size=size)
    await lab.settle(await talk + 2 * FORKS * SENT_BY_FORK)
    return {"blows": FORKS}


async def fork_and_send(worker: Worker, number: int, targets: list[str], size: int) -> None:
    """A forked process uses the layer it was born with; so does its parent, meanwhile."""
    child = os.fork()
    if child == 0:
        signal.alarm(FORKED)
        try:
            asyncio.run(live(worker, number, targets, size))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    if status:
        how = "got nowhere" if os.WIFSIGNALED(status) else "failed, see its standard error"
        raise RuntimeError(f"forked process {number} {how} (status {status})")


async def live(worker: Worker, number: int, targets: list[str], size: int) -> None:
    """The forked process's whole life: send to its parent, to another, and to itself."""
    name = f"{worker.name}-fork{number}"
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


async def lose_file(lab: Lab, case: Case, *, replace: bool) -> dict[str, float]:
    """Delete the database under its users, and say how long they take to find together again."""
    sender, receiver = await lab.start("sender", "receiver")
    (target,) = await receiver.call(roles.open_channels, many=1)
    how: dict[str, Any] = {"target": target, "rate": RATE, "size": case.arguments["size"]}
    accepted = await sender.call(roles.send_paced, sender="before", seconds=0.5, **how)
    await lab.settle(accepted)

    begin = time.monotonic_ns()
    await asyncio.to_thread(remove, lab.database, await template(lab) if replace else None)
    await sender.call(roles.send_paced, sender="during", seconds=RECOVERY, **how)
    end = time.monotonic_ns()
    fault = f"the file had been {'replaced' if replace else 'deleted'}"
    lab.notes.append(Entry(ledger.FAULT, begin, "harness", number=end, target=fault))
    already = await receiver.call(roles.arrived)
    accepted = await sender.call(roles.send_paced, sender="after", seconds=0.5, **how)
    await lab.settle(already + accepted)
    return {"recovery": recovery(await lab.entries(), "during", begin)}


def remove(database: Path, replacement: Path | None) -> None:
    """With its WAL and its index; the replacement comes in one step, as a deployment's would."""
    new = database.with_name("new")
    if replacement is not None:
        shutil.copy(replacement, new)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    if replacement is not None:
        new.rename(database)


def recovery(entries: list[Entry], sender: str, begin: int) -> float:
    """Milliseconds from `begin` until the last message was sent that failed or never arrived."""
    mine = [entry for entry in entries if entry.sender == sender]
    arrived = {entry.number for entry in mine if entry.kind == ledger.RECEIVED}
    lost = [e.at for e in mine if e.kind == ledger.SENT and e.number not in arrived]
    return max(0.0, (max(lost, default=begin) - begin) / 1e6)


async def full_disk(lab: Lab, case: Case) -> dict[str, float]:
    """A process whose database is on a tmpfs of its own, that another file fills up."""
    disk = lab.directory / "disk"
    await asyncio.to_thread(disk.mkdir)
    script = 'mount -t tmpfs -o "size=$1" stress "$2" && cp "$3" "$4" && shift 4 && exec "$@"'
    wrapper = (
        *("unshare", "-Urm", "sh", "-c", script, "sh"),
        *(DISK, str(disk), str(lab.database), str(disk / DATABASE)),
    )
    child = await lab.child("process", wrapper=wrapper, directory=disk)
    (target,) = await child.call(roles.open_channels, many=1)
    how: dict[str, Any] = {"target": target, "rate": RATE, "size": case.arguments["size"]}
    await child.call(roles.send_paced, sender="before", seconds=0.5, **how)
    await child.call(fill_disk, directory=str(disk))
    # Large enough to need room that is not there: small ones find it in the WAL's old frames.
    full = {**how, "size": 200_000, "rate": 10.0}
    await child.call(roles.send_paced, sender="meanwhile", seconds=0.5, **full)
    await child.call(clear_disk, directory=str(disk))
    begin = time.monotonic_ns()
    await child.call(roles.send_paced, sender="after", seconds=1.0, **how)
    await lab.settle()
    return {"recovery": recovery(await lab.entries(), "after", begin)}


async def fill_disk(worker: Worker, directory: str) -> None:
    del worker
    with suppress(OSError), (Path(directory) / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)) == 4096:
            pass


async def clear_disk(worker: Worker, directory: str) -> None:
    del worker
    (Path(directory) / "filler").unlink()


async def run(lab: Lab, case: Case) -> Measured:
    how = case.arguments["how"]
    if how in ("kill", "stop"):
        figures = await blows(lab, case, kill if how == "kill" else stop)
    elif how == "fork":
        figures = await fork(lab, case)
    elif how == "full":
        figures = await full_disk(lab, case)
    else:
        figures = await lose_file(lab, case, replace=how == "replace")
    entries = await lab.entries()
    figures["failed"] = sum(entry.kind == ledger.FAILED for entry in entries)
    if lab.layer.file:
        await asyncio.to_thread(check_integrity, lab.database)
    return Measured(figures)


def check_integrity(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        (answer,) = connection.execute("pragma integrity_check").fetchone()
    if answer != "ok":
        raise RuntimeError(f"the database is damaged: {answer}")


SCENARIO = Scenario(
    name="chaos",
    says="kill -9, SIGSTOP and fork of processes, the file deleted and replaced, a full disk",
    figures=(
        Figure("blows", "", "", "how often something was done to a process"),
        Figure("delay p50", "ms", "less", "meanwhile, of what arrived"),
        Figure("delay p99", "ms", "less"),
        Figure("delay max", "ms", "less", "the longest anybody was deaf"),
        Figure("recovery", "ms", "less", "from the blow until nothing is lost any more"),
        Figure("failed", "", "", "sends that raised anything but ChannelFull"),
    ),
    cases=cases,
    measure=run,
    rivals=False,
    rounds=(1, 2, 3),
    may_fail=True,
)
