"""The time that a message takes from one process to another."""

from __future__ import annotations

import asyncio
from typing import Any

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.roles import Worker

SILENCE = 2.0  # seconds before a cold message
WARM_UP = 0.4
ECHOES = "echoes"


def cases(plan: Plan) -> list[Case]:
    warm = {
        "rate": plan.rate or 100.0,
        "seconds": plan.seconds or plan.choose(quick=1.0, normal=3.0, figures=2.0),
        "size": plan.body,
    }
    shots = plan.choose(quick=1, normal=3, figures=2)
    cold = {"rate": 1 / SILENCE, "seconds": shots * SILENCE, "size": plan.body}

    def case(name: str, arguments: dict[str, Any], **fields: Any) -> Case:
        lasts = WARM_UP + arguments["seconds"]
        return Case(name, arguments, processes=2, lasts=lasts, **fields)

    found = [
        case("one way, warm", warm),
        case("one way, after 2 s of silence", cold),
        case(
            "one way, warm, normal channel", {**warm, "channel": "tasks"}, watched=False, rounds=3
        ),
        case("round trip, warm", {**warm, "echo": True}),
        case("round trip, after 2 s of silence", {**cold, "echo": True}),
    ]
    return found[: plan.choose(quick=3, normal=5, figures=3)]


def echo(worker: Worker, channel: str, message: dict[str, Any]) -> Any:
    """Send a message back to the channel on which its sender waits."""
    del channel
    return _echo(worker, message)


async def _echo(worker: Worker, message: dict[str, Any]) -> None:
    target = worker.kept["reply to"]
    await roles.send_one(
        worker,
        f"{ECHOES} {message['sender']}",
        message["number"],
        target,
        group=False,
        size=worker.kept["size"],
    )


async def reply_to(worker: Worker, channel: str, size: int) -> None:
    worker.kept.update({"reply to": channel, "size": size})


async def run(lab: Lab, case: Case) -> Measured:
    arguments = dict(case.arguments)
    echoes = arguments.pop("echo", False)
    sender, receiver = await lab.start("sender", "receiver")
    target = arguments.pop("channel", "")
    react = echo if echoes else None
    if target:
        await receiver.call(roles.listen, channel=target, react=react)
    else:
        (target,) = await receiver.call(roles.open_channels, many=1, react=react)
    if echoes:
        (back,) = await sender.call(roles.open_channels, many=1)
        await receiver.call(reply_to, channel=back, size=arguments["size"])

    warm_up = {**arguments, "rate": 50.0, "seconds": WARM_UP}
    accepted = 0
    for name, how in (("warm-up", warm_up), ("measured", arguments)):
        if name == "measured" and how["rate"] < 1:
            await asyncio.sleep(SILENCE)
        accepted += await sender.call(roles.send_paced, sender=name, target=target, **how)
        await lab.settle(accepted * (2 if echoes else 1))

    entries = await lab.entries()
    if echoes:
        delays = round_trips(entries)
    else:
        delays = measure.since_sent(entries, ledger.RECEIVED, "measured")
    return Measured(
        figures=measure.percentiles(delays),
        distributions={"delay ms": measure.distribution(delays)},
    )


def round_trips(entries: list[ledger.Entry]) -> list[float]:
    """Milliseconds from the beginning of a send to its echo's receipt."""
    there = {e.number: e.at for e in entries if e.kind == ledger.SENT and e.sender == "measured"}
    back = (e for e in entries if e.kind == ledger.RECEIVED and e.sender == f"{ECHOES} measured")
    return [(entry.at - there[entry.number]) / 1e6 for entry in back]


SCENARIO = Scenario(
    name="latency",
    says="one message at a time between two processes: one way and there and back, warm and cold",
    figures=(
        Figure("p50", "ms", "less"),
        Figure("p99", "ms", "less"),
        Figure("max", "ms", "less"),
    ),
    cases=cases,
    measure=run,
)
