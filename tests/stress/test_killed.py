"""The scenarios `killed` and `foreign`: what others pay for a dead process; who rings nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from stress import ledger
from stress.children import Children
from stress.lab import Lab, lab
from stress.layers import LAYERS
from stress.plan import Plan
from stress.scenarios import foreign, killed
from stress.verdict import check

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def here(tmp_path: Path, children: Children) -> AsyncIterator[Lab]:
    async with lab(LAYERS["sqlite"], tmp_path / "lab", None, children, {}, durable=True) as place:
        yield place


async def test_the_memberships_of_a_killed_process_go_while_others_send(here: Lab) -> None:
    (case,) = killed.cases(Plan(members=5, seconds=60.0))
    measured = await killed.run(here, case)
    assert measured.figures["left"] == 0
    assert measured.figures["gone"] > 0
    entries = await here.entries()
    (kill,) = (e for e in entries if e.kind == ledger.KILLED)
    assert any(e.kind == ledger.SENT and e.at > kill.at for e in entries)
    verdict = check(entries)
    assert (verdict.examples, verdict.broken) == ([], False)


async def test_memberships_that_stay_are_counted(here: Lab) -> None:
    """Patience is at an end before anybody may have noticed."""
    (case,) = killed.cases(Plan(members=5))
    case = replace(case, arguments={**case.arguments, "seconds": 0.0})
    measured = await killed.run(here, case)
    assert measured.figures == {"left": 5}


async def test_an_insert_of_another_program_arrives_idle_and_beside_others(here: Lab) -> None:
    (case,) = foreign.cases(Plan(seconds=0.5, rate=100.0))
    measured = await foreign.run(here, case)
    assert set(measured.figures) == {figure.name for figure in foreign.SCENARIO.figures}
    entries = await here.entries()
    others = {e.at for e in entries if e.kind == ledger.SENT and e.sender == "others"}
    for phase, beside in ((foreign.IDLE, False), (foreign.LULLED, True)):
        sent = [e.at for e in entries if e.kind == ledger.SENT and e.sender == phase]
        assert sent
        assert any(min(others) <= at <= max(others) for at in sent) == beside
    verdict = check(entries)
    assert (verdict.examples, verdict.broken) == ([], False)
