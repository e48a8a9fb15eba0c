"""SQL is an API: one INSERT sends a message, in any program, in its own transaction."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer
from django.contrib.auth.models import Group
from django.db import IntegrityError, connections, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django import DjangoDbBlocker

from channels_sqlite import serializers
from channels_sqlite._storing import schema
from channels_sqlite.models import ChannelSend, GroupSend
from tests.conftest import OpenLayer
from tests.docs.blocks import blocks
from tests.processes import has_node_sqlite
from tests.rows import select
from tests.storing.tables import join
from tests.waiting import receive, rest, soon, threads

HELLO = {"type": "test.hello", "text": "Grüß “Gott”", "numbers": [1, 2.5, None, True]}


def send(others: sqlite3.Connection, channel: object, message: object = '{"type": "test"}') -> None:
    others.execute(f"insert into {schema.SEND} values (?, ?)", (channel, message))


def group_send(
    others: sqlite3.Connection, group: object, message: object = '{"type": "test"}'
) -> None:
    others.execute(f"insert into {schema.GROUP_SEND} values (?, ?)", (group, message))


def messages(others: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return select(others, f'inbox, channel, "group", body from {schema.MESSAGE} order by id')


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


async def test_a_program_sends_to_channels_and_is_told(layer: Any, program: Program) -> None:
    channels = ["mail", await layer.new_channel()]
    await layer.flush()  # the database is open
    receiving = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    values = ", ".join(f"({quoted(channel)}, {quoted(HELLO)})" for channel in channels)
    await asyncio.to_thread(program, f"insert into channels_sqlite_send values {values}")
    assert await soon(asyncio.gather(*receiving)) == [HELLO, HELLO]
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        program("insert into channels_sqlite_send values ('mail', 'no JSON')")
    assert b"the message must be the text of a JSON object" in refusal.value.stderr


async def test_a_program_sends_to_a_group(open_layer: OpenLayer, program: Program) -> None:
    one, other = open_layer(), open_layer()
    channels = [(one, await one.new_channel()), (other, await other.new_channel())]
    for layer, channel in channels:
        await layer.group_add("chat", channel)
    values = f"(\"group\", message) values ('chat', {quoted(HELLO)})"
    await asyncio.to_thread(program, f"insert into channels_sqlite_group_send {values}")
    for layer, channel in channels:
        assert await soon(layer.receive(channel)) == HELLO


async def test_any_message_of_json_arrives_as_it_is(layer: Any, others: sqlite3.Connection) -> None:
    """Beside those that the layer itself writes."""
    sent = {"": [[], {}, "\u0000 \U0001f600 '; drop table x; --", 2**63 - 1, -0.5, False, None]}
    send(others, "mail", "\n " + json.dumps(sent, indent=2))
    send(others, "mail", json.dumps(sent, ensure_ascii=False))
    await layer.send("mail", {"type": "test.own"})
    assert await soon(layer.receive("mail")) == sent
    assert await soon(layer.receive("mail")) == sent
    assert await soon(layer.receive("mail")) == {"type": "test.own"}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("format_", ["msgpack", "json"])
def test_the_views_send_in_a_file_of_utf16(encoding: str, format_: str) -> None:
    with closing(sqlite3.connect(":memory:")) as others:
        others.execute(f"pragma encoding = '{encoding}'")
        for statement in schema.EVERYTHING.values():
            others.execute(statement)
        join(others, "mail")
        for message in ({}, HELLO):
            send(others, "mail", json.dumps(message, ensure_ascii=False))
            group_send(others, "test-group", json.dumps(message))
        bodies = [row[3] for row in messages(others)]
        serializer = serializers.create(format_)
        assert [serializers.decode(serializer, body) for body in bodies] == [{}, {}, HELLO, HELLO]
        for name in ("bad name", "\u0663", "nul\0", "", "x" * 100):
            assert not accepted(send, others, name)
            assert not accepted(group_send, others, name)


def test_a_trigger_on_the_message_table_sends_through_the_other_view_only(
    others: sqlite3.Connection,
) -> None:
    """SQLite runs no trigger inside itself: the how-to says so."""
    join(others, "mail")
    others.execute(
        f"create trigger forward after insert on {schema.MESSAGE} when new.inbox = 'jobs' begin"
        f""" insert into {schema.SEND} values ('copies', '{{"type": "test"}}');"""
        f""" insert into {schema.GROUP_SEND} values ('test-group', '{{"type": "test"}}'); end"""
    )
    send(others, "jobs")
    assert [row[0] for row in messages(others)] == ["jobs", "mail"]


async def test_an_insert_into_the_table_itself_arrives_as_the_reference_has_it(
    layer: Any, others: sqlite3.Connection
) -> None:
    statements = [block.code for block in blocks("reference/sql.md") if block.language == "sql"]
    (statement,) = (each for each in statements if each.startswith("insert"))
    others.execute(statement)
    assert await soon(layer.receive("reports")) == {"type": "report"}


# The rows


def test_a_message_to_a_channel_is_one_row(others: sqlite3.Connection) -> None:
    send(others, "mail", ' {"a" : 1}')
    send(others, "specific.abc!def", "{}")
    assert messages(others) == [
        ("mail", "mail", None, b'{"a":1}'),
        ("specific.abc!", "specific.abc!def", None, b"{}"),
    ]
    for view in schema.VIEWS:
        assert select(others, f"* from {view}") == []


def test_a_message_to_a_group_is_one_row_for_each_inbox(others: sqlite3.Connection) -> None:
    join(others, "in.a!1", "in.a!2", "in.b!1", "mail", group="chat")
    join(others, "lapsed", group="chat", expires_in=-1)
    join(others, "in.c!1", group="other")
    group_send(others, "chat", "{}")
    assert sorted(messages(others)) == [
        ("in.a!", None, "chat", b"{}"),
        ("in.b!", None, "chat", b"{}"),
        ("mail", None, "chat", b"{}"),
    ]


def test_a_message_expires_after_the_layers_default(others: sqlite3.Connection) -> None:
    join(others, "in!a", group="chat")
    before = time.time()
    send(others, "mail")
    group_send(others, "chat")
    times = select(others, f"created_at, expires_at, delivered_at from {schema.MESSAGE}")
    for created_at, expires_at, delivered_at in times:
        assert before - 0.01 <= created_at <= time.time() + 0.01
        assert expires_at - created_at == pytest.approx(60)
        assert delivered_at is None


def test_many_messages_go_in_one_statement_or_none_of_them(others: sqlite3.Connection) -> None:
    others.execute(
        f"insert into {schema.SEND} with recursive numbers (number) as"
        " (values (1) union all select number + 1 from numbers where number < 3)"
        " select 'mail', json_object('number', number) from numbers"
    )
    assert [body for *_, body in messages(others)] == [
        b'{"number":%d}' % each for each in (1, 2, 3)
    ]
    with pytest.raises(sqlite3.IntegrityError):
        others.execute(f"insert into {schema.SEND} values ('mail', '{{}}'), ('mail', 'no JSON')")
    assert len(messages(others)) == 3


def test_the_sequence_rises_whatever_the_insert_says_of_conflicts(
    others: sqlite3.Connection,
) -> None:
    for expected, conflict in enumerate(["or ignore", "or replace", "or fail", "or ignore"], 1):
        others.execute(f"insert {conflict} into {schema.SEND} values ('mail', '{{}}')")
        assert select(others, f"seq from {schema.SEQUENCE} where inbox = 'mail'") == [expected]


# Refusals


NO_OBJECTS = [
    *("", "hello", "{", '{"a": 1', "{a: 1}", "{'a': 1}", '{"a": NaN}', '{"a": 1} x'),
    *("[]", "1", '"text"', "null", None, 1, b'{"a": 1}', '{"a": 1}\0', '\ufeff{"a": 1}'),
]


def test_what_is_no_json_object_and_a_bad_name_are_refused(others: sqlite3.Connection) -> None:
    join(others, "in!a", group="chat")
    for message in NO_OBJECTS:
        with pytest.raises(sqlite3.IntegrityError, match="_sqlite_send: the message must"):
            send(others, "mail", message)
        with pytest.raises(sqlite3.IntegrityError, match="_group_send: the message must"):
            group_send(others, "chat", message)
    for name in (None, 7, b"mail", "", "a b", "ü", "a\0", "a'--", "a" * 100):
        with pytest.raises(sqlite3.IntegrityError, match="_sqlite_send: a channel name has"):
            send(others, name)
        with pytest.raises(sqlite3.IntegrityError, match="_group_send: a group name"):
            group_send(others, name)
    assert messages(others) == []


@settings(deadline=None)
@given(st.text("aZ09-_.!?\n\0é٣", max_size=5) | st.text("a!", min_size=97, max_size=101))
def test_names_are_judged_as_channels_judges_them(name: str) -> None:
    """Narrower in two respects: ASCII only, and no newline at the end."""
    with closing(sqlite3.connect(":memory:")) as others:
        for statement in schema.EVERYTHING.values():
            others.execute(statement)
        layer = BaseChannelLayer()
        narrower = name.isascii() and not name.endswith("\n")
        valid = accepted(layer.require_valid_channel_name, name) and narrower
        assert accepted(send, others, name) == valid
        assert [row[0] for row in messages(others)] == [layer.non_local_name(name)] * valid
        valid = accepted(layer.require_valid_group_name, name) and narrower
        assert accepted(group_send, others, name) == valid


def accepted(function: Callable[..., object], *arguments: Any) -> bool:
    try:
        function(*arguments)
    except (TypeError, sqlite3.IntegrityError):
        return False
    return True


def test_a_full_channel_refuses_and_misses_a_groups_message(others: sqlite3.Connection) -> None:
    join(others, "in.a!a", "in.b!a", group="chat")
    for number in range(100):
        send(others, f"in.a!{number}")
    with pytest.raises(sqlite3.IntegrityError, match="full, 100 messages wait"):
        send(others, "in.a!x")
    group_send(others, "chat")
    assert [inbox for inbox, _, group, _ in messages(others) if group == "chat"] == ["in.b!"]
    send(others, "in.b!x")
    others.execute(f"update {schema.MESSAGE} set delivered_at = 1 where id = 1")
    send(others, "in.a!x")
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        send(others, "in.a!x")
    others.execute(f"update {schema.MESSAGE} set expires_at = 1 where id = 2")
    send(others, "in.a!x")


async def test_text_that_is_not_utf8_is_skipped(
    layer: Any, others: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite does not mind it, in a shell that has the wrong encoding say."""
    others.execute(
        f"insert into {schema.SEND} select 'mail', cast(? as text)", (b'{"type": "\xff"}',)
    )
    send(others, "mail", '{"type": "next"}')
    assert await soon(layer.receive("mail")) == {"type": "next"}
    assert "skipped" in caplog.text
    caplog.clear()


# Django's ORM: an outbox


@pytest.fixture
def outbox(alias: str, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database that the layer shares with the project's own tables."""
    with django_db_blocker.unblock():
        # The router keeps tables of other apps out of a database that is the layer's own.
        with connections[alias].schema_editor() as editor:
            editor.create_model(Group)
        yield alias
        connections[alias].close()


def write_and_send(alias: str) -> None:
    """As a view does it in its transaction."""
    Group.objects.using(alias).create(name="a row of the project's own")
    ChannelSend.objects.using(alias).create(channel="mail", message=json.dumps(HELLO))
    GroupSend.objects.using(alias).create(group="chat", message=json.dumps(HELLO))


def test_a_message_appears_when_its_transaction_commits_and_never_when_it_is_rolled_back(
    layer: Any, outbox: str
) -> None:
    member = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("chat", member)
    with transaction.atomic(using=outbox):
        write_and_send(outbox)
        transaction.set_rollback(True, using=outbox)
    assert async_to_sync(rest)(layer, "mail") == async_to_sync(rest)(layer, member) == []
    got: list[Any] = []

    async def consume() -> None:
        got.append(await receive(layer, "mail"))
        got.append(await receive(layer, member))

    with threads(lambda: asyncio.run(consume())), transaction.atomic(using=outbox):
        write_and_send(outbox)
        time.sleep(0.3)
        assert got == []
    assert got == [HELLO, HELLO]
    assert Group.objects.using(outbox).count() == 1


def test_the_orm_creates_and_is_told(outbox: str, others: sqlite3.Connection) -> None:
    ChannelSend.objects.using(outbox).create(channel="mail", message=json.dumps(HELLO))
    ChannelSend(channel="mail", message="{}").save(using=outbox)  # Django would try an UPDATE first
    ChannelSend.objects.using(outbox).bulk_create(
        [ChannelSend(channel="mail", message="{}"), ChannelSend(channel="jobs", message="{}")]
    )
    with pytest.raises(IntegrityError, match="JSON object"), transaction.atomic(using=outbox):
        GroupSend.objects.using(outbox).create(group="chat", message="hello")
    assert [channel for _, channel, *_ in messages(others)] == ["mail"] * 3 + ["jobs"]
    assert list(ChannelSend.objects.using(outbox).all()) == []
