"""A nursery for the tests that start real children; they mark themselves with its loop's scope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from stress.children import Children
from stress.lab import lab
from stress.layers import LAYERS
from stress.ledger import Entry
from stress.plan import Plan, Scenario
from stress.verdict import Verdict, check


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Children]:
    async with Children(tmp_path_factory.mktemp("run")) as nursery:
        yield nursery


@dataclass(frozen=True)
class Outcome:
    """What one measurement has found, and its ledger."""

    figures: dict[str, float]
    distributions: dict[str, list[tuple[float, float]]]
    entries: list[Entry]
    verdict: Verdict


async def outcome(scenario: Scenario, plan: Plan, place: Path, children: Children) -> Outcome:
    """The outcome of a scenario's only case on our layer."""
    (case,) = scenario.cases(plan)
    async with lab(LAYERS["sqlite"], place, None, children, {}) as here:
        measured = await scenario.measure(here, case)
        entries = await here.entries()
    return Outcome(measured.figures, measured.distributions, entries, check(entries))
