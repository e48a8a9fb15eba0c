"""The scenario `busy`: one pair of processes is measured while another one talks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from stress import ledger
from stress.children import Children
from stress.lab import Lab, lab
from stress.layers import LAYERS
from stress.plan import Case, Measured, Plan
from stress.scenarios import busy
from stress.scenarios.busy import ALONE, BUSY
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path, children: Children) -> AsyncIterator[Lab]:
    async with lab(LAYERS["sqlite"], tmp_path / "lab", None, children, {}) as place:
        yield place


async def short(here: Lab) -> Measured:
    (case,) = busy.cases(Plan(seconds=0.5, rate=200.0))
    return await busy.run(here, case)


async def test_every_figure_is_measured_and_the_ledger_balances(here: Lab) -> None:
    measured = await short(here)
    assert set(measured.figures) == {figure.name for figure in busy.SCENARIO.figures}
    assert all(value > 0 for value in measured.figures.values())
    verdict = check(await here.entries())
    assert (verdict.examples, verdict.broken) == ([], False)


async def test_the_ratio_is_of_the_delays_with_and_without_the_others(here: Lab) -> None:
    figures = (await short(here)).figures
    for name in ("p50", "p99"):
        ratio = figures[name] / figures[f"{name}, alone"]
        assert figures[f"{name}, busy / alone"] == pytest.approx(ratio)


async def test_the_others_talk_all_the_while_in_one_phase_and_never_in_the_other(
    here: Lab,
) -> None:
    await short(here)
    entries = await here.entries()

    def times(sender: str) -> list[int]:
        return [e.at for e in entries if e.kind == ledger.SENT and e.sender == sender]

    others, alone, together = times("others"), times(ALONE), times(BUSY)
    assert min(others) < min(together)
    assert max(others) > max(together)
    assert not any(min(alone) <= at <= max(alone) for at in others)


async def test_the_bystander_gets_nothing(here: Lab) -> None:
    await short(here)
    receivers = {e.who for e in await here.entries() if e.kind == ledger.RECEIVED}
    assert receivers == {"receiver", "other-receiver"}


@pytest.mark.parametrize(
    ("plan", "rates"),
    [
        (Plan(), [100.0, 500.0]),
        (Plan("figures"), [100.0, 500.0]),
        (Plan("quick"), [500.0]),
        (Plan("figures", rate=50.0), [50.0]),
    ],
)
async def test_the_rate_of_the_others_is_the_options_or_the_profiles(
    plan: Plan, rates: list[float]
) -> None:
    cases: list[Case] = busy.cases(plan)
    assert [case.arguments["rate"] for case in cases] == rates
    assert {case.processes for case in cases} == {5}
