"""A whole run: every case of every scenario, the layers taking turns round by round."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Protocol

from stress import machine
from stress.children import Children
from stress.lab import lab
from stress.layers import Layer
from stress.plan import Case, Figure, Plan, Scenario
from stress.program import Program, program
from stress.redis_server import RedisServer, redis_server
from stress.results import Measurement, Run, Skipped
from stress.verdict import check

# A measurement that hangs is ended, and reported, so many seconds after its own time.
HANG = 120.0


@dataclass(frozen=True)
class Place:
    """The things that the measurements of a run share."""

    directory: Path
    server: RedisServer | None
    nursery: Children


class Watcher(Protocol):
    """An observer of the run's progress."""

    def begins_run(self, whole: Program, skipped: Sequence[Skipped]) -> None: ...
    def begins(self, scenario: Scenario, case: Case, layer: Layer, number: int) -> None: ...
    def measured(self, scenario: Scenario, measurement: Measurement) -> None: ...


class Runner:
    def __init__(
        self,
        plan: Plan,
        scenarios: Sequence[Scenario],
        layers: Sequence[Layer],
        command: str,
        watcher: Watcher,
        keep: Callable[[Run], None] | None = None,
    ) -> None:
        """Make a runner. It calls `keep` after each measurement, with all results so far."""
        self.plan = plan
        self.scenarios = scenarios
        self.layers = layers
        self.watcher = watcher
        self.keep = keep
        self._numbers = count(1)
        self.run = Run(
            command=command,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine.machine(Path(tempfile.gettempdir())),
            versions=machine.versions(),
            commit=machine.commit(),
            layers=[layer.name for layer in layers],
            figures={s.name: {f.name: meaning(f) for f in s.figures} for s in scenarios},
        )

    async def go(self) -> None:
        """Measure everything into `run`. If it is cancelled, the results so far stay there."""
        began = time.monotonic()
        self.run.interrupted = True  # until it has come to its end
        try:
            async with AsyncExitStack() as stack:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stress-")))
                nursery = await stack.enter_async_context(Children(directory))
                layers = self._installed()
                server = None
                if any(layer.redis for layer in layers):
                    server = stack.enter_context(redis_server(directory))
                await self._all(layers, Place(directory, server, nursery))
            self.run.interrupted = False
        except asyncio.CancelledError:
            pass
        finally:
            self.run.seconds = round(time.monotonic() - began, 1)

    def _installed(self) -> list[Layer]:
        layers = []
        for layer in self.layers:
            if why := layer.missing():
                self.run.skipped.append(Skipped(layer.name, "", "", why))
            else:
                layers.append(layer)
        return layers

    async def _all(self, layers: Sequence[Layer], place: Place) -> None:
        whole = program(self.plan, self.scenarios, layers)
        named = {layer.name: layer for layer in layers}
        self.run.skipped += whole.skipped
        self.watcher.begins_run(whole, self.run.skipped)
        for item in whole.items:
            for number, name in item.turns():
                layer = named[name]
                self.watcher.begins(item.scenario, item.case, layer, number)
                measurement = await self._measure(item.scenario, item.case, layer, number, place)
                self.run.measurements.append(measurement)
                self.watcher.measured(item.scenario, measurement)
                if self.keep is not None:
                    self.keep(self.run)

    async def _measure(
        self, scenario: Scenario, case: Case, layer: Layer, number: int, place: Place
    ) -> Measurement:
        config = case.config_of(layer)
        measurement = Measurement(
            scenario=scenario.name,
            case=case.name,
            layer=layer.name,
            round=number,
            arguments={"processes": case.processes, **case.arguments},
            settings={**layer.config, **{k: v for k, v in config.items() if layer.accepts(k)}},
            load=round(os.getloadavg()[0], 2),
        )
        began = time.monotonic()
        patience = HANG + 2 * float(case.arguments.get("seconds", 0))
        try:
            directory = place.directory / f"lab{next(self._numbers)}"
            async with lab(
                layer,
                directory,
                place.server,
                place.nursery,
                config,
                durable=case.durable,
                prepare=case.prepare,
            ) as here:
                measured = await asyncio.wait_for(scenario.measure(here, case), patience)
                ledgers = await here.ledgers()
                # A layer without counters is not judged where drops are expected.
                counts = bool(here.counters) or not case.may_drop
                for entries in ledgers:
                    measurement.ledger += await asyncio.to_thread(
                        check, entries, counts_drops=counts
                    )
                measurement.figures = measured.figures
                measurement.distributions = measured.distributions
                measurement.series = measured.series
                measurement.errors = dict(here.errors)
                measurement.counters = dict(here.counters)
                if here.errors and not scenario.may_fail:
                    measurement.trouble = f"sends failed: {dict(here.errors)}"
        except TimeoutError:
            measurement.trouble = f"hung: ended after {patience:.0f} s"
        except Exception as error:
            # If one layer breaks down, that is a result, and the others are still measured.
            measurement.trouble = f"{type(error).__name__}: {error}".strip()
        measurement.seconds = round(time.monotonic() - began, 1)
        return measurement


def meaning(figure: Figure) -> dict[str, str]:
    return {"unit": figure.unit, "better": figure.better, "says": figure.says}


def failed(run: Run) -> str:
    """Return why the run's exit status is 1, or ""."""
    broken = run.broken
    if not broken:
        return ""
    where = sorted({f"{m.scenario} ({m.case}) on {m.layer}" for m in broken})
    return "broken: " + "; ".join(where)
