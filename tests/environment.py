"""A pytest plugin: say in one line what this machine lacks, and how many tests it left out.

It reads the reasons of the tests that were skipped, so it cannot say anything else than happened.
Loaded with `-p` in pyproject.toml.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(map(reason, terminalreporter.getreports("skipped")))
    if reasons:
        parts = [f"{count} for {why}" for why, count in reasons.most_common()]
        terminalreporter.write_line(f"Left out: {'; '.join(parts)}.", yellow=True)


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test, or a whole module, was skipped."""
    assert isinstance(report.longrepr, tuple)
    _path, _line, words = report.longrepr
    return words.removeprefix("Skipped: ")
