"""Things that go wrong, each by itself and all at random, under processes that go on talking."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path

from stress import clock, ledger, measure, sabotage
from stress.clock import Clock
from stress.faults import FAULTS
from stress.lab import Lab
from stress.ledger import Entry
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker
from stress.troupe import Troupe

# Rows for dead processes pile up, and must not make the layer refuse a send.
ROOM = {"capacity": 1_000_000}
RETENTION = 5  # seconds: trimming is a part of what can go wrong
EVERY = 0.5  # seconds between two faults
WRITERS = 2
HISTORY = "a long history: all of them at random"

# The faults that any layer can meet, and those that need a file, or a layer of ours.
ANYBODYS = {
    "kill -9 of random processes": ("kill",),
    "SIGSTOP of random processes": ("stop",),
    "fork of processes that use the layer": ("fork",),
}
CRASHES, FULL = "crashes in readers and trimmers", "the disk is full"
OURS = {
    CRASHES: ("crash",),
    "the clock jumps": ("jump",),
    FULL: ("fill",),
    "the file is replaced by a new one": ("replace",),
    "the file is deleted, and migrated again": ("delete",),
    HISTORY: tuple(FAULTS),
}
QUICK = (*ANYBODYS, CRASHES, FULL)


def cases(plan: Plan) -> list[Case]:
    """The cases. `--seconds` is the length of the history, and at most of each other case."""
    long = plan.seconds or plan.choose(quick=6.0, normal=60.0)
    short = min(long, plan.choose(quick=1.5, normal=6.0))
    processes = plan.processes or 3

    def case(name: str, faults: tuple[str, ...]) -> Case:
        history, anybodys = name == HISTORY, name in ANYBODYS
        if history and not small_disks():
            faults = tuple(fault for fault in faults if fault != "fill")
        seconds = long if history else short
        able = "fill" not in faults or small_disks()
        return Case(
            name,
            {"size": plan.body, "processes": processes, "seconds": seconds, "faults": [*faults]},
            processes=processes + WRITERS,
            lasts=seconds + 3.0,
            config=ROOM,
            ours={"message_retention": RETENTION},
            only=None if anybodys else lambda layer: layer.ours and able,
            why="has no file of ours" if able else "needs ours and a small tmpfs",
            watched=anybodys,
            durable=True,
            prepare=prepare,
        )

    found = {name: case(name, faults) for name, faults in {**ANYBODYS, **OURS}.items()}
    return [found[name] for name in (QUICK if plan.profile == "quick" else found)]


@cache
def small_disks() -> bool:
    """Return True if this machine lets us mount a tmpfs of our own, in a user namespace."""
    if sys.platform != "linux" or None in map(shutil.which, ("unshare", "nsenter")):
        return False
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m stress /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def prepare(directory: Path) -> None:
    """Prepare a child, before it makes its layer."""
    clock.install(directory)
    sabotage.install()


async def run(lab: Lab, case: Case) -> Measured:
    names: list[str] = case.arguments["faults"]
    Clock(lab.directory)  # before any process uses it
    troupe = Troupe(lab, case.arguments["size"])
    receivers = case.arguments["processes"]
    await troupe.enter(receivers, WRITERS, own_disk="fill" in names)
    dealt = Counter(dict.fromkeys(names, 0))
    end = time.monotonic() + case.arguments["seconds"]
    while True:
        await asyncio.sleep(EVERY)
        if time.monotonic() >= end and dealt.total():
            break
        (name,) = random.choices(names, [FAULTS[name][1] for name in names])
        await FAULTS[name][0](troupe)
        dealt[name] += 1
    await asyncio.sleep(EVERY)
    await troupe.leave()
    await lab.settle()
    if lab.layer.file:
        await troupe.keeper.call(check_integrity, database=str(troupe.database))
    entries = await lab.entries()
    delays = measure.percentiles(measure.since_sent(entries, ledger.RECEIVED))
    return Measured(
        {
            **dealt,
            **{f"delay {name}": value for name, value in delays.items()},
            **recovery(entries),
            "failed": sum(entry.kind == ledger.FAILED for entry in entries),
        }
    )


def recovery(entries: Iterable[Entry]) -> dict[str, float]:
    """Milliseconds from the loss of a file until the last message was sent that never arrived.

    The group's messages do not count, because its members join again later.
    """
    faults = [(e.at, e.number) for e in entries if e.kind == ledger.FAULT]
    if not faults:
        return {}
    arrived = {(e.sender, e.number) for e in entries if e.kind == ledger.RECEIVED}
    lost = [
        e.at
        for e in entries
        if e.kind == ledger.SENT and e.channel and (e.sender, e.number) not in arrived
    ]
    took = [at - begin for begin, end in faults for at in lost if begin <= at <= end]
    return {"recovery": max(took, default=0) / 1e6}


async def check_integrity(worker: Worker, database: str) -> None:
    del worker
    with closing(sqlite3.connect(database)) as connection:
        (answer,) = connection.execute("pragma integrity_check").fetchone()
    if answer != "ok":
        raise RuntimeError(f"the database is damaged: {answer}")


SCENARIO = Scenario(
    name="chaos",
    says="kill -9, SIGSTOP, fork, crashes, a clock that jumps, a full disk, a file that is lost",
    figures=(
        *(Figure(name, "", "", f"how often: {says[0].__doc__}") for name, says in FAULTS.items()),
        Figure("delay p50", "ms", "less", "meanwhile, of what arrived"),
        Figure("delay p99", "ms", "less"),
        Figure("delay max", "ms", "less", "the longest time that a consumer got nothing"),
        Figure("recovery", "ms", "less", "from the loss of a file until nothing is lost any more"),
        Figure("failed", "", "", "sends that raised anything but ChannelFull"),
    ),
    cases=cases,
    measure=run,
    rivals=False,
    rounds=(1, 1, 1),
    may_fail=True,
    profiles=("quick",),
)
