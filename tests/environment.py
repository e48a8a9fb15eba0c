"""A pytest plugin: say in one line what this machine lacks, and how many tests it left out.

It reads the reasons of the tests that were skipped, so it cannot say anything else than happened.
TESTS_NOT_LEFT_OUT names the reasons that a run does not accept, with semicolons between them, where
the machine has what they lack: CI has installed it. Loaded with `-p` in pyproject.toml.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = left_out(terminalreporter)
    if reasons:
        parts = [f"{count} for {why}" for why, count in reasons.most_common()]
        terminalreporter.write_line(f"Left out: {'; '.join(parts)}.", yellow=True)
    if refused := reasons.keys() & not_accepted():
        terminalreporter.write_line(f"Must not be left out: {'; '.join(refused)}.", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and left_out(reporter).keys() & not_accepted():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def left_out(reporter: pytest.TerminalReporter) -> Counter[str]:
    """How many tests, or whole modules, were skipped for each reason."""
    return Counter(map(reason, reporter.getreports("skipped")))


def not_accepted() -> set[str]:
    return set(filter(None, os.environ.get("TESTS_NOT_LEFT_OUT", "").split(";")))


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test, or a whole module, was skipped."""
    assert isinstance(report.longrepr, tuple)
    _path, _line, words = report.longrepr
    return words.removeprefix("Skipped: ")
