"""The scenarios, by name."""

from __future__ import annotations

from stress.plan import Scenario
from stress.scenarios import (
    backlog,
    busy,
    chaos,
    churn,
    contention,
    crowd,
    fanout,
    foreign,
    growth,
    idle,
    killed,
    latency,
    soak,
    throughput,
    websockets,
)

MODULES = (
    *(latency, busy, throughput, fanout, idle, crowd, contention),
    *(killed, foreign, backlog, growth, churn, websockets, chaos, soak),
)
SCENARIOS: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in MODULES}
