"""Many processes that wait while two others exchange messages, and seldom get one themselves."""

from __future__ import annotations

import asyncio

from stress import ledger, measure, roles
from stress.lab import Lab, talk_beside
from stress.plan import Case, Figure, Measured, Plan, Scenario

CALLS = 10.0  # messages a second to one of the crowd, of the whole crowd
WARM_UP = 0.5  # seconds
SPARE = 0.5  # seconds that the others go on longer than they are needed


def cases(plan: Plan) -> list[Case]:
    arguments = {
        "rate": plan.rate or 500.0,
        "seconds": plan.seconds or plan.choose(quick=1.0, normal=6.0, figures=2.5),
        "size": plan.body,
    }
    return [
        Case(
            f"{crowd} wait, others exchange {arguments['rate']:g} messages a second",
            {"crowd": crowd, **arguments},
            processes=crowd + 3,
            lasts=WARM_UP + arguments["seconds"] + SPARE + crowd / 20,
            watched=False,
        )
        for crowd in plan.many(plan.processes, quick=[8], normal=[8], figures=[8, 32])
    ]


async def run(lab: Lab, case: Case) -> Measured:
    names = [f"waiting{n}" for n in range(case.arguments["crowd"])]
    sender, receiver, caller, *crowd = await lab.start("sender", "receiver", "caller", *names)
    (target,) = await receiver.call(roles.open_channels, many=1)
    opened = await asyncio.gather(*(each.call(roles.open_channels, many=1) for each in crowd))

    seconds = case.arguments["seconds"]
    others = talk_beside(case, sender, target, WARM_UP + seconds + SPARE)
    calls = {
        "targets": [channel for (channel,) in opened],
        "rate": CALLS,
        "size": case.arguments["size"],
    }
    called = roles.send_now_and_then
    accepted = await caller.call(called, sender="warm-up", seconds=WARM_UP, **calls)
    before = [measure.usage(each.pid) for each in crowd]
    accepted += await caller.call(called, sender="measured", seconds=seconds, **calls)
    used = [
        measure.spent(was, measure.usage(each.pid)) for was, each in zip(before, crowd, strict=True)
    ]
    accepted += await others
    await lab.settle(accepted)

    entries = await lab.entries()
    delays = measure.since_sent(entries, ledger.RECEIVED, "measured")
    found = measure.percentiles(delays)
    cpu = sum(each.cpu_percent for each in used)
    switches = sum(each.switches + each.preempted for each in used)
    return Measured(
        {
            "delay p50": found["p50"],
            "delay p99": found["p99"],
            "cpu": cpu,
            "cpu each": cpu / len(crowd),
            "switches": switches,
            "switches each": switches / len(crowd),
            "messages": measure.rate(entries, ledger.RECEIVED, "others"),
        },
        distributions={"delay ms": measure.distribution(delays)},
    )


SCENARIO = Scenario(
    name="crowd",
    says="8 processes that wait, and get 10 messages a second in all, while two others talk",
    figures=(
        Figure("delay p50", "ms", "less", "until one of the crowd has its message"),
        Figure("delay p99", "ms", "less"),
        Figure("cpu", "%", "less", "of one core, the whole crowd's"),
        Figure("cpu each", "%", "less", "of one core, for each process of it"),
        Figure("switches", "/s", "less", "the crowd's context switches, voluntary or not"),
        Figure("switches each", "/s", "less", "for each process of it"),
        Figure("messages", "/s", "", "that the others exchanged"),
    ),
    cases=cases,
    measure=run,
)
