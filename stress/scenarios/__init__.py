"""The scenarios, by name."""

from __future__ import annotations

from stress.plan import Scenario
from stress.scenarios import (
    backlog,
    busy,
    bystander,
    chaos,
    churn,
    contention,
    crowd,
    fanout,
    growth,
    idle,
    latency,
    soak,
    throughput,
    websockets,
)

MODULES = (
    *(latency, busy, throughput, fanout, idle, bystander, crowd, contention),
    *(backlog, growth, churn, websockets, chaos, soak),
)
SCENARIOS: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in MODULES}
