"""The meaning of the figures: quantiles, ratios with their spread, the usage of a process."""

from __future__ import annotations

import sqlite3
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from stress import ledger
from stress.ledger import Entry

# The fractions of a distribution: enough at both ends to draw it on a logarithmic scale.
FRACTIONS = (0.0, 0.01, 0.05, *(i / 20 for i in range(2, 19)), 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """A quantile of a sorted sequence, by linear interpolation (R's type 7, numpy's default)."""
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def distribution(samples: Iterable[float]) -> list[tuple[float, float]]:
    """(fraction, value) pairs; none for no samples."""
    ordered = sorted(samples)
    return [(fraction, quantile(ordered, fraction)) for fraction in FRACTIONS] if ordered else []


def percentiles(samples: Iterable[float]) -> dict[str, float]:
    """p50, p99 and max; none for no samples."""
    ordered = sorted(samples)
    if not ordered:
        return {}
    return {"p50": quantile(ordered, 0.5), "p99": quantile(ordered, 0.99), "max": ordered[-1]}


@dataclass(frozen=True)
class Ratio:
    """Ours / theirs: the median of the rounds' ratios, and the smallest and largest of them."""

    median: float
    low: float
    high: float


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Ratio | None:
    """The ratio, round by round, so that a disturbance of the machine disturbs both sides."""
    ratios = [ours[key] / theirs[key] for key in ours if theirs.get(key)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def slope(series: Sequence[tuple[float, float]]) -> float:
    """The slope per unit of the first value, by Theil and Sen: the median of all pairs' slopes."""
    slopes = [
        (b - a) / (t - s) for i, (s, a) in enumerate(series) for t, b in series[i + 1 :] if t != s
    ]
    return statistics.median(slopes) if slopes else 0.0


def since_sent(entries: Iterable[Entry], kind: str, prefix: str = "") -> list[float]:
    """Milliseconds from the beginning of a send to each of its entries of `kind`, in their order.

    RECEIVED gives the delays of delivery, ACCEPTED how long the sends took. `prefix` chooses the
    senders, so that a warm-up's are left out.
    """
    sent: dict[tuple[str, int, str], int] = {}
    later: list[tuple[tuple[str, int, str], int]] = []
    for entry in entries:
        if entry.sender.startswith(prefix):
            key = (entry.sender, entry.number, entry.target)
            if entry.kind == ledger.SENT:
                sent[key] = entry.at
            elif entry.kind == kind:
                later.append((key, entry.at))
    # The ledgers of two processes come one after the other: a receipt may stand before its send.
    return [(at - sent[key]) / 1e6 for key, at in later if key in sent]


def rate(entries: Iterable[Entry], kind: str, prefix: str = "") -> float:
    """Entries of a kind a second, from the first to the last of them."""
    times = [e.at for e in entries if e.kind == kind and e.sender.startswith(prefix)]
    span = max(times, default=0) - min(times, default=0)
    return (len(times) - 1) / span * 1e9 if span else 0.0


@dataclass(frozen=True)
class Usage:
    """The resources that a process has used since it began, and holds now."""

    at: float  # time.monotonic()
    cpu: float  # seconds, all threads
    switches: int  # voluntary context switches, all threads
    preempted: int  # the other ones
    memory: int  # bytes of its own: heap and stacks, not code
    threads: int
    descriptors: int


def usage(pid: int) -> Usage:
    process = psutil.Process(pid)
    with process.oneshot():
        voluntary, involuntary = switches(process)
        return Usage(
            at=time.monotonic(),
            cpu=cpu_seconds(process),
            switches=voluntary,
            preempted=involuntary,
            memory=memory(process),
            threads=process.num_threads(),
            descriptors=process.num_fds(),
        )


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds, to the nanosecond on Linux: /proc's ticks of 10 ms are too coarse for idling."""
    if sys.platform == "linux":
        # The clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return times.user + times.system


def memory(process: psutil.Process) -> int:
    """Anonymous memory: a child's resident set also grows with each page of code it uses."""
    if sys.platform != "linux":
        resident: int = process.memory_info().rss
        return resident
    status = Path(f"/proc/{process.pid}/status").read_text()
    return count_in(status, "RssAnon") * 1024


def switches(process: psutil.Process) -> tuple[int, int]:
    """Context switches of all threads: voluntary ones (to sleep), and involuntary ones."""
    if sys.platform != "linux":
        found = process.num_ctx_switches()
        return found.voluntary, found.involuntary
    voluntary = involuntary = 0
    for task in Path(f"/proc/{process.pid}/task").iterdir():  # psutil reads the first thread's only
        try:
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        voluntary += count_in(status, "voluntary_ctxt_switches")
        involuntary += count_in(status, "nonvoluntary_ctxt_switches")
    return voluntary, involuntary


def count_in(status: str, name: str) -> int:
    """A number of /proc/PID/status."""
    return int(status.rpartition(f"\n{name}:")[2].split(maxsplit=1)[0])


@dataclass(frozen=True)
class Spent:
    """The difference of two usages, per second."""

    cpu_percent: float  # of one core
    switches: float  # voluntary
    preempted: float


def spent(before: Usage, after: Usage) -> Spent:
    seconds = after.at - before.at
    return Spent(
        cpu_percent=(after.cpu - before.cpu) / seconds * 100,
        switches=(after.switches - before.switches) / seconds,
        preempted=(after.preempted - before.preempted) / seconds,
    )


def bytes_used(database: Path) -> int:
    """The bytes of a database's tables, with the WAL's part, and without free pages."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:

        def pragma(name: str) -> int:
            value: int = connection.execute(f"pragma {name}").fetchone()[0]
            return value

        return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")


def file_sizes(database: Path) -> dict[str, int]:
    """Bytes of the database file and of its WAL."""
    sizes = {}
    for name, path in (("file", database), ("wal", Path(f"{database}-wal"))):
        try:
            sizes[name] = path.stat().st_size
        except FileNotFoundError:
            sizes[name] = 0
    return sizes
