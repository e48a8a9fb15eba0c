"""Minutes of mixed traffic: its growth, and the cost of trimming."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

from stress import measure, roles
from stress.children import Child
from stress.lab import Lab
from stress.layers import Layer
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.program import START_UP
from stress.scenarios import throughput

GROUP = "everybody"
MEMBERS = 10
EVERY = 1.0  # seconds between two looks at the processes and files


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=4.0, normal=60.0)
    rate = plan.rate or plan.choose(quick=200.0, normal=1000.0)
    flat_out = min(seconds, plan.choose(quick=1.0, normal=5.0, figures=2.0))
    # Long enough to see trimming keep up: rows older than that go while new ones come.
    retention = max(1, round(seconds / 10))
    found = [
        Case(
            f"{rate:g} messages a second, {seconds:g} s",
            {"seconds": seconds, "rate": rate, "size": plan.body},
            processes=3,
            lasts=1.2 * seconds,  # it takes long to read the ledger
            watched=False,
            ours={"message_retention": retention},
            durable=True,  # the ledger must not grow in memory
            only=keeps_up,
            why="does not keep up with such a rate",
        ),
        Case(
            "trimming and not, 20 senders",
            {"seconds": flat_out, "size": plan.body},
            lasts=2 * (throughput.WARM_UP + flat_out + START_UP),
            rounds=3,
            watched=False,
            only=lambda layer: layer.ours,
            why="has no auto_trim",
        ),
    ]
    return plan.choose(quick=found, normal=found, figures=found[1:])


def keeps_up(layer: Layer) -> bool:
    return layer.name != "channels-lite"


async def run(lab: Lab, case: Case) -> Measured:
    if "rate" not in case.arguments:
        return await cost_of_trimming(lab, case)
    seconds, rate = case.arguments["seconds"], case.arguments["rate"]
    sender, *receivers = await lab.start("sender", "receiver1", "receiver2")
    channels = [(await receiver.call(roles.open_channels, many=1))[0] for receiver in receivers]
    for receiver in receivers:
        await receiver.call(roles.open_channels, many=MEMBERS // len(receivers), group=GROUP)
    # Half to channels, half to a group.
    targets = [*((channel, False, rate / 4) for channel in channels), (GROUP, True, rate / 2)]
    talk = asyncio.gather(
        *(
            sender.call(
                roles.send_paced,
                sender=f"to {number}",
                target=target,
                group=group,
                rate=pace,
                seconds=seconds,
                size=case.arguments["size"],
            )
            for number, (target, group, pace) in enumerate(targets)
        )
    )
    series = await observe(lab, [sender, *receivers], talk)
    accepted = await talk
    await lab.settle(sum(accepted[:-1]) + MEMBERS * accepted[-1])

    # Only growth after the beginning counts, because memory and caches fill up first.
    late = {name: points[len(points) // 3 :] for name, points in series.items()}
    figures = {f"{name} slope": measure.slope(points) * 60 for name, points in late.items()}
    for name in ("threads", "descriptors"):
        figures[name] = series[name][-1][1]
        del figures[f"{name} slope"]
    for name in ("file", "wal"):
        if name in series:
            figures[name] = max(value for _, value in series[name])
    return Measured(figures, series=dict(series))


async def observe(
    lab: Lab, children: list[Child], talk: asyncio.Future[list[int]]
) -> dict[str, list[tuple[float, float]]]:
    """Look at processes and files until the talk is over: name -> (second, value)."""
    series: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    begin = time.monotonic()
    while not talk.done():
        await asyncio.wait([talk], timeout=EVERY)
        usages = [measure.usage(child.pid) for child in children]
        now = round(time.monotonic() - begin, 2)
        series["memory"].append((now, sum(usage.memory for usage in usages) / 2**20))
        series["threads"].append((now, sum(usage.threads for usage in usages)))
        series["descriptors"].append((now, sum(usage.descriptors for usage in usages)))
        if lab.layer.file:
            for name, size in measure.file_sizes(lab.database).items():
                series[name].append((now, size / 2**20))
    return dict(series)


async def cost_of_trimming(lab: Lab, case: Case) -> Measured:
    """The same work without a pause, once with rows being trimmed, and once with none."""
    figures = {}
    work = Case(case.name, {**case.arguments, "senders": 20})
    configs: dict[str, dict[str, Any]] = {
        "trimming": {"message_retention": 1},
        "not trimming": {"auto_trim": False},
    }
    for name in random.sample(sorted(configs), k=2):
        part = await lab.part(name.replace(" ", "-"), **configs[name])
        measured = await throughput.run(part, work)
        figures[name] = measured.figures["messages"]
        await part.end()
    figures["trimming / not"] = figures["trimming"] / figures["not trimming"]
    return Measured(figures)


SCENARIO = Scenario(
    name="soak",
    says="mixed traffic for minutes: memory, file, WAL, threads and descriptors; trimming's cost",
    figures=(
        Figure("memory slope", "MiB/min", "less", "of all processes, without the first third"),
        Figure("file slope", "MiB/min", "less", "likewise"),
        Figure("wal slope", "MiB/min", "less", "likewise"),
        Figure("file", "MiB", "less", "at its largest"),
        Figure("wal", "MiB", "less", "at its largest"),
        Figure("threads", "", "less", "of all processes, at the end"),
        Figure("descriptors", "", "less", "of all processes, at the end"),
        Figure("trimming", "/s", "more", "messages, 20 senders, retention 1 s"),
        Figure("not trimming", "/s", "more", "messages, 20 senders, auto_trim off"),
        Figure("trimming / not", "x", "more"),
    ),
    cases=cases,
    measure=run,
    rivals=False,
    rounds=(1, 1, 5),
)
