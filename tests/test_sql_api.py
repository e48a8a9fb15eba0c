"""SQL is an API: one INSERT sends a message, in any program, in its own transaction."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from django.contrib.auth.models import Group
from django.db import IntegrityError, connections, transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoDbBlocker

from channels_sqlite._storing import schema
from channels_sqlite.models import ChannelSend, GroupSend
from tests.conftest import OpenLayer
from tests.kinds import by_default, by_each_watcher
from tests.processes import has_node_sqlite
from tests.waiting import cancel, soon

HELLO = {"type": "test.hello", "text": "Grüß “Gott”", "numbers": [1, 2.5, None, True]}


@pytest.fixture
def sql(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that knows nothing of the layer."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


def send(sql: sqlite3.Connection, channel: object, message: object = '{"type": "test"}') -> None:
    sql.execute(f"insert into {schema.SEND} (channel, message) values (?, ?)", (channel, message))


def group_send(
    sql: sqlite3.Connection, group: object, message: object = '{"type": "test"}'
) -> None:
    sql.execute(
        f'insert into {schema.GROUP_SEND} ("group", message) values (?, ?)', (group, message)
    )


def join(sql: sqlite3.Connection, group: str, channel: str, expires_in: float = 60) -> None:
    inbox = BaseChannelLayer().non_local_name(channel)
    sql.execute(
        f'insert into {schema.MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)'
        " values (?, ?, ?, ?, 0)",
        (group, inbox, channel, time.time() + expires_in),
    )


def messages(sql: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return sql.execute(
        f'select inbox, channel, "group", body from {schema.MESSAGE} order by id'
    ).fetchall()


# Programs that are not ours

PYTHON = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
NODE = """\
const { DatabaseSync } = require('node:sqlite');
const [path, sql] = process.argv.slice(1);
new DatabaseSync(path, { timeout: 5000 }).exec(sql);
"""

Program = Callable[[str], None]


@pytest.fixture(params=["sqlite3", "python", "node"])
def program(request: pytest.FixtureRequest, database: Path) -> Program:
    """A program that runs SQL on the test's database."""
    command = {
        "sqlite3": ["sqlite3", "-bail", "-cmd", ".timeout 5000"],
        "python": [sys.executable, "-c", PYTHON],
        "node": ["node", "-e", NODE],
    }[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {request.param} here")
    if request.param == "node" and not has_node_sqlite():
        pytest.skip("no node:sqlite here")

    def run(sql: str) -> None:
        subprocess.run([*command, str(database), sql], check=True, capture_output=True, timeout=30)

    return run


def quoted(value: object) -> str:
    """A value as a literal of SQL, as a shell script has to write it."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"


@by_default
@pytest.mark.parametrize("local", [True, False], ids=["process-local", "normal"])
async def test_a_program_sends_to_a_channel(
    open_layer: OpenLayer, program: Program, local: bool
) -> None:
    layer = open_layer()
    channel = await layer.new_channel() if local else "mail"
    await layer.flush()  # the database is open
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.to_thread(
        program, f"insert into channels_sqlite_send values ({quoted(channel)}, {quoted(HELLO)})"
    )
    assert await soon(receiving) == HELLO


@by_default
async def test_a_program_sends_to_a_group(open_layer: OpenLayer, program: Program) -> None:
    one, other = open_layer(), open_layer()
    channels = [(one, await one.new_channel()), (other, await other.new_channel())]
    for layer, channel in channels:
        await layer.group_add("chat", channel)
    await asyncio.to_thread(
        program,
        'insert into channels_sqlite_group_send ("group", message)'
        f" values ('chat', {quoted(HELLO)})",
    )
    for layer, channel in channels:
        assert await soon(layer.receive(channel)) == HELLO


@by_each_watcher
async def test_receivers_wake(open_layer: OpenLayer, sql: sqlite3.Connection) -> None:
    """What SQL has written arrives, and long before the next heartbeat."""
    layer = open_layer()
    delays = []
    for number in range(20):
        receiving = asyncio.create_task(layer.receive("mail"))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        send(sql, "mail", json.dumps({"number": number}))
        assert await soon(receiving) == {"number": number}
        delays.append(time.monotonic() - started)
    assert statistics.median(delays) < 0.3  # heartbeats alone: 0.5


@by_default
@pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
async def test_any_message_of_json_arrives_as_it_is(
    open_layer: OpenLayer, sql: sqlite3.Connection, serializer_format: str
) -> None:
    """Whatever the layer itself writes."""
    layer = open_layer(serializer_format=serializer_format)
    sent = {"": [[], {}, "\u0000 \U0001f600 '; drop table x; --", 2**63 - 1, -0.5, False, None]}
    send(sql, "mail", "\n " + json.dumps(sent, indent=2))
    send(sql, "mail", json.dumps(sent, ensure_ascii=False))
    await layer.send("mail", {"type": "test.own"})
    assert await soon(layer.receive("mail")) == sent
    assert await soon(layer.receive("mail")) == sent
    assert await soon(layer.receive("mail")) == {"type": "test.own"}


# What is written


def test_a_message_to_a_channel_is_one_row(sql: sqlite3.Connection) -> None:
    send(sql, "mail", ' {"a" : 1}')
    send(sql, "specific.abc!def", "{}")
    assert messages(sql) == [
        ("mail", "mail", None, b'{"a":1}'),
        ("specific.abc!", "specific.abc!def", None, b"{}"),
    ]


def test_a_message_to_a_group_is_one_row_for_each_inbox(sql: sqlite3.Connection) -> None:
    for channel in ("in.a!1", "in.a!2", "in.b!1", "mail"):
        join(sql, "chat", channel)
    join(sql, "chat", "lapsed", expires_in=-1)
    join(sql, "other", "in.c!1")
    group_send(sql, "chat", "{}")
    assert sorted(messages(sql)) == [
        ("in.a!", None, "chat", b"{}"),
        ("in.b!", None, "chat", b"{}"),
        ("mail", None, "chat", b"{}"),
    ]


def test_a_message_expires_after_the_layers_default(sql: sqlite3.Connection) -> None:
    join(sql, "chat", "in!a")
    before = time.time()
    send(sql, "mail")
    group_send(sql, "chat")
    times = sql.execute(
        f"select created_at, expires_at, delivered_at from {schema.MESSAGE}"
    ).fetchall()
    for created_at, expires_at, delivered_at in times:
        assert before - 0.01 <= created_at <= time.time() + 0.01
        assert expires_at - created_at == pytest.approx(60)
        assert delivered_at is None


def test_many_messages_go_in_one_statement(sql: sqlite3.Connection) -> None:
    sql.execute(
        f"insert into {schema.SEND} with recursive numbers (number) as"
        " (values (1) union all select number + 1 from numbers where number < 3)"
        " select 'mail', json_object('number', number) from numbers"
    )
    assert [body for *_, body in messages(sql)] == [b'{"number":%d}' % each for each in (1, 2, 3)]


@pytest.mark.parametrize("conflict", ["or ignore", "or replace", "or fail"])
def test_the_sequence_rises_whatever_the_insert_says_of_conflicts(
    sql: sqlite3.Connection, conflict: str
) -> None:
    for expected in (1, 2):
        sql.execute(f"insert {conflict} into {schema.SEND} values ('mail', '{{}}')")
        sequence = sql.execute(f"select seq from {schema.SEQUENCE} where inbox = 'mail'")
        assert sequence.fetchall() == [(expected,)]


def test_there_is_nothing_to_select(sql: sqlite3.Connection) -> None:
    send(sql, "mail")
    for view in schema.VIEWS:
        assert sql.execute(f"select * from {view}").fetchall() == []


# What is refused


@pytest.mark.parametrize(
    "message",
    [
        *("", "hello", "{", '{"a": 1', "{a: 1}", "{'a': 1}", '{"a": NaN}', '{"a": 1} x'),
        *("[]", "1", '"text"', "null", None, 1, b'{"a": 1}', '{"a": 1}\0', '\ufeff{"a": 1}'),
    ],
    ids=repr,
)
def test_what_is_no_json_object_is_refused(sql: sqlite3.Connection, message: object) -> None:
    join(sql, "chat", "in!a")
    with pytest.raises(sqlite3.IntegrityError, match="_sqlite_send: the message must"):
        send(sql, "mail", message)
    with pytest.raises(sqlite3.IntegrityError, match="_group_send: the message must"):
        group_send(sql, "chat", message)
    assert messages(sql) == []


@pytest.mark.parametrize("name", [None, 7, b"mail", "", "a b", "ü", "a\0", "a'--", "a" * 100])
def test_a_bad_name_is_refused(sql: sqlite3.Connection, name: object) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="channels_sqlite_send: a channel name has"):
        send(sql, name)
    with pytest.raises(sqlite3.IntegrityError, match="channels_sqlite_group_send: a group name"):
        group_send(sql, name)


@given(st.text("aZ09-_.!?\n\0é٣", max_size=5) | st.text("a!", min_size=97, max_size=101))
def test_names_are_judged_as_channels_judges_them(name: str) -> None:
    """Narrower in two respects: ASCII only, and no newline at the end."""
    with closing(sqlite3.connect(":memory:")) as sql:
        for statement in schema.EVERYTHING:
            sql.execute(statement)
        layer = BaseChannelLayer()
        narrower = name.isascii() and not name.endswith("\n")
        valid = accepted(layer.require_valid_channel_name, name, TypeError)
        assert accepted(lambda name: send(sql, name), name, sqlite3.IntegrityError) == (
            valid and narrower
        )
        if valid and narrower:
            assert messages(sql)[-1][0] == layer.non_local_name(name)
        valid = accepted(layer.require_valid_group_name, name, TypeError)
        assert accepted(lambda name: group_send(sql, name), name, sqlite3.IntegrityError) == (
            valid and narrower
        )


def accepted(function: Callable[[str], object], name: str, error: type[Exception]) -> bool:
    try:
        function(name)
    except error:
        return False
    return True


def test_a_full_channel_refuses(sql: sqlite3.Connection) -> None:
    for number in range(100):
        send(sql, f"in.a!{number}")
    with pytest.raises(sqlite3.IntegrityError, match="full, 100 messages wait"):
        send(sql, "in.a!x")
    send(sql, "in.b!x")
    sql.execute(f"update {schema.MESSAGE} set delivered_at = 1 where id = 1")
    send(sql, "in.a!x")
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        send(sql, "in.a!x")
    sql.execute(f"update {schema.MESSAGE} set expires_at = 1 where id = 2")
    send(sql, "in.a!x")


def test_a_full_inbox_misses_the_groups_message(sql: sqlite3.Connection) -> None:
    join(sql, "chat", "in.full!a")
    join(sql, "chat", "in.free!a")
    for _ in range(100):
        send(sql, "in.full!a")
    group_send(sql, "chat")
    assert [inbox for inbox, _, group, _ in messages(sql) if group == "chat"] == ["in.free!"]


def test_a_statement_is_refused_as_a_whole(sql: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        sql.execute(f"insert into {schema.SEND} values ('mail', '{{}}'), ('mail', 'no JSON')")
    assert messages(sql) == []


def test_a_program_is_told(program: Program, sql: sqlite3.Connection) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        program("insert into channels_sqlite_send values ('mail', 'no JSON')")
    assert b"the message must be the text of a JSON object" in refusal.value.stderr
    assert messages(sql) == []


@by_default
async def test_text_that_is_not_utf8_is_skipped(
    open_layer: OpenLayer, sql: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite does not mind it, in a shell that has the wrong encoding say."""
    layer = open_layer()
    sql.execute(f"insert into {schema.SEND} select 'mail', cast(? as text)", (b'{"type": "\xff"}',))
    send(sql, "mail", '{"type": "next"}')
    assert await soon(layer.receive("mail")) == {"type": "next"}
    assert "skipped" in caplog.text
    caplog.clear()


# Django's ORM: an outbox


class Writer:
    """A thread with a transaction of Django's: it creates a row, sends, and waits for the end."""

    def __init__(self, alias: str, *sends: ChannelSend | GroupSend) -> None:
        self._alias = alias
        self._sends = sends
        self._sent = threading.Event()
        self._told = threading.Event()
        self._commit = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._sent.wait(10)

    def end(self, *, commit: bool) -> None:
        self._commit = commit
        self._told.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            with transaction.atomic(using=self._alias):
                Group.objects.using(self._alias).create(name="a row of the project's own")
                for each in self._sends:
                    each.save(using=self._alias, force_insert=True)
                self._sent.set()
                assert self._told.wait(10)
                transaction.set_rollback(not self._commit, using=self._alias)
        finally:
            self._sent.set()
            connections[self._alias].close()


@pytest.fixture
def outbox(alias: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database that the layer shares with the project's own tables."""
    with django_db_blocker.unblock():
        # The router keeps tables of other apps out of a database that is the layer's own.
        with connections[alias].schema_editor() as editor:
            editor.create_model(Group)
        connections[alias].close()
        yield alias


def rows(alias: str) -> int:
    try:
        return len(Group.objects.using(alias).all())
    finally:
        connections[alias].close()


@by_default
async def test_a_message_appears_when_its_transaction_commits(
    open_layer: OpenLayer, outbox: str
) -> None:
    layer = open_layer()
    member = await layer.new_channel()
    await layer.group_add("chat", member)
    direct = asyncio.create_task(layer.receive("mail"))
    grouped = asyncio.create_task(layer.receive(member))
    writer = await asyncio.to_thread(
        Writer,
        outbox,
        ChannelSend(channel="mail", message=json.dumps(HELLO)),
        GroupSend(group="chat", message=json.dumps(HELLO)),
    )
    await asyncio.sleep(0.3)
    assert not direct.done()
    assert not grouped.done()
    await asyncio.to_thread(writer.end, commit=True)
    assert await soon(direct) == HELLO
    assert await soon(grouped) == HELLO
    assert await asyncio.to_thread(rows, outbox) == 1


@by_default
async def test_a_message_never_appears_when_its_transaction_is_rolled_back(
    open_layer: OpenLayer, outbox: str, sql: sqlite3.Connection
) -> None:
    layer = open_layer()
    await layer.flush()  # the database is open
    receiving = asyncio.create_task(layer.receive("mail"))
    writer = await asyncio.to_thread(Writer, outbox, ChannelSend(channel="mail", message="{}"))
    await asyncio.to_thread(writer.end, commit=False)
    await asyncio.sleep(1.2)  # beyond a heartbeat
    assert not receiving.done()
    await cancel(receiving)
    assert messages(sql) == []
    assert await asyncio.to_thread(rows, outbox) == 0


def test_the_orm_creates_and_is_told(outbox: str, sql: sqlite3.Connection) -> None:
    ChannelSend.objects.using(outbox).create(channel="mail", message=json.dumps(HELLO))
    ChannelSend.objects.using(outbox).bulk_create(
        [ChannelSend(channel="mail", message="{}"), ChannelSend(channel="jobs", message="{}")]
    )
    with pytest.raises(IntegrityError, match="JSON object"), transaction.atomic(using=outbox):
        GroupSend.objects.using(outbox).create(group="chat", message="hello")
    assert [channel for _, channel, *_ in messages(sql)] == ["mail", "mail", "jobs"]
    assert list(ChannelSend.objects.using(outbox).all()) == []
