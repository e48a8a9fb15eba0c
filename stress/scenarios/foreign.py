"""A message from a writer that does not know of the layer: an INSERT, as by the sqlite3 shell."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from contextlib import closing
from itertools import count

from stress import ledger, measure, roles
from stress.lab import Lab, talk_beside
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

RATE = 5.0  # messages a second: rare enough for a reader to be idle in between
OTHERS = 500.0  # messages a second of the others: a reader is then in a lull
INSERT = "insert into channels_sqlite_send (channel, message) values (?, ?)"
IDLE, LULLED = "idle", "beside others"


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=0.6, normal=4.0, figures=2.0)
    return [
        Case(
            "inserts",
            {"seconds": seconds, "rate": plan.rate or OTHERS, "size": plan.body},
            processes=4,
            rounds=3,
            lasts=1.0 + 2 * seconds,
            only=lambda layer: layer.ours,
            why="has no table to write to",
        )
    ]


async def insert_now_and_then(
    worker: Worker, sender: str, target: str, database: str, seconds: float, size: int
) -> int:
    """Insert at random moments, each time by a new connection. Return how many."""
    end = time.monotonic() + seconds
    for number in count():
        await asyncio.sleep(random.uniform(0.5, 1.5) / RATE)
        if number and time.monotonic() >= end:
            return number
        body = json.dumps(roles.message(sender, number, target, size))
        with (
            worker.recorder.sending(sender, number, target),
            closing(sqlite3.connect(database)) as connection,
            connection,
        ):
            connection.execute(INSERT, (target, body))
    raise AssertionError("count() does not end")


async def run(lab: Lab, case: Case) -> Measured:
    names = ("writer", "receiver", "other-sender", "other-receiver")
    writer, receiver, other_sender, other_receiver = await lab.start(*names)
    (target,) = await receiver.call(roles.open_channels, many=1)
    (other_target,) = await other_receiver.call(roles.open_channels, many=1)
    seconds, size = case.arguments["seconds"], case.arguments["size"]
    how = {"target": target, "database": str(lab.database), "size": size}
    expected = await writer.call(insert_now_and_then, sender="warm-up", seconds=0.3, **how)
    for phase in (IDLE, LULLED):
        others = None
        if phase == LULLED:
            others = talk_beside(case, other_sender, other_target, seconds + 1.0)
            await asyncio.sleep(0.5)
        expected += await writer.call(insert_now_and_then, sender=phase, seconds=seconds, **how)
        if others is not None:
            expected += await others
        await lab.settle(expected)

    entries = await lab.entries()
    delays = {p: measure.since_sent(entries, ledger.RECEIVED, p) for p in (IDLE, LULLED)}
    return Measured(
        {
            f"{name}, {phase}": value
            for phase, found in delays.items()
            for name, value in measure.percentiles(found).items()
            if name != "p99"
        },
        distributions={
            f"delay ms, {phase}": measure.distribution(d) for phase, d in delays.items()
        },
    )


SCENARIO = Scenario(
    name="foreign",
    says="an INSERT by a program that knows nothing of the layer, until a reader has the message",
    figures=tuple(
        Figure(f"{name}, {phase}", "ms", "less", says if name == "p50" else "")
        for phase, says in (
            (IDLE, "nobody else writes"),
            (LULLED, f"two others exchange {OTHERS:g} messages a second"),
        )
        for name in ("p50", "max")
    ),
    cases=cases,
    measure=run,
)
