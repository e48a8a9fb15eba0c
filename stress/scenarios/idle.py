"""The cost of consumers that wait while nobody sends to them."""

from __future__ import annotations

import asyncio

from stress import measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario

GROUP = "everybody"
SETTLING = 2.0  # seconds: adaptive watchers calm down, connections are up


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=1.0, normal=4.0, figures=3.0)
    sizes = plan.many(plan.members, quick=[1_000], normal=[1, 100, 10_000], figures=[10_000])
    return [
        Case(
            f"{members:,} consumer{'s' * (members > 1)}",
            {"members": members, "seconds": seconds},
            lasts=0.5 + SETTLING + seconds + members / 4_000,
            rounds=3,
        )
        for members in sizes
    ]


async def run(lab: Lab, case: Case) -> Measured:
    members, seconds = case.arguments["members"], case.arguments["seconds"]
    (process,) = await lab.start("idle")
    # The first consumer brings the connections, the threads and the watcher: not its own memory.
    await process.call(roles.open_channels, many=1, group=GROUP)
    await asyncio.sleep(0.5)
    alone = measure.usage(process.pid)
    if members > 1:
        await process.call(roles.open_channels, many=members - 1, group=GROUP)
    await asyncio.sleep(SETTLING)

    watched = {"": process.pid}
    if lab.server is not None:
        watched["server "] = lab.server.pid
    before = {name: measure.usage(pid) for name, pid in watched.items()}
    await asyncio.sleep(seconds)
    figures: dict[str, float] = {}
    for name, pid in watched.items():
        used = measure.spent(before[name], measure.usage(pid))
        figures[f"{name}cpu"] = used.cpu_percent
        figures[f"{name}switches"] = used.switches
    if members > 1:
        figures["memory"] = (before[""].memory - alone.memory) / (members - 1) / 1024
    figures["threads"] = before[""].threads
    return Measured(figures)


SCENARIO = Scenario(
    name="idle",
    says="1, 100 and 10,000 consumers of one process that nobody writes to",
    figures=(
        Figure("cpu", "%", "less", "of one core"),
        Figure("switches", "/s", "less", "voluntary context switches, all threads"),
        Figure(
            "memory",
            "KiB",
            "less",
            "more for each consumer, its task and its ledger entries included",
        ),
        Figure("threads", "", ""),
        Figure("server cpu", "%", "", "of one core, redis-server's own"),
        Figure("server switches", "/s", "", "redis-server's own"),
    ),
    cases=cases,
    measure=run,
)
