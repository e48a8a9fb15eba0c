"""Exceptions: how they can be caught, and the words that SQLite's errors get."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import OperationalError

from channels_sqlite import exceptions
from channels_sqlite.exceptions import ChannelsSqliteError, DatabaseUnavailable, MessageTooLarge
from tests.rows import sql
from tests.storing.parts import locked

CAUGHT_AS: dict[str, type[Exception]] = {
    **dict.fromkeys(["InvalidOption", "NotMigrated", "WatcherUnavailable"], ImproperlyConfigured),
    **dict.fromkeys(["ForeignChannel", "MessageTooLarge"], ValueError),
    "DatabaseUnavailable": OperationalError,
    "UndecodableMessage": ChannelsSqliteError,
}


def test_an_error_is_ours_and_what_django_people_catch() -> None:
    """None is a full channel: code that drops a message on that would drop it silently."""
    for name, caught_as in CAUGHT_AS.items():
        error = getattr(exceptions, name)
        assert issubclass(error, ChannelsSqliteError), name
        assert issubclass(error, caught_as), name
        assert not issubclass(error, ChannelFull), name
    assert exceptions.ChannelFull is ChannelFull


def failure(path: Path | str, *statements: str) -> sqlite3.Error:
    """The error that SQLite raises when it runs the statements."""

    def run() -> None:
        with sql(path, timeout=0) as connection:
            for statement in statements:
                connection.execute(statement)

    with pytest.raises(sqlite3.Error) as raised:
        run()
    return raised.value


def translated(error: sqlite3.Error) -> str:
    """The words of the translation, which is a DatabaseUnavailable and keeps SQLite's own words."""
    ours = exceptions.translate(error, "/srv/channels.sqlite3")
    assert type(ours) is DatabaseUnavailable
    assert str(ours).startswith(f"/srv/channels.sqlite3: {error}.")
    return str(ours)


FULL = [
    *("pragma max_page_count = 1", "create table t (x)"),
    "insert into t values (zeroblob(1000000))",
]


@pytest.mark.parametrize(
    ("name", "statements", "words"),
    [
        ("file:{}?mode=ro", ["create table t (x)"], "write access"),
        ("{}/nowhere", ["select 1"], exceptions.this_user()),
        ("{}", FULL, "The disk is full"),
        ("{}.text", ["select * from t"], "move it away"),
        ("{}.damaged", ["select * from channels_sqlite_message"], "damaged"),
        ("{}", ["select * from t"], "no such table: t"),
    ],
)
def test_an_error_of_sqlite_has_a_remedy_or_keeps_its_words(
    database: Path, name: str, statements: list[str], words: str
) -> None:
    Path(f"{database}.text").write_text("This is not an SQLite database, is it? " * 100)
    content = database.read_bytes()
    Path(f"{database}.damaged").write_bytes(content[:200] + bytes(len(content) - 200))
    assert words in translated(failure(name.format(database), *statements))


def test_a_closed_directory_is_named_with_the_user() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/srv/chat/channels.sqlite3")
    words = str(exceptions.translate(error, "/srv/chat/channels.sqlite3"))
    assert f"{exceptions.this_user()} may not use the directory /srv/chat," in words


def test_a_lock_held_for_too_long_points_at_what_may_hold_it(database: Path) -> None:
    """In memory that is this process. An error that Python raises has no result code."""
    with locked(database):
        words = translated(failure(database, "begin immediate"))
    for each in ("OPTIONS['timeout']", "this thread's own transaction", "using=", "GroupSend"):
        assert each in words
    name = "file:locked?mode=memory&cache=shared"
    with sql(name) as other:
        other.execute("create table t (x)")
        other.execute("begin immediate")
        other.execute("insert into t values (1)")
        assert "in this process" in translated(failure(name, "select * from t"))
    assert "database is locked" in translated(sqlite3.OperationalError("database is locked"))


def test_a_message_too_large_is_no_fault_of_the_database(database: Path) -> None:
    too_large = failure(database, "select zeroblob(2147483647)")
    error = exceptions.translate(too_large, "/srv/channels.sqlite3")
    assert type(error) is MessageTooLarge
    assert "/srv/channels.sqlite3" in str(error)
