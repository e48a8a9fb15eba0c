"""The arithmetic behind the figures."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stress import ledger, measure
from stress.ledger import Entry
from stress.measure import Ratio


def test_quantiles_are_those_of_the_textbook_and_of_no_samples_there_are_none() -> None:
    assert measure.percentiles(range(101)) == {"p50": 50, "p99": 99, "max": 100}
    assert measure.quantile([1, 2, 3, 4], 0.5) == 2.5
    assert [measure.quantile([1, 7], fraction) for fraction in (0, 0.25, 1)] == [1, 2.5, 7]
    assert measure.quantile([5], 0.99) == 5
    assert measure.percentiles([]) == {}
    assert measure.distribution([]) == []


def test_a_ratio_pairs_the_rounds_and_skips_what_the_rival_has_not() -> None:
    """In the second round the machine was twice as slow for both: the ratio does not care."""
    assert measure.ratio({1: 10.0, 2: 20.0}, {1: 5.0, 2: 10.0}) == Ratio(2.0, 2.0, 2.0)
    ours = {1: 1.0, 2: 4.0, 3: 2.0, 4: 9.0}
    theirs = {1: 1.0, 2: 1.0, 3: 1.0, 5: 1.0}
    assert measure.ratio(ours, theirs) == Ratio(2.0, 1.0, 4.0)
    assert measure.ratio(ours, {1: 0.0}) is None


def test_a_slope_is_not_misled_by_an_outlier() -> None:
    series = [(float(t), 3.0 * t) for t in range(20)]
    series[7] = (7.0, 1000.0)
    assert measure.slope(series) == pytest.approx(3.0, rel=0.05)
    assert measure.slope([(1.0, 5.0)]) == 0


def entry(kind: str, at: float, sender: str, number: int) -> Entry:
    return Entry(kind, round(at * 1e6), "p", sender, number, "c", "c")


def test_delays_count_from_the_sending_whichever_ledger_comes_first() -> None:
    entries = [
        entry(ledger.RECEIVED, 5, "measured", 0),
        entry(ledger.SENT, 0, "warm-up", 0),
        entry(ledger.RECEIVED, 9, "warm-up", 0),
        entry(ledger.SENT, 3, "measured", 0),
        entry(ledger.ACCEPTED, 4, "measured", 0),
    ]
    assert measure.since_sent(entries, ledger.RECEIVED, "measured") == [2.0]
    assert measure.since_sent(entries, ledger.ACCEPTED, "measured") == [1.0]
    assert measure.since_sent(entries, ledger.RECEIVED) == [2.0, 9.0]


def test_a_rate_is_of_the_intervals_between_entries() -> None:
    entries = [entry(ledger.RECEIVED, 1000 * n, "s", n) for n in range(5)]
    assert measure.rate(entries, ledger.RECEIVED) == pytest.approx(1.0)
    assert measure.rate(entries[:1], ledger.RECEIVED) == 0


@contextmanager
def running(*codes: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that run these programs, each of which has printed a line."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in codes
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def used(*processes: subprocess.Popen[bytes]) -> list[measure.Spent]:
    """What each has used in half a second."""
    before = [measure.usage(process.pid) for process in processes]
    time.sleep(0.5)
    return [
        measure.spent(was, measure.usage(process.pid))
        for was, process in zip(before, processes, strict=True)
    ]


def test_the_usage_of_a_process_is_its_own() -> None:
    """One that works uses more processor than one that sleeps; both are other processes."""
    sleeps = "import time; print(flush=True); time.sleep(60)"
    with running("print(flush=True)\nwhile True: pass", sleeps) as processes:
        working, sleeping = used(*processes)
        usage = measure.usage(processes[1].pid)
    assert working.cpu_percent > 10 * sleeping.cpu_percent
    assert usage.threads == 1
    assert usage.memory > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of each thread")
def test_the_switches_of_all_threads_count_and_those_of_who_has_to_give_way_apart() -> None:
    """Two work on one core. The first thread of a third one sleeps, the other hardly does."""
    core = min(os.sched_getaffinity(0))
    works = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    sleeps = (
        "import threading, time\n"
        "def work():\n    while True: time.sleep(0.001)\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "print(flush=True)\ntime.sleep(60)"
    )
    with running(works, works, sleeps) as processes:
        assert measure.usage(processes[2].pid).threads == 2
        working, _, sleeping = used(*processes)
    assert working.preempted > 10 * working.switches
    assert sleeping.switches > 10


def test_the_bytes_of_a_database_count_what_is_only_in_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "database.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table t (b blob)")
    connection.commit()
    before = measure.bytes_used(path)
    connection.execute("insert into t values (zeroblob(100000))")
    connection.commit()
    assert 95_000 <= measure.bytes_used(path) - before <= 120_000
    assert measure.file_sizes(path)["wal"] > 100_000
    connection.close()
    assert measure.file_sizes(path)["wal"] == 0
    assert measure.file_sizes(path)["file"] == os.path.getsize(path)
