"""What a process pays while others talk to each other and nobody to it."""

from __future__ import annotations

import asyncio

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario

GROUP = "bystanders"


def cases(plan: Plan) -> list[Case]:
    arguments = {
        "members": plan.members or 100,
        "rate": plan.rate or 500.0,
        "seconds": plan.seconds or plan.choose(quick=1.0, normal=5.0, full=4.0),
        "size": plan.body,
    }
    name = f"others exchange {arguments['rate']:g} messages a second"
    return [Case(name, arguments, processes=3, lasts=1.5 + arguments["seconds"])]


async def run(lab: Lab, case: Case) -> Measured:
    bystander, sender, receiver = await lab.start("bystander", "sender", "receiver")
    await bystander.call(roles.open_channels, many=case.arguments["members"], group=GROUP)
    (target,) = await receiver.call(roles.open_channels, many=1)
    how = {"target": target, "rate": case.arguments["rate"], "size": case.arguments["size"]}
    accepted = await sender.call(roles.send_paced, sender="warm-up", seconds=1.0, **how)

    seconds = case.arguments["seconds"]
    talk = asyncio.create_task(
        sender.call(roles.send_paced, sender="measured", seconds=seconds + 0.5, **how)
    )
    await asyncio.sleep(0.25)
    before = measure.usage(bystander.pid)
    await asyncio.sleep(seconds)
    used = measure.spent(before, measure.usage(bystander.pid))
    accepted += await talk
    await lab.settle(accepted)
    entries = await lab.entries()
    return Measured(
        {
            "cpu": used.cpu_percent,
            "switches": used.switches,
            "messages": measure.rate(entries, ledger.RECEIVED, "measured"),
        }
    )


SCENARIO = Scenario(
    name="bystander",
    says="what 100 consumers of one process cost while two other processes talk",
    figures=(
        Figure("cpu", "%", "less", "of one core, the bystander's"),
        Figure("switches", "/s", "less", "the bystander's voluntary context switches"),
        Figure("messages", "/s", "", "that the others exchanged"),
    ),
    cases=cases,
    measure=run,
)
