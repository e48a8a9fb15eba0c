"""The scenarios, by name."""

from __future__ import annotations

from stress.plan import Scenario
from stress.scenarios import (
    backlog,
    bystander,
    chaos,
    churn,
    contention,
    fanout,
    growth,
    idle,
    latency,
    soak,
    throughput,
)

MODULES = (
    *(latency, throughput, fanout, idle, bystander, contention),
    *(backlog, growth, churn, chaos, soak),
)
SCENARIOS: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in MODULES}
