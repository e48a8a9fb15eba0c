"""The arithmetic behind the figures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from stress import ledger, measure
from stress.ledger import Entry
from stress.measure import Ratio
from tests.rows import sql


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


WORKS = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(flush=True)
while True: pass
"""
SLEEPS = """
import threading, time
def work():
    while True: time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
print(flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of each thread")
def test_the_usage_of_a_process_is_its_own_and_of_all_its_threads() -> None:
    """Two work on one core, and have to give way. The first thread of a third one sleeps, the
    other hardly does.
    """
    with ExitStack() as stack:
        pids, before = [], []
        for code in (WORKS, WORKS, SLEEPS):
            command = [sys.executable, "-c", code]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            pids.append(process.pid)
        before = [measure.usage(pid) for pid in pids]
        time.sleep(0.5)
        after = [measure.usage(pid) for pid in pids]
    working, _, sleeping = map(measure.spent, before, after)
    assert working.cpu_percent > 5 * sleeping.cpu_percent
    assert working.preempted > 10 * working.switches
    assert sleeping.switches > 10
    assert [each.threads for each in after] == [1, 1, 2]
    assert after[0].memory > 1_000_000


def test_the_bytes_of_a_database_count_what_is_only_in_the_wal(tmp_path: Path) -> None:
    path = tmp_path / "database.sqlite3"
    with sql(path) as connection:
        connection.execute("pragma journal_mode=wal").fetchall()
        connection.execute("create table t (b blob)")
        before = measure.bytes_used(path)
        connection.execute("insert into t values (zeroblob(100000))")
        assert 95_000 <= measure.bytes_used(path) - before <= 120_000
        assert measure.file_sizes(path)["wal"] > 100_000
    assert measure.file_sizes(path)["wal"] == 0
    assert measure.file_sizes(path)["file"] == os.path.getsize(path)
