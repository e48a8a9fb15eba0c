"""One sender, then many at once: messages a second, all of them received."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Any

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

# Messages under way at most: within each layer's default capacity of 100, so that none refuses.
WINDOW = 50
WARM_UP = 0.3  # seconds
STALLED = 5.0  # seconds without an arrival after which the window gives up


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=0.7, normal=2.0, figures=1.2)
    common = {"seconds": seconds, "size": plan.body}
    return [
        Case(
            f"{senders} sender{'s' * (senders > 1)}, one process",
            {**common, "senders": senders},
            lasts=WARM_UP + seconds,
            watched=False,
        )
        for senders in (1, 20)
    ]


async def exchange(worker: Worker, sender: str, senders: int, seconds: float, size: int) -> int:
    """Let `senders` tasks send to one channel, which is read as fast as messages arrive."""
    room = asyncio.Semaphore(WINDOW)

    def arrived(worker: Worker, channel: str, message: dict[str, Any]) -> None:
        del worker, channel, message
        room.release()

    channel = await worker.layer.new_channel()
    roles.listen_on(worker, channel, arrived)
    end = time.monotonic() + seconds

    async def send(name: str) -> int:
        accepted = 0
        for number in count():
            await asyncio.wait_for(room.acquire(), STALLED)
            if time.monotonic() >= end:
                break
            accepted += await roles.send_one(worker, name, number, channel, group=False, size=size)
        return accepted

    return sum(await asyncio.gather(*(send(f"{sender} {index}") for index in range(senders))))


async def run(lab: Lab, case: Case) -> Measured:
    (both,) = await lab.start("both")
    accepted = 0
    for sender, seconds in (("warm-up", WARM_UP), ("measured", case.arguments["seconds"])):
        accepted += await both.call(
            exchange,
            sender=sender,
            senders=case.arguments["senders"],
            seconds=seconds,
            size=case.arguments["size"],
        )
        await lab.settle(accepted)
    entries = await lab.entries()
    times = measure.since_sent(entries, ledger.ACCEPTED, "measured")
    return Measured(
        figures={
            "messages": measure.rate(entries, ledger.RECEIVED, "measured"),
            "send p50": measure.percentiles(times)["p50"],
        },
        distributions={"send ms": measure.distribution(times)},
    )


SCENARIO = Scenario(
    name="throughput",
    says="1 and 20 concurrent senders and a receiver in one process, flat out",
    figures=(
        Figure("messages", "/s", "more", "received a second"),
        Figure("send p50", "ms", "less", "until send() returns"),
    ),
    cases=cases,
    measure=run,
)
