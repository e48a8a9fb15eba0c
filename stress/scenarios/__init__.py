"""The scenarios, by name."""

from __future__ import annotations

from stress.plan import Scenario
from stress.scenarios import bystander, contention, fanout, idle, latency, throughput

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (latency, throughput, fanout, idle, bystander, contention)
}
