"""How the tests of other people's projects meet the layer, with the settings of the README.

Each test makes a small project, beside the database that its developer works with, and runs its
tests as the developer does: with `manage.py test`, or with pytest.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from tests.conftest import Start
from tests.docs.project import NO_LIVE_SERVER
from tests.faults.peers import Peer
from tests.rows import message, select
from tests.suites import ON_A_FILE, Suite

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a file in use cannot be removed")

GROUP, CHANNEL = "room", "jobs"  # also those of the suites

Run = Callable[..., int]
"""Runs a suite, with a method of it; the number of tests, all of which passed."""
Passed = Callable[..., int]
"""The same for the code of a suite, which leaves no file, nor a trace in the developer's."""


@pytest.fixture
def must_be_undisturbed(layer: Any, others: sqlite3.Connection, start: Start) -> Callable[[], None]:
    """Check a developer's file in use: a server receives from it, and a message waits in it. No row
    came or went; the server is a member still, and hears first what is sent here.
    """
    server = Peer(start)
    member = server.join(GROUP)
    server.consume(CHANNEL)
    async_to_sync(layer.send)("waiting", message(0))
    before = rows_of_the_layer(others)

    def check() -> None:
        assert rows_of_the_layer(others) == before
        async_to_sync(layer.group_send)(GROUP, message(1))
        assert server.heard(member, 1) == [1]
        async_to_sync(layer.send)(CHANNEL, message(2))
        assert server.heard(CHANNEL, 2) == [2]

    return check


def rows_of_the_layer(connection: sqlite3.Connection) -> list[list[Any]]:
    """The messages, the memberships, and the highest id that a message ever had."""
    questions = (
        "id, channel from channels_sqlite_message order by id",
        'channel, "group" from channels_sqlite_membership',
        "seq from sqlite_sequence where name = 'channels_sqlite_message'",
    )
    return [select(connection, question) for question in questions]


@pytest.fixture
def passed(must_be_undisturbed: Callable[[], None], tmp_path: Path) -> Passed:
    def passed(code: str, *arguments: str, run: Run = Suite.test, **options: Any) -> int:
        suite = Suite(tmp_path, code, **options)
        count = run(suite, *arguments)
        assert suite.left() == []
        must_be_undisturbed()
        return count

    return passed


# The developer's file

CASES = """\
from .steps import chat, flush, send_and_receive

class Both:
    def test_a_job(self):
        flush()
        send_and_receive()

    def test_a_chat(self):
        flush()
        chat()
"""

DJANGO = f"""\
from django.test import SimpleTestCase, TransactionTestCase

{CASES}
class Tests(Both, SimpleTestCase): ...
class TransactionTests(Both, TransactionTestCase): ...
"""

UNMARKED = f"{CASES}\nclass TestBoth(Both): ..."

SET_UP = """\
import os
import unittest

import django
from django.test.utils import setup_test_environment

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()
setup_test_environment()
"""

PLAIN = f"{SET_UP}\n{CASES}\nclass Tests(Both, unittest.TestCase): ..."


FORKS = """\
import os

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.test import SimpleTestCase

from .steps import JOB, receive, send

class Tests(SimpleTestCase):
    def test_what_its_parent_was_sent_does_not_wait_for_a_child(self):
        send("jobs")
        if (pid := os.fork()) == 0:
            waiting = -1
            try:
                waiting = async_to_sync(get_channel_layer().stats)().total.waiting
            finally:
                os._exit(waiting)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertEqual(receive("jobs"), JOB)
"""


@pytest.mark.parametrize(
    ("code", "run", "count"),
    [
        (DJANGO, Suite.test, 4),
        (UNMARKED, Suite.pytest, 2),
        (PLAIN, Suite.unittest, 2),
        (FORKS, Suite.test, 1),
    ],
    ids=["django", "pytest", "unittest", "forks"],
)
def test_tests_that_name_no_database_stay_away_from_the_developers_file(
    passed: Passed, code: str, run: Run, count: int
) -> None:
    assert passed(code, run=run) == count


def test_tests_need_no_developers_file(tmp_path: Path) -> None:
    """As where only the tests run, and nobody has migrated."""
    suite = Suite(tmp_path, UNMARKED)
    assert suite.pytest() == 2
    assert suite.left() == []


TWO_CASES = """\
from django.test import TestCase, TransactionTestCase

from .steps import chat, count, flush, send, send_and_receive

class Cases:
    databases = {"default", "channels"}

    def test_the_orm_counts_what_is_sent(self):
        flush()
        send("jobs")
        self.assertEqual(count("jobs"), 1)
        send("jobs")

    def test_a_job(self):
        flush()
        send_and_receive()

class Tests(Cases, TestCase): ...

class TransactionTests(Cases, TransactionTestCase):
    def test_a_chat(self):
        chat()
"""

OVERRIDDEN = """\
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from .steps import chat, count, flush, send, send_and_receive

MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
OURS = {
    "default": {
        "BACKEND": "channels_sqlite.layers.SqliteChannelLayer",
        "CONFIG": {"database": "channels", "capacity": 1},
    }
}

class Overridden:
    def test_another_config(self):
        with override_settings(CHANNEL_LAYERS=OURS):
            flush()
            send_and_receive()
            send("full")
            with self.assertRaises(ChannelFull):
                send("full")

    def test_another_layer(self):
        with override_settings(CHANNEL_LAYERS=MEMORY):
            self.assertEqual(type(get_channel_layer()).__name__, "InMemoryChannelLayer")
            send_and_receive()
            chat()
        send_and_receive()
        chat()

class WithoutDatabases(Overridden, SimpleTestCase): ...
"""

SERIAL = f"""\
import time

from asgiref.sync import async_to_sync

from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.models import LayerMessage

{TWO_CASES}
{OVERRIDDEN}
from .apps import ask_the_thread
from .steps import JOB, receive

class WithDatabases(Overridden, TransactionTestCase):
    databases = {{"default", "channels"}}

    def test_the_orm_counts(self):
        with override_settings(CHANNEL_LAYERS=OURS):
            send("counted")
            self.assertEqual(count("counted"), 1)

    def test_a_thread_that_waits_answers(self):
        send("orders")
        self.assertEqual(receive("answers")["sender"], "suite")
        self.assertEqual(count("orders"), 1)

    def test_the_orm_counts_what_another_thread_sends(self):
        ask_the_thread()
        self.assertEqual(count("notes"), 1)
        receive("notes")

class OwnTransaction(TestCase):
    databases = {{"default", "channels"}}

    def setUp(self):
        now = time.time()
        LayerMessage.objects.create(
            inbox="jobs", channel="jobs", body=b"", created_at=now, expires_at=now + 60
        )

    def test_to_send(self):
        self.check("send", "jobs", JOB)

    def test_to_join(self):
        self.check("group_add", "room", "jobs")

    def check(self, verb, *arguments):
        began = time.monotonic()
        try:
            async_to_sync(getattr(get_channel_layer(), verb))(*arguments)
        except DatabaseUnavailable as error:
            self.assertIn("A test's own transaction", str(error))
            self.assertIn("use a TransactionTestCase", str(error))
        self.assertLess(time.monotonic() - began, 10)  # the timeout is 20
"""

USED_EARLY = """\
import asyncio
import threading

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.apps import AppConfig

from channels_sqlite.exceptions import ChannelsSqliteError

asked, sent = threading.Event(), threading.Event()

class ChatConfig(AppConfig):
    name = "chat"

    def ready(self):
        use_the_layer()
        for work in send_when_asked, lambda: asyncio.run(answer()):
            threading.Thread(target=work, daemon=True).start()

def use_the_layer():
    async_to_sync(get_channel_layer().group_count)("room")

def send():
    async_to_sync(get_channel_layer().send)("notes", {"type": "note"})

def send_when_asked():
    use_the_layer()
    asked.wait()
    send()
    sent.set()

def ask_the_thread():
    asked.set()
    assert sent.wait(10)

async def answer():
    layer = get_channel_layer()
    while True:
        try:
            await layer.send("answers", await layer.receive("orders"))
        except ChannelsSqliteError:  # the tables are being made
            await asyncio.sleep(0.1)
"""


SHARED = 'DATABASES["channels"]["TEST"] = {"NAME": "file:a-name?mode=memory&cache=shared"}\n'


@pytest.mark.parametrize(
    "where", ["", SHARED, ON_A_FILE], ids=["in-memory", "in-memory-by-name", "on-a-file"]
)
def test_tests_with_databases_use_those(passed: Passed, where: str) -> None:
    """The layer was used before the runner has changed NAME: in ready(), and in threads that are
    started there, of which one waits in receive(). CHANNEL_LAYERS are overridden, to another layer
    and back.

    The transaction of a TestCase that has written with the ORM holds SQLite's lock until the test
    ends. The error of a send names that transaction and the remedy, long before the timeout. To
    work is as good.
    """
    assert passed(SERIAL, settings=where, app=USED_EARLY) == 14


RELATIVE = """\
DATABASES["channels"]["NAME"] = "channels.sqlite3"
DATABASES["channels"]["TEST"] = {"NAME": "test_channels.sqlite3"}
"""


@pytest.mark.parametrize(("code", "count"), [(DJANGO, 4), (TWO_CASES, 5)], ids=["none", "both"])
def test_a_relative_name_is_that_of_the_working_directory(
    passed: Passed, tmp_path: Path, code: str, count: int
) -> None:
    """Layer and ORM agree about it; the developer's file is in another directory."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    assert passed(code, settings=RELATIVE, cwd=elsewhere) == count


# Several processes


def test_tests_run_in_parallel_in_memory(passed: Passed) -> None:
    """Each of the processes has a copy of the database, also where the one that copies it, and
    forks, has used the layer before.
    """
    assert passed(TWO_CASES, "--parallel=2", app=USED_EARLY) == 5


def test_tests_run_in_parallel_on_files(
    must_be_undisturbed: Callable[[], None], tmp_path: Path
) -> None:
    """With --keepdb the databases stay, and only they; the next run without it removes them."""
    suite = Suite(tmp_path, TWO_CASES, settings=ON_A_FILE, app=USED_EARLY)
    kept = [f"test_channels{each}.sqlite3" for each in ("", "_1", "_2")]
    for _ in range(2):
        assert suite.test("--parallel=2", "--keepdb") == 5
        # Where tests are not forked (Python 3.14), Django leaves copies of `default`, too.
        assert [name for name in suite.left() if re.fullmatch(r"test_\w*\.sqlite3", name)] == kept
    assert suite.test("--parallel=2") == 5
    assert suite.left() == []
    must_be_undisturbed()


def test_pytest_runs_tests_in_parallel(passed: Passed) -> None:
    """With pytest-xdist, as above."""
    assert passed(TWO_CASES, "--numprocesses=2", run=Suite.pytest, settings=ON_A_FILE) == 5


ALL = 'databases = "__all__"'

LIVE = """\
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import ChannelsLiveServerTestCase
from django.db import connections
from websockets.sync.client import connect

from .steps import say

class Tests(ChannelsLiveServerTestCase):
    serve_static = False
    {databases}

    def test_two_visitors_chat(self):
        with connect(self.live_server_ws_url) as one, connect(self.live_server_ws_url) as two:
            one.send('{{"text": "hello"}}')
            for each in one, two:
                self.assertEqual(each.recv(10), '{{"text": "hello"}}')
"""

AND_FROM_THE_TEST = """\

    def test_the_test_itself_sends_to_a_visitor(self):
        self.addCleanup(connections["channels"].close)
        self.addCleanup(async_to_sync(get_channel_layer().close))
        with connect(self.live_server_ws_url) as visitor:
            visitor.send('{"text": "hello"}')
            self.assertEqual(visitor.recv(10), '{"text": "hello"}')
            say("bye")
            self.assertEqual(visitor.recv(10), '{"text": "bye"}')

    test_it_does_so_again = test_the_test_itself_sends_to_a_visitor
"""

SERVED = """\
import multiprocessing

multiprocessing.set_start_method("{method}", force=True)
DATABASES["default"]["TEST"] = {{"NAME": BASE_DIR / "test_db.sqlite3"}}
"""


@pytest.mark.skipif(bool(NO_LIVE_SERVER), reason=NO_LIVE_SERVER)
@pytest.mark.parametrize(
    ("method", "code", "where", "count"),
    [
        ("spawn", LIVE.format(databases=""), "", 1),
        ("fork", LIVE.format(databases=ALL) + AND_FROM_THE_TEST, ON_A_FILE, 3),
        ("forkserver", LIVE.format(databases=ALL) + AND_FROM_THE_TEST, ON_A_FILE, 3),
    ],
    ids=["spawned-without-databases", "forked-on-a-file", "by-a-forkserver-on-a-file"],
)
def test_a_live_server_stays_away_from_the_developers_file(
    passed: Passed, method: str, code: str, where: str, count: int
) -> None:
    """The server of a ChannelsLiveServerTestCase. One that is not forked inherits neither NAME nor
    the test environment. With a file, as the documentation advises for tests with several
    processes, the test and its server reach each other in each test, between which the tables are
    emptied.
    """
    assert passed(code, settings=SERVED.format(method=method) + where) == count


# Other settings


def test_a_mirror_of_the_default_database_is_the_layers_too(passed: Passed) -> None:
    """With TEST's MIRROR both aliases mean one test database, which has the layer's tables. That
    they share a file is no fault to the system checks, which run first.
    """
    file = 'DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}\n'
    mirror = 'DATABASES["channels"]["TEST"] = {"MIRROR": "default"}\n'
    assert passed(TWO_CASES, "--shuffle", settings=file + mirror) == 5


MEMORY = 'CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}\n'


def test_tests_override_another_layer_by_this_one(passed: Passed) -> None:
    assert passed(OVERRIDDEN, settings=MEMORY) == 2
