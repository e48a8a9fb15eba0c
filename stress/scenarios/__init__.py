"""The scenarios, by name."""

from __future__ import annotations

from stress.plan import Scenario
from stress.scenarios import latency, throughput

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (latency.SCENARIO, throughput.SCENARIO)
}
