"""The same work on an empty file and on one with a day's rows in it. Ours alone, because no other
layer keeps delivered messages."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from stress.lab import Lab, template
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.program import START_UP
from stress.scenarios import churn, latency, throughput

WORKS = {
    latency: "one way, warm",
    throughput: "20 senders, one process",
    churn: "group_add and group_discard, one after the other",
}

FILL = """
begin;
insert into channels_sqlite_message
    (inbox, channel, "group", body, created_at, expires_at, delivered_at)
with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {rows})
select
    'specific.old' || (n % 1000) || '!',
    'specific.old' || (n % 1000) || '!' || n,
    null,
    randomblob(130),
    unixepoch() - 3600,
    unixepoch() - 3540,
    unixepoch() - 3600
from numbers;
insert into channels_sqlite_membership ("group", inbox, channel, expires_at, joined_after)
with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {members})
select
    'old' || (n % 100),
    'specific.old' || (n % 1000) || '!',
    'specific.old' || (n % 1000) || '!' || n,
    unixepoch() + 80000,
    0
from numbers;
commit;
"""


def cases(plan: Plan) -> list[Case]:
    """Some of the other scenarios' cases."""
    rows = plan.choose(quick=50_000, normal=200_000, figures=1_000_000)
    seconds = plan.seconds or plan.choose(quick=0.7, normal=None, figures=1.0)
    # Each without a profile, because a profile would choose other cases of a scenario.
    small = replace(plan, profile="normal", seconds=seconds, rate=None)
    return [
        replace(
            case,
            name=f"{module.SCENARIO.name}: {case.name}",
            arguments={**case.arguments, "work": module.SCENARIO.name, "rows": rows},
            lasts=2 * (case.lasts + START_UP),
            rounds=3,
            watched=False,  # a watcher does not see how much the file holds
            only=lambda layer: layer.ours,
            why="keeps no delivered messages",
        )
        for module, name in WORKS.items()
        for case in module.SCENARIO.cases(small)
        if case.name == name
    ]


def fill(database: Path, rows: int) -> None:
    """Insert delivered messages, and memberships that last, of processes that do not exist."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=off")
        connection.executescript(FILL.format(rows=rows, members=rows // 10))
        connection.execute("pragma wal_checkpoint(truncate)")


async def grown(lab: Lab, rows: int) -> Path:
    """The grown file, filled once a run, and kept beside the empty one."""
    empty = await template(lab)
    path = empty.with_name(f"grown-{rows}.template")
    if not path.exists():
        path.write_bytes(empty.read_bytes())
        await asyncio.to_thread(fill, path, rows)
    return path


async def run(lab: Lab, case: Case) -> Measured:
    arguments = dict(case.arguments)
    name, rows = arguments.pop("work"), arguments.pop("rows")
    work = next(module.SCENARIO for module in WORKS if module.SCENARIO.name == name)
    inner = replace(case, arguments=arguments)
    sources = {"empty": await template(lab), "grown": await grown(lab, rows)}
    found: dict[str, Measured] = {}
    for name in random.sample(sorted(sources), k=2):
        part = await lab.part(name, sources[name])
        found[name] = await work.measure(part, inner)
        await part.entries()
        await part.end()
        part.database.unlink()
    figures = {}
    for figure in work.figures:
        if not figure.better:
            continue
        empty, full = (found[name].figures.get(figure.name) for name in ("empty", "grown"))
        if empty is not None and full is not None:
            figures[f"{figure.name}, empty"] = empty
            figures[f"{figure.name}, grown"] = full
            if empty:
                figures[f"{figure.name}, grown / empty"] = full / empty
    return Measured(figures)


def figures() -> tuple[Figure, ...]:
    every: dict[str, Figure] = {}
    for module in WORKS:
        for figure in module.SCENARIO.figures:
            if figure.better:
                for when in ("empty", "grown"):
                    name = f"{figure.name}, {when}"
                    every[name] = Figure(name, figure.unit, figure.better, figure.says)
                name = f"{figure.name}, grown / empty"
                every[name] = Figure(name, "x", figure.better, "1 is no difference")
    return tuple(every.values())


SCENARIO = Scenario(
    name="growth",
    says="the other scenarios' work on an empty file and on one with 1,000,000 retained rows",
    figures=figures(),
    cases=cases,
    measure=run,
    rivals=False,
    rounds=(1, 3, 5),
)
