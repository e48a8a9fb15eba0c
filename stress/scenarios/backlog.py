"""Consumers slower than their senders: refusals, drops, and memory that stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

GROUP = "readers"
HANDLING = 0.02  # seconds a consumer takes for a message
FACTOR = 5  # so many times more is sent than can be handled


def cases(plan: Plan) -> list[Case]:
    arguments = {
        "members": plan.members or 10,
        "seconds": plan.seconds or plan.choose(quick=1.0, normal=2.0),
        "size": plan.body,
    }
    return [
        Case(
            f"slow consumers, {FACTOR} x too much, {how}",
            {**arguments, "group": group},
            2,
            lasts=FACTOR * arguments["seconds"],  # until the last is handled, if none is dropped
            may_drop=True,
        )
        for how, group in (("each sent to", False), ("as a group", True))
    ]


def handle_slowly(worker: Worker, channel: str, message: dict[str, Any]) -> Awaitable[None]:
    del worker, channel, message
    return asyncio.sleep(HANDLING)


async def run(lab: Lab, case: Case) -> Measured:
    members, seconds = case.arguments["members"], case.arguments["seconds"]
    sender, receiver = await lab.start("sender", "receiver")
    channels = await receiver.call(
        roles.open_channels, many=members, group=GROUP, react=handle_slowly
    )
    before = measure.usage(receiver.pid)
    how = {"rate": FACTOR / HANDLING, "seconds": seconds, "size": case.arguments["size"]}
    if case.arguments["group"]:
        accepted = await sender.call(
            roles.send_paced, sender="measured", target=GROUP, group=True, **how
        )
    else:
        accepted = sum(
            await asyncio.gather(
                *(
                    sender.call(roles.send_paced, sender="measured", target=channel, **how)
                    for channel in channels
                )
            )
        )
    after = measure.usage(receiver.pid)
    await lab.settle()
    entries = await lab.entries()
    received = sum(entry.kind == ledger.RECEIVED for entry in entries)
    offered = sum(entry.kind == ledger.SENT for entry in entries)
    return Measured(
        {
            "received": received / (offered * (members if case.arguments["group"] else 1)) * 100,
            "refused": (offered - accepted) / offered * 100,
            "memory": (after.memory - before.memory) / 2**20,
        }
    )


SCENARIO = Scenario(
    name="backlog",
    says="consumers slower than their senders: ChannelFull, drops that are counted, memory",
    figures=(
        Figure("received", "%", "", "of the deliveries asked for"),
        Figure("refused", "%", "", "of the sends, with ChannelFull"),
        Figure("memory", "MiB", "", "more in the consumers' process after sending"),
    ),
    cases=cases,
    measure=run,
    rivals=False,
    profiles=("quick",),
)
