"""The scenario `crowd`: many wait, two talk, and now and then one of the many gets a message."""

from __future__ import annotations

import pytest
import pytest_asyncio

from stress import ledger
from stress.children import Children
from stress.plan import Plan
from stress.scenarios import crowd
from tests.stress.conftest import Outcome, outcome

pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short(children: Children, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    plan = Plan(processes=CROWD, seconds=0.7, rate=200.0)
    place = tmp_path_factory.mktemp("crowd") / "lab"
    return await outcome(crowd.SCENARIO, plan, place, children)


async def test_every_figure_is_measured_and_the_ledger_balances(short: Outcome) -> None:
    assert set(short.figures) == {figure.name for figure in crowd.SCENARIO.figures}
    assert set(short.distributions) == {"delay ms"}
    assert (short.verdict.examples, short.verdict.broken) == ([], False)


async def test_what_a_process_of_the_crowd_pays_is_its_share(short: Outcome) -> None:
    for name in ("cpu", "switches"):
        assert short.figures[name] > 0
        assert short.figures[f"{name} each"] * CROWD == pytest.approx(short.figures[name])


async def test_the_crowd_gets_the_calls_and_nothing_else(short: Outcome) -> None:
    received = [e for e in short.entries if e.kind == ledger.RECEIVED]
    called = {e.who for e in received if e.sender != "others"}
    assert called <= {f"waiting{n}" for n in range(CROWD)}
    assert {e.who for e in received if e.sender == "others"} == {"receiver"}
