"""Many processes that write at once: at a given rate, and flat out."""

from __future__ import annotations

import asyncio

from stress import ledger, measure, roles
from stress.lab import Lab
from stress.plan import Case, Figure, Measured, Plan, Scenario

# A reader that falls behind must not lead to refusals, because only the writing is measured.
ROOM = {"capacity": 1_000_000}
WARM_UP = 0.3  # seconds


def cases(plan: Plan) -> list[Case]:
    seconds = plan.seconds or plan.choose(quick=0.8, normal=3.0, figures=1.5)
    rate = plan.rate or 100.0
    common = {"seconds": seconds, "size": plan.body}
    paced = plan.processes or 4
    found = [
        Case(
            f"{paced} writers, {rate:g} messages a second each",
            {**common, "rate": rate},
            processes=paced + 1,
            config=ROOM,
            lasts=WARM_UP + seconds,
            watched=False,
        )
    ]
    for writers in plan.many(plan.processes, quick=[8], normal=[1, 2, 4, 8], figures=[1, 8]):
        name = f"{writers} writer{'s' * (writers > 1)}, flat out"
        found.append(
            Case(
                name,
                common,
                processes=writers + 1,
                config=ROOM,
                lasts=WARM_UP + seconds,
                rounds=None if writers > 1 else 3,
                watched=False,
            )
        )
    return found


async def run(lab: Lab, case: Case) -> Measured:
    names = [f"writer{n}" for n in range(case.processes - 1)]
    receiver, *writers = await lab.start("receiver", *names)
    targets = await receiver.call(roles.open_channels, many=len(writers))
    seconds, size = case.arguments["seconds"], case.arguments["size"]
    pairs = list(zip(writers, targets, strict=True))
    accepted = sum(
        await asyncio.gather(
            *(
                writer.call(
                    roles.send_paced,
                    sender=f"warm-up {writer.name}",
                    target=target,
                    rate=50.0,
                    seconds=WARM_UP,
                    size=size,
                )
                for writer, target in pairs
            )
        )
    )
    if rate := case.arguments.get("rate"):
        work = [
            writer.call(
                roles.send_paced,
                sender=f"measured {writer.name}",
                target=target,
                rate=rate,
                seconds=seconds,
                size=size,
            )
            for writer, target in pairs
        ]
    else:
        work = [
            writer.call(
                roles.send_flat_out,
                sender=f"measured {writer.name}",
                target=target,
                seconds=seconds,
                size=size,
            )
            for writer, target in pairs
        ]
    accepted += sum(await asyncio.gather(*work))
    await lab.settle(accepted)
    entries = await lab.entries()
    times = measure.since_sent(entries, ledger.ACCEPTED, "measured")
    found = measure.percentiles(times)
    return Measured(
        figures={
            "sends": measure.rate(entries, ledger.ACCEPTED, "measured"),
            **{f"send {name}": value for name, value in found.items()},
            "errors": sum(lab.errors.values()),
        },
        distributions={"send ms": measure.distribution(times)},
    )


SCENARIO = Scenario(
    name="contention",
    says="1 to 8 processes that write at once, at a given rate and flat out",
    figures=(
        Figure("sends", "/s", "more", "accepted a second, of all writers"),
        Figure("send p50", "ms", "less", "until send() returns"),
        Figure("send p99", "ms", "less"),
        Figure("send max", "ms", "less"),
        Figure("errors", "", "less", "sends that raised anything but ChannelFull"),
    ),
    cases=cases,
    measure=run,
)
