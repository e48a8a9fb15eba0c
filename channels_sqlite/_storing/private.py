"""Where a layer works in a process that runs tests. If the tests do not name the layer's database,
Django's test runner leaves NAME at the developer's, or the production's, file. The layer then works
in a private database in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from django.db import connections

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_at_start: dict[str, str] = {}


def note_names() -> None:
    """Remember every NAME, before a test runner changes any."""
    for alias, database in connections.settings.items():
        _at_start.setdefault(alias, str(database.get("NAME")))


def name_of(alias: str, name: str) -> str:
    """The NAME to use for what the settings say at this moment."""
    # sys.modules first, which is quick: no test runs without that module.
    if "django.test" not in sys.modules or not are_tests_running() or _at_start.get(alias) != name:
        return name
    test_name = str(connections.settings[alias]["TEST"]["NAME"] or "")
    if not _is_test_environment() and os.path.exists(test_name):  # made by the server's parent
        return test_name
    return f"file:{_PRIVATE}{alias}-{os.getpid()}?mode=memory&cache=shared"


def is_private(name: str) -> bool:
    """Return True for a name that `name_of` has made up."""
    return name.startswith(f"file:{_PRIVATE}")


_PRIVATE = "channels-sqlite-private-"


def are_tests_running() -> bool:
    """Return True if `setup_test_environment` was called, as each test runner does; and in the
    server process of a ChannelsLiveServerTestCase, which is told of one test database only where it
    is not forked.
    """
    return _is_test_environment() or (
        "channels.testing.live" in sys.modules and multiprocessing.parent_process() is not None
    )


def _is_test_environment() -> bool:
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


opened_by: WeakKeyDictionary[BaseDatabaseWrapper, int] = WeakKeyDictionary()
"""Django's own connections to our databases, on any thread, each with the process that opened
it."""


def has_open_transaction(alias: str) -> bool:
    """Return True if Django has a transaction open in this process, other than a TestCase's own."""
    return any(
        not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
        for connection in _in_transactions(alias)
    )


HELD_BY_A_TEST = (
    "A test's own transaction, that of a TestCase, holds the lock until the test ends: use a"
    " TransactionTestCase, or give the layer a database of its own."
)


def is_in_a_tests_transaction(alias: str) -> bool:
    """Return True if a test, a TestCase for example, has a transaction open: what waits for its end
    waits in vain.
    """
    return are_tests_running() and bool(_in_transactions(alias))


def _in_transactions(alias: str) -> list[BaseDatabaseWrapper]:
    return [
        connection
        for connection, pid in list(opened_by.items())
        if connection.alias == alias and connection.in_atomic_block and pid == os.getpid()
    ]
