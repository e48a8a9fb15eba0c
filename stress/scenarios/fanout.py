"""One message to a group: how soon the last member has it, and how many arrive in a second."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from typing import Any

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.layers import Layer
from stress.ledger import Entry
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker
from stress.window import Gauge, Window

GROUP = "everybody"
# Messages and deliveries under way at most, because all of them have to be drained in the end.
WINDOW = 20
UNDER_WAY = 20_000
STALLED = 10.0  # seconds without progress after which a sender gives up


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=0.5, normal=2.0, figures=0.8)
    sizes: list[tuple[int, int]] = plan.choose(
        quick=[(1_000, 1), (1_000, 2)],
        normal=[(10, 1), (100, 1), (1_000, 1), (10_000, 1), (1_000, 4)],
        figures=[(100, 1), (1_000, 1), (10_000, 1), (1_000, 4)],
    )
    if plan.members or plan.processes:
        sizes = [(plan.members or 1_000, plan.processes or 1)]
    found = []
    for members, processes in sizes:
        where = "one process" if processes == 1 else f"{processes} processes"
        # channels-lite writes a row a member, and counts them against one capacity.
        room = {"capacity": 100 * members}
        found.append(
            Case(
                f"{members:,} members, {where}",
                {"members": members, "seconds": seconds, "size": plan.body},
                processes=processes,
                theirs={"channels-lite": room},
                # To join and leave, to drain, and to read as many entries.
                lasts=1.5 + 1.5 * seconds + members / 2_500,
                rounds=None if members == 1_000 else 3,
                watched=False,
                # Its receive() looks at every channel and member there is.
                only=in_time if members >= 10_000 else None,
                why="takes seconds for each message to so many",
            )
        )
    return found


def in_time(layer: Layer) -> bool:
    return layer.name != "memory"


async def open_window(worker: Worker, parts: int) -> int:
    worker.kept["window"] = Window(parts)
    port: int = worker.kept["window"].port
    return port


async def report_to(worker: Worker, port: int, members: int) -> None:
    worker.kept["gauge"] = Gauge(worker.name, members, port)


def arrived(worker: Worker, channel: str, message: dict[str, Any]) -> None:
    del channel, message
    worker.kept["gauge"].arrive()


async def send(worker: Worker, sender: str, window: int, seconds: float, size: int) -> int:
    """Send to the group, `window` messages under way at most. Return how many."""
    flow: Window = worker.kept["window"]
    end = time.monotonic() + seconds
    for number in count():
        if not await flow.enter(window, STALLED) or (number and time.monotonic() >= end):
            flow.begun -= 1
            return number
        await roles.send_one(worker, sender, number, GROUP, group=True, size=size)
    raise AssertionError("count() does not end")


def last_arrivals(entries: Iterable[Entry], sender: str) -> list[float]:
    """Milliseconds from the beginning of each send to its last member's receipt."""
    sent: dict[int, int] = {}
    last: defaultdict[int, int] = defaultdict(int)
    for entry in entries:
        if entry.sender == sender and entry.kind == ledger.SENT:
            sent[entry.number] = entry.at
        elif entry.sender == sender and entry.kind == ledger.RECEIVED:
            last[entry.number] = max(last[entry.number], entry.at)
    return [(last[number] - at) / 1e6 for number, at in sent.items() if number in last]


async def run(lab: Lab, case: Case) -> Measured:
    members, seconds = case.arguments["members"], case.arguments["seconds"]
    size = case.arguments["size"]
    processes = await lab.start(*(f"process{n}" for n in range(case.processes)))
    first = processes[0]
    port = await first.call(open_window, parts=len(processes))
    shares = [members // len(processes)] * len(processes)
    shares[0] += members - sum(shares)
    for process, share in zip(processes, shares, strict=True):
        await process.call(report_to, port=port, members=share)
    await asyncio.gather(
        *(
            process.call(roles.open_channels, many=share, group=GROUP, react=arrived)
            for process, share in zip(processes, shares, strict=True)
        )
    )
    wide = max(2, min(WINDOW, UNDER_WAY // members))
    warm = await first.call(send, sender="warm-up", window=2, seconds=0.2, size=size)
    before = measure.bytes_used(lab.database) if lab.layer.file else 0
    sent = await first.call(send, sender="one by one", window=1, seconds=seconds / 2, size=size)
    sent += await first.call(send, sender="flat out", window=wide, seconds=seconds, size=size)
    after = measure.bytes_used(lab.database) if lab.layer.file else 0
    await lab.settle(members * (warm + sent))

    entries = await lab.entries()
    times = last_arrivals(entries, "one by one")
    figures = {
        "deliveries": measure.rate(entries, ledger.RECEIVED, "flat out"),
        "last member p50": measure.percentiles(times)["p50"],
    }
    if lab.layer.file:
        figures["disk"] = (after - before) / sent
    return Measured(figures, distributions={"last member ms": measure.distribution(times)})


SCENARIO = Scenario(
    name="fanout",
    says="group_send to 10, 100, 1,000 and 10,000 members in one process and in several",
    figures=(
        Figure("deliveries", "/s", "more", f"up to {WINDOW} messages under way"),
        Figure("last member p50", "ms", "less", "one message under way, until the last has it"),
        Figure("disk", "bytes", "less", "that one message adds to the file"),
    ),
    cases=cases,
    measure=run,
)
