"""The time of a message between two processes while two others exchange messages."""

from __future__ import annotations

import random

from stress import ledger, measure, roles
from stress.children import Child
from stress.lab import Lab, talk_beside
from stress.plan import Case, Figure, Measured, Plan, Scenario

# Messages a second of the measured pair: as many as a person in a chat sends. With more, the state
# of its processes would come from its own messages, and not from those of the others.
RATE = 10.0
MANY = 500.0  # messages a second of the others, at which a watcher matters
WARM_UP = 0.5  # seconds at the beginning of each phase
BYSTANDERS = 100  # consumers of a process that nobody writes to
SPARE = 0.5  # seconds that the others go on longer than they are needed
# Measured one after the other, in random order: a ratio pairs them within a measurement.
ALONE, BUSY = "alone", "busy"


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=1.0, normal=6.0, figures=2.5)
    return [
        Case(
            f"others exchange {rate:g} messages a second",
            {"rate": rate, "seconds": seconds, "size": plan.body},
            processes=5,
            lasts=2 * (WARM_UP + seconds) + SPARE,
            watched=rate >= MANY,
        )
        for rate in plan.many(plan.rate, quick=[MANY], normal=[100.0, MANY])
    ]


async def run(lab: Lab, case: Case) -> Measured:
    names = ("sender", "receiver", "other-sender", "other-receiver", "bystander")
    sender, receiver, other_sender, other_receiver, bystander = await lab.start(*names)
    (target,) = await receiver.call(roles.open_channels, many=1)
    (other_target,) = await other_receiver.call(roles.open_channels, many=1)
    await bystander.call(roles.open_channels, many=BYSTANDERS, group="bystanders")

    seconds, size = case.arguments["seconds"], case.arguments["size"]
    expected = 0
    figures: dict[str, float] = {}
    for phase in random.sample((ALONE, BUSY), k=2):
        others = None
        if phase == BUSY:
            others = talk_beside(case, other_sender, other_target, WARM_UP + seconds + SPARE)
        expected += await talk(sender, f"warm-up {phase}", target, WARM_UP, size)
        before = measure.usage(bystander.pid)
        expected += await talk(sender, phase, target, seconds, size)
        if others is not None:
            used = measure.spent(before, measure.usage(bystander.pid))
            figures["bystander cpu"] = used.cpu_percent
            figures["bystander switches"] = used.switches
            expected += await others
        await lab.settle(expected)

    entries = await lab.entries()
    delays = {phase: measure.since_sent(entries, ledger.RECEIVED, phase) for phase in (ALONE, BUSY)}
    figures["messages"] = measure.rate(entries, ledger.RECEIVED, "others")
    alone, busy = (measure.percentiles(delays[phase]) for phase in (ALONE, BUSY))
    for name in ("p50", "p99"):
        figures[name] = busy[name]
        figures[f"{name}, alone"] = alone[name]
        figures[f"{name}, busy / alone"] = busy[name] / alone[name]
    return Measured(
        figures,
        distributions={
            f"delay ms, {phase}": measure.distribution(found) for phase, found in delays.items()
        },
    )


async def talk(sender: Child, name: str, target: str, seconds: float, size: int) -> int:
    """Let the measured pair talk. Return how many messages were not refused."""
    return await sender.call(
        roles.send_now_and_then,
        sender=name,
        targets=[target],
        rate=RATE,
        seconds=seconds,
        size=size,
    )


SCENARIO = Scenario(
    name="busy",
    says="one way between two processes while two others exchange 100 and 500 messages a second",
    figures=(
        Figure("p50", "ms", "less", "one way, while the others exchange messages"),
        Figure("p99", "ms", "less"),
        Figure("p50, alone", "ms", "less", "while the others are silent, in the same processes"),
        Figure("p99, alone", "ms", "less"),
        Figure("p50, busy / alone", "x", "less", "1 is no difference"),
        Figure("p99, busy / alone", "x", "less"),
        Figure(
            *("bystander cpu", "%", "less"),
            f"of one core, of a fifth process, whose {BYSTANDERS} consumers wait meanwhile",
        ),
        Figure("bystander switches", "/s", "less", "its voluntary context switches"),
        Figure("messages", "/s", "", "that the others exchanged"),
    ),
    cases=cases,
    measure=run,
)
