"""The scenario `crowd`: many wait, two talk, and now and then one of the many gets a message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from stress import ledger
from stress.children import Children
from stress.lab import Lab, lab
from stress.layers import LAYERS
from stress.plan import Measured, Plan
from stress.scenarios import crowd
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 3


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path, children: Children) -> AsyncIterator[Lab]:
    async with lab(LAYERS["sqlite"], tmp_path / "lab", None, children, {}) as place:
        yield place


async def short(here: Lab) -> Measured:
    (case,) = crowd.cases(Plan(processes=CROWD, seconds=0.7, rate=200.0))
    return await crowd.run(here, case)


async def test_every_figure_is_measured_and_the_ledger_balances(here: Lab) -> None:
    measured = await short(here)
    assert set(measured.figures) == {figure.name for figure in crowd.SCENARIO.figures}
    verdict = check(await here.entries())
    assert (verdict.examples, verdict.broken) == ([], False)


async def test_what_a_process_of_the_crowd_pays_is_its_share(here: Lab) -> None:
    figures = (await short(here)).figures
    for name in ("cpu", "switches"):
        assert figures[name] > 0
        assert figures[f"{name} each"] * CROWD == pytest.approx(figures[name])


async def test_the_crowd_gets_the_calls_and_nothing_else(here: Lab) -> None:
    await short(here)
    received = [e for e in await here.entries() if e.kind == ledger.RECEIVED]
    called = {e.who for e in received if e.sender != "others"}
    assert called <= {f"waiting{n}" for n in range(CROWD)}
    assert {e.who for e in received if e.sender == "others"} == {"receiver"}


async def test_the_crowd_is_as_large_as_asked_for() -> None:
    (usual,), (large,) = crowd.cases(Plan()), crowd.cases(Plan(processes=32))
    assert (usual.arguments["crowd"], usual.processes) == (8, 11)
    assert (large.arguments["crowd"], large.processes) == (32, 35)
