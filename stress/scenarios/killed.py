"""A killed process that was a member of groups: how long the others still write to it."""

from __future__ import annotations

import asyncio
import time
from itertools import count

from stress import ledger, roles
from stress.lab import Lab
from stress.ledger import Entry
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

GROUP = "room"
RATE = 10.0  # messages a second to the group after the kill: a sender has to notice
LOOK = 0.01  # seconds between two counts


def cases(plan: Plan) -> list[Case]:
    members, patience = plan.members or 1_000, plan.seconds or plan.choose(quick=3.0, normal=5.0)
    return [
        Case(
            f"{members:,} memberships",
            {"members": members, "seconds": patience, "size": plan.body},
            processes=3,
            rounds=3,
            lasts=1.0 + patience / 2,
            watched=False,
            only=lambda layer: layer.name != "channels-lite",
            why="does not say who is in a group",
            durable=True,
        )
    ]


async def left(worker: Worker, members: int) -> int:
    """Memberships of the group, as a sender would meet them."""
    layer = worker.layer
    if hasattr(layer, "group_count"):
        return int(await layer.group_count(GROUP))
    if hasattr(layer, "consistent_hash"):  # channels_redis
        connection = layer.connection(layer.consistent_hash(GROUP))
        return int(await connection.zcard(layer._group_key(GROUP)))
    # Its pub/sub layer: the server knows processes, and each of them its own members.
    name = layer._get_group_channel_name(GROUP)
    shard = layer._get_layer()._get_shard(name)
    shard._ensure_redis()
    ((_, processes),) = await shard._redis.pubsub_numsub(name)
    return int(processes) * members


async def wait_until_none_is_left(worker: Worker, members: int, seconds: float) -> list[float]:
    """Return when (time.monotonic()), and how many are left if that takes too long."""
    end = time.monotonic() + seconds
    while True:
        many = await left(worker, members)
        if not many or time.monotonic() >= end:
            return [time.monotonic(), many]
        await asyncio.sleep(LOOK)


async def run(lab: Lab, case: Case) -> Measured:
    members, seconds = case.arguments["members"], case.arguments["seconds"]
    victim, sender, counter = await lab.start("victim", "sender", "counter")
    await victim.call(roles.open_channels, many=members, group=GROUP)
    how = {"target": GROUP, "group": True, "rate": RATE, "size": case.arguments["size"]}
    accepted = await sender.call(roles.send_paced, sender="warm-up", seconds=0.2, **how)
    await lab.settle(accepted * members)
    if (before := await counter.call(left, members=members)) != members:
        raise RuntimeError(f"the group has {before} members, not {members}")

    killed = time.monotonic()
    await victim.kill()
    lab.notes.append(Entry(ledger.KILLED, time.monotonic_ns(), victim.name))
    looking = asyncio.create_task(
        counter.call(wait_until_none_is_left, members=members, seconds=seconds)
    )
    for number in count():
        await sender.call(roles.send_paced, sender=f"measured {number}", seconds=0.2, **how)
        if looking.done():
            break
    gone, many = await looking
    return Measured({"left": many} if many else {"left": 0, "gone": (gone - killed) * 1000})


SCENARIO = Scenario(
    name="killed",
    says="kill -9 of a process with 1,000 memberships: until nobody writes to it any more",
    figures=(
        Figure("gone", "ms", "less", "until the group is empty; no figure if it never was"),
        Figure("left", "", "less", "memberships that were left then, or at the end of the wait"),
    ),
    cases=cases,
    measure=run,
    rivals=False,
)
