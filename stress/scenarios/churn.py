"""Consumers that connect and leave while messages go to their group."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import count

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

GROUP = "lobby"
STAYS = (0.05, 0.4)  # seconds a consumer is a member
# Seconds that a consumer goes on reading after it has left in good order, because messages are
# under way. If one leaves at once, messages of so many seconds before are excused.
READS_ON = 1.5
AT_ONCE = 20
GROUPS, CHANNELS = 10, 7  # in each of which each channel is a member for a while
WARM_UP = 0.3  # seconds


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=1.0, normal=3.0, figures=1.5)
    processes = plan.processes or 2
    coming = {
        "members": plan.members or 20,
        "rate": plan.rate or 100.0,
        "seconds": seconds,
        "size": plan.body,
    }
    pairs = "group_add and group_discard"
    found = [
        Case(
            f"{coming['members']} come and go in each of {processes} processes",
            coming,
            processes=processes + 1,
            lasts=seconds + READS_ON + 1.5,
            theirs={"channels-lite": {"capacity": 100_000}},
        ),
        *(
            Case(
                f"{pairs}, {how}",
                {"tasks": tasks, "seconds": seconds},
                lasts=WARM_UP + seconds,
                watched=False,
            )
            for tasks, how in ((1, "one after the other"), (AT_ONCE, f"{AT_ONCE} at once"))
        ),
    ]
    return plan.choose(quick=found[:2], normal=found, figures=found[1:2])


async def come_and_go(worker: Worker, many: int, seconds: float) -> int:
    """Fill `many` seats, each with one consumer after the other. Return how many there were."""
    end = time.monotonic() + seconds

    async def seat(abrupt: bool) -> int:
        visits = 0
        while time.monotonic() < end:
            channel = await worker.layer.new_channel()
            roles.listen_on(worker, channel)
            await roles.join(worker, GROUP, channel)
            await asyncio.sleep(random.uniform(*STAYS))
            await roles.leave(worker, GROUP, channel)
            if not abrupt:
                await asyncio.sleep(READS_ON)
            worker.recorder.note(ledger.GONE, number=int(READS_ON * abrupt * 1e9), channel=channel)
            consumer = worker.consumers.pop(channel)
            consumer.cancel()
            await asyncio.wait([consumer])
            visits += 1
        return visits

    return sum(await asyncio.gather(*(seat(bool(number % 2)) for number in range(many))))


async def add_and_discard(worker: Worker, tasks: int, seconds: float) -> float:
    """Measure the pairs of group_add and group_discard in a second.

    A channel that joins leaves after GROUPS * CHANNELS others. To leave at once would measure only
    one state of SQLite's pages: if the last one is full, by chance, each join makes a page and
    each leave gives it back, which costs twice as much.
    """
    end = time.monotonic() + seconds

    async def work() -> int:
        channels = [await worker.layer.new_channel() for _ in range(CHANNELS)]
        seats = [(f"group{n}", channel) for channel in channels for n in range(GROUPS)]
        for number in count():
            if time.monotonic() >= end:
                return number
            await worker.layer.group_add(*seats[number % len(seats)])
            await worker.layer.group_discard(*seats[(number + 1) % len(seats)])
        raise AssertionError("count() does not end")

    begin = time.monotonic()
    pairs = sum(await asyncio.gather(*(work() for _ in range(tasks))))
    return pairs / (time.monotonic() - begin)


async def run(lab: Lab, case: Case) -> Measured:
    if "tasks" in case.arguments:
        (process,) = await lab.start("process")
        tasks, seconds = case.arguments["tasks"], case.arguments["seconds"]
        await process.call(add_and_discard, tasks=tasks, seconds=WARM_UP)
        pairs = await process.call(add_and_discard, tasks=tasks, seconds=seconds)
        return Measured({"pairs": pairs})

    names = [f"process{n}" for n in range(case.processes - 1)]
    sender, *processes = await lab.start("sender", *names)
    seconds = case.arguments["seconds"]
    # Some stay all the time, to measure what the coming and going of the others costs them.
    await asyncio.gather(*(p.call(roles.open_channels, many=5, group=GROUP) for p in processes))
    visitors = asyncio.gather(
        *(p.call(come_and_go, many=case.arguments["members"], seconds=seconds) for p in processes)
    )
    await asyncio.sleep(0.2)
    await sender.call(
        roles.send_paced,
        sender="measured",
        target=GROUP,
        group=True,
        rate=case.arguments["rate"],
        seconds=max(0.2, seconds - 0.3),
        size=case.arguments["size"],
    )
    visits = sum(await visitors)
    await lab.settle()
    entries = await lab.entries()
    delays = measure.since_sent(entries, ledger.RECEIVED, "measured")
    figures = {f"delay {k}": v for k, v in measure.percentiles(delays).items() if k != "max"}
    figures["visits"] = visits / seconds
    return Measured(figures, distributions={"delay ms": measure.distribution(delays)})


SCENARIO = Scenario(
    name="churn",
    says="consumers that connect, join, leave and are cancelled while their group is sent to",
    figures=(
        Figure("visits", "/s", "", "consumers that came and went"),
        Figure("delay p50", "ms", "less", "from group_send to each member"),
        Figure("delay p99", "ms", "less"),
        Figure("pairs", "/s", "more", "group_add and group_discard"),
    ),
    cases=cases,
    measure=run,
)
