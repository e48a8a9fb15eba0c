"""Shared fixtures: a database file for each, and layers on it, ours and the rivals'."""

from __future__ import annotations

import logging
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer

from channels_sqlite._options import times
from channels_sqlite.layers import SqliteChannelLayer
from stress import redis_server
from tests import databases, rows
from tests.processes import Child

WATCHERS = ("inotify", "watchfiles", "polling")
TEST_DATABASE = "test-database"
"""Our layer on what Django's test runner makes of an SQLite database: one in memory."""
RIVALS = ("memory", "redis")

SetTimes = Callable[..., None]
"""Replaces some of the layer's times, by their names, in this process."""
OpenLayer = Callable[..., Any]
"""Opens one more layer on the test's storage, as another process would; takes CONFIG's keys."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell has it for what it runs in the background; processes that tests start, and
        # interrupt, would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "fails(*kinds, because, strict=True): the layers that fail this case"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect a case to fail on the rivals it is marked for; strictly, so that marks stay true."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        for mark in item.iter_markers("fails"):
            if callspec is not None and callspec.params.get("kind") in mark.args:
                strict = mark.kwargs.get("strict", True)
                item.add_marker(pytest.mark.xfail(reason=mark.kwargs["because"], strict=strict))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file as `migrate` leaves it; to copy, not to open."""
    path = tmp_path_factory.mktemp("migrated") / "channels.sqlite3"
    databases.migrate(path)
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """The test's own database file."""
    return Path(shutil.copy(migrated, tmp_path / "channels.sqlite3"))


@pytest.fixture
def others(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another program to the test's own database file."""
    with rows.sql(database) as connection:
        yield connection


@pytest.fixture
def alias(database: Path) -> Iterator[str]:
    """The alias in DATABASES of the test's own database file."""
    with databases.alias_for(database) as name:
        yield name


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if redis_server.EXECUTABLE is None:
        pytest.skip("no redis-server here")  # a rival, which no user of ours has to install
    with redis_server.redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def memory_alias(migrated: Path) -> Iterator[str]:
    """The alias of a copy in memory, named as Django's test runner names it."""
    name = f"file:{uuid4().hex}?mode=memory&cache=shared"
    with (
        closing(sqlite3.connect(name, uri=True)) as memory,
        closing(sqlite3.connect(migrated)) as file,
        databases.alias_for(name) as alias,
    ):
        file.backup(memory)
        yield alias


@pytest.fixture
def set_times(monkeypatch: pytest.MonkeyPatch) -> SetTimes:
    def set_some(**changed: Any) -> None:
        monkeypatch.setattr(times, "TIMES", replace(times.TIMES, **changed))

    return set_some


@pytest.fixture(params=WATCHERS)
def watcher(request: pytest.FixtureRequest) -> str:
    """Each of our watchers that this machine has."""
    return available(request.param)


@pytest.fixture(params=["auto"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer a case runs on: ours by default, or those that a mark of kinds.py names."""
    return available(request.param)


def available(kind: str) -> str:
    if kind == "inotify" and sys.platform != "linux":
        pytest.skip("no inotify here")  # Linux alone has it; watchfiles and polling are tried
    return kind


Start = Callable[..., Child]
"""Starts a process: the name of a function of tests/children.py, and its arguments."""


@pytest.fixture
def start(database: Path) -> Iterator[Start]:
    """Starts processes on the test's database, and kills those that have not ended with it."""
    with ExitStack() as children:

        def start_(function: str, /, **arguments: Any) -> Child:
            return children.enter_context(Child(function, database, **arguments))

        yield start_


@pytest.fixture
async def open_layer(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[OpenLayer]:
    """Opens layers of the wanted kind, and closes them when the test is over.

    A layer of ours that has warned of anything but drops fails the test, unless the test has
    cleared that. Drops of which it has not warned by then are forgotten: the line would come in the
    next test.
    """
    make: OpenLayer
    if kind == "memory":
        make = InMemoryChannelLayer
    elif kind == "redis":
        # redis-py 8 times an idle socket out after 5 s unless told otherwise.
        host = {"address": request.getfixturevalue("redis_url"), "socket_timeout": None}
        make = partial(RedisChannelLayer, hosts=[host], prefix=uuid4().hex)
    else:
        in_memory = kind == TEST_DATABASE
        alias = request.getfixturevalue("memory_alias" if in_memory else "alias")
        watcher = {} if in_memory else {"watcher": kind}
        make = partial(SqliteChannelLayer, database=alias, **watcher)
    layers: list[Any] = []

    def open_(**config: Any) -> Any:
        layers.append(make(**config))
        return layers[-1]

    yield open_
    for layer in layers:
        await (layer.flush() if kind == "redis" else layer.close())
        if isinstance(layer, SqliteChannelLayer):
            layer._drops.forget()
    said = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [each.getMessage() for each in said if is_a_warning_of_ours(each)] == []


def is_a_warning_of_ours(record: logging.LogRecord) -> bool:
    return (
        record.name == "channels_sqlite"
        and record.levelno >= logging.WARNING
        and "dropped because there was no room" not in record.getMessage()
    )


@pytest.fixture
def layer(open_layer: OpenLayer) -> Any:
    """A layer with the default settings."""
    return open_layer()


@pytest.fixture(params=[True, False], ids=["process-local", "normal"])
async def channel(layer: Any, request: pytest.FixtureRequest) -> str:
    """A channel of each sort."""
    return await layer.new_channel() if request.param else "test-channel"
