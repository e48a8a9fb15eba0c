"""The scenario `busy`: one pair of processes is measured while another one talks."""

from __future__ import annotations

import pytest
import pytest_asyncio

from stress import ledger
from stress.children import Children
from stress.plan import Plan
from stress.scenarios import busy
from stress.scenarios.busy import ALONE, BUSY
from tests.stress.conftest import Outcome, outcome

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short(children: Children, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    place = tmp_path_factory.mktemp("busy") / "lab"
    return await outcome(busy.SCENARIO, Plan(seconds=0.5, rate=200.0), place, children)


async def test_every_figure_is_measured_and_the_ledger_balances(short: Outcome) -> None:
    assert set(short.figures) == {figure.name for figure in busy.SCENARIO.figures}
    assert all(value > 0 for value in short.figures.values())
    assert set(short.distributions) == {f"delay ms, {ALONE}", f"delay ms, {BUSY}"}
    assert (short.verdict.examples, short.verdict.broken) == ([], False)


async def test_the_ratio_is_of_the_delays_with_and_without_the_others(short: Outcome) -> None:
    for name in ("p50", "p99"):
        ratio = short.figures[name] / short.figures[f"{name}, alone"]
        assert short.figures[f"{name}, busy / alone"] == pytest.approx(ratio)


async def test_the_others_talk_all_the_while_in_one_phase_and_never_in_the_other(
    short: Outcome,
) -> None:
    def times(sender: str) -> list[int]:
        return [e.at for e in short.entries if e.kind == ledger.SENT and e.sender == sender]

    others, alone, together = times("others"), times(ALONE), times(BUSY)
    assert min(others) < min(together)
    assert max(others) > max(together)
    assert not any(min(alone) <= at <= max(alone) for at in others)


async def test_the_bystander_gets_nothing(short: Outcome) -> None:
    receivers = {e.who for e in short.entries if e.kind == ledger.RECEIVED}
    assert receivers == {"receiver", "other-receiver"}
