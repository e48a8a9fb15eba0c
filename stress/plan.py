"""The plan: the options of the command line, and the cases that a scenario makes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from stress.lab import Lab
    from stress.layers import Layer

Profile = Literal["quick", "normal", "figures"]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The options given. For None, the scenario chooses a value by the profile."""

    profile: Profile = "normal"
    processes: int | None = None
    seconds: float | None = None
    members: int | None = None
    rate: float | None = None
    size: int | None = None
    rounds: int | None = None
    sockets: int | None = None
    servers: Sequence[str] | None = None

    def choose(self, *, quick: T, normal: T, figures: T | None = None) -> T:
        """The profile's value. For `figures` it is the usual one, if it has none of its own."""
        if self.profile == "figures" and figures is not None:
            return figures
        return quick if self.profile == "quick" else normal

    def many(
        self,
        given: T | None,
        *,
        quick: Sequence[T],
        normal: Sequence[T],
        figures: Sequence[T] | None = None,
    ) -> Sequence[T]:
        """One value if given, otherwise the profile's list."""
        return (
            [given]
            if given is not None
            else self.choose(quick=quick, normal=normal, figures=figures)
        )

    @property
    def body(self) -> int:
        return 130 if self.size is None else self.size


@dataclass(frozen=True)
class Figure:
    """One column of a scenario's results."""

    name: str
    unit: str
    better: Literal["less", "more", ""]  # "" is neither: shown, and not compared
    says: str = ""


@dataclass(frozen=True)
class Case:
    """One thing that a scenario measures, with every layer that can do it.

    `config` goes into every layer's CONFIG, `ours` into ours alone, `theirs` into that of the
    rival that it names. The report shows all of them.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1  # that share the layer
    lasts: float = 0.0  # seconds, about, beside starting the processes; for the estimate
    rounds: int | None = None  # at most, in the profile `figures`: steady figures need fewer
    watched: bool = True  # by each watcher of ours; otherwise one of ours is enough in a profile
    config: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    theirs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    only: Callable[[Layer], bool] | None = None
    why: str = ""  # why only these layers
    may_drop: bool = False  # drops are expected: layers that do not count them are not judged
    durable: bool = False  # the ledger must survive a kill -9
    prepare: Callable[[Path], None] | None = None  # in each child, before it makes its layer

    def config_of(self, layer: Layer) -> dict[str, Any]:
        particular = self.ours if layer.ours else self.theirs.get(layer.name, {})
        return {**self.config, **particular}

    def excludes(self, layer: Layer) -> str:
        """Return why this layer is not measured here, or ""."""
        if self.processes > 1 and not layer.processes:
            return "joins no other process"
        return "" if self.only is None or self.only(layer) else self.why


@dataclass
class Measured:
    """The results of one measurement: figures by name, and the data of the charts."""

    figures: dict[str, float] = field(default_factory=dict)
    distributions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    name: str
    says: str
    figures: tuple[Figure, ...]
    cases: Callable[[Plan], list[Case]]
    measure: Callable[[Lab, Case], Awaitable[Measured]]
    rounds: tuple[int, int, int] = (1, 3, 5)  # quick, normal, figures
    rivals: bool = True  # also measured in the quick profile
    profiles: tuple[Profile, ...] = ("quick", "figures")  # that it is part of
    may_fail: bool = False  # sends may end in errors: we break things on purpose
