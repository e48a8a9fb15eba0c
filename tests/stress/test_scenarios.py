"""Scenarios of several processes, each run once: its figures, and what the ledger says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stress import ledger
from stress.lab import Lab
from stress.ledger import Entry
from stress.plan import Measured, Plan, Scenario
from stress.scenarios import busy, crowd, foreign, killed
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="session")

LAB = {"durable": True}
CROWD = 3


async def run(scenario: Scenario, here: Lab, **changed: Any) -> tuple[Measured, list[Entry]]:
    """The figures of the only case of this plan, and its ledger, which balances."""
    (case,) = scenario.cases(Plan(**changed))
    measured = await scenario.measure(here, case)
    entries = await here.entries()
    verdict = check(entries)
    assert (verdict.examples, verdict.broken) == ([], False)
    return measured, entries


def names(scenario: Scenario) -> set[str]:
    return {figure.name for figure in scenario.figures}


def sent(entries: list[Entry], sender: str) -> list[int]:
    return [each.at for each in entries if each.kind == ledger.SENT and each.sender == sender]


async def test_a_pair_is_measured_beside_another_one_and_alone(here: Lab) -> None:
    """In the second phase, or in the first, the others talk all the while. A bystander waits."""
    measured, entries = await run(busy.SCENARIO, here, seconds=0.5, rate=200.0)
    figures = measured.figures
    assert figures.keys() == names(busy.SCENARIO)
    assert min(figures.values()) > 0
    for name in ("p50", "p99"):
        ratio = figures[name] / figures[f"{name}, alone"]
        assert figures[f"{name}, busy / alone"] == pytest.approx(ratio)
    assert measured.distributions.keys() == {f"delay ms, {busy.ALONE}", f"delay ms, {busy.BUSY}"}
    others, alone, together = (sent(entries, who) for who in ("others", busy.ALONE, busy.BUSY))
    assert min(others) < min(together)
    assert max(others) > max(together)
    assert not any(min(alone) <= at <= max(alone) for at in others)
    receivers = {each.who for each in entries if each.kind == ledger.RECEIVED}
    assert receivers == {"receiver", "other-receiver"}


async def test_a_crowd_gets_its_calls_and_nothing_else_and_each_pays_its_share(here: Lab) -> None:
    measured, entries = await run(crowd.SCENARIO, here, processes=CROWD, seconds=0.7, rate=200.0)
    assert measured.figures.keys() == names(crowd.SCENARIO)
    assert measured.distributions.keys() == {"delay ms"}
    for name in ("cpu", "switches"):
        assert measured.figures[name] > 0
        each = measured.figures[f"{name} each"]
        assert each * CROWD == pytest.approx(measured.figures[name])
    received = [each for each in entries if each.kind == ledger.RECEIVED]
    called = {each.who for each in received if each.sender != "others"}
    assert called <= {f"waiting{number}" for number in range(CROWD)}
    assert {each.who for each in received if each.sender == "others"} == {"receiver"}


async def test_the_memberships_of_a_killed_process_go_while_others_send(here: Lab) -> None:
    measured, entries = await run(killed.SCENARIO, here, members=5, seconds=60.0)
    assert measured.figures["left"] == 0
    assert measured.figures["gone"] > 0
    (kill,) = (each for each in entries if each.kind == ledger.KILLED)
    assert any(each.kind == ledger.SENT and each.at > kill.at for each in entries)


async def test_memberships_that_stay_are_counted(here: Lab) -> None:
    """Patience is at an end before anybody may have noticed."""
    (case,) = killed.cases(Plan(members=5))
    measured = await killed.run(here, replace(case, arguments={**case.arguments, "seconds": 0.0}))
    assert measured.figures == {"left": 5}


async def test_an_insert_of_another_program_arrives_idle_and_beside_others(here: Lab) -> None:
    measured, entries = await run(foreign.SCENARIO, here, seconds=0.5, rate=100.0)
    assert measured.figures.keys() == names(foreign.SCENARIO)
    others = sent(entries, "others")
    for phase, beside in ((foreign.IDLE, False), (foreign.LULLED, True)):
        times = sent(entries, phase)
        assert times
        assert any(min(others) <= at <= max(others) for at in times) == beside
