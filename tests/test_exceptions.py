"""Exceptions: what can be caught, and what SQLite's errors become."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import DatabaseError, OperationalError

from channels_sqlite import exceptions
from channels_sqlite.exceptions import ChannelsSqliteError, DatabaseUnavailable, MessageTooLarge


@pytest.mark.parametrize(
    ("name", "caught_as"),
    [
        ("InvalidOption", ImproperlyConfigured),
        ("NotMigrated", ImproperlyConfigured),
        ("WatcherUnavailable", ImproperlyConfigured),
        ("ForeignChannel", ValueError),
        ("DatabaseUnavailable", OperationalError),
        ("DatabaseUnavailable", DatabaseError),
        ("MessageTooLarge", ValueError),
        ("UndecodableMessage", ChannelsSqliteError),
    ],
)
def test_an_error_is_ours_and_what_django_people_catch(
    name: str, caught_as: type[Exception]
) -> None:
    error = getattr(exceptions, name)
    assert issubclass(error, ChannelsSqliteError)
    assert issubclass(error, caught_as)


def test_channel_full_is_channels_own() -> None:
    assert exceptions.ChannelFull is ChannelFull


def test_a_database_that_does_not_answer_is_no_full_channel() -> None:
    """Code that drops a message on a full channel would drop it silently."""
    assert not issubclass(DatabaseUnavailable, ChannelFull)
    assert not issubclass(MessageTooLarge, ChannelFull)


# Real errors of SQLite


def failure(path: Path | str, *statements: str, uri: bool = False) -> sqlite3.Error:
    """What SQLite raises when it runs the statements."""

    def run() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0, uri=uri)) as connection:
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


def test_a_lock_held_for_too_long_points_at_the_timeout(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("begin immediate")
        assert "OPTIONS['timeout']" in translated(failure(database, "begin immediate"))


def test_a_lock_in_memory_points_at_this_process() -> None:
    name = "file:locked?mode=memory&cache=shared"
    with closing(sqlite3.connect(name, uri=True, isolation_level=None)) as other:
        other.execute("create table t (x)")
        other.execute("begin immediate")
        other.execute("insert into t values (1)")
        assert "in this process" in translated(failure(name, "select * from t", uri=True))


def test_a_read_only_database_points_at_the_rights(database: Path) -> None:
    name = f"file:{database}?mode=ro"
    assert "write access" in translated(failure(name, "create table t (x)", uri=True))


def test_a_file_that_cannot_be_opened_points_at_the_user(tmp_path: Path) -> None:
    assert exceptions.this_user() in translated(failure(tmp_path / "nowhere" / "file.sqlite3"))


def test_a_full_disk_is_called_full(database: Path) -> None:
    error = failure(
        database,
        "pragma max_page_count = 1",
        "create table t (x)",
        "insert into t values (zeroblob(1000000))",
    )
    assert "The disk is full" in translated(error)


def test_a_file_that_is_no_database_is_to_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is not an SQLite database, is it? " * 100)
    assert "move it away" in translated(failure(tmp_path / "text", "select * from t"))


def test_a_damaged_file_is_to_be_moved_away(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[200:] = b"\x00" * (len(content) - 200)
    database.write_bytes(content)
    error = failure(database, "select * from channels_sqlite_message")
    assert "damaged" in translated(error)


def test_an_error_without_a_known_remedy_keeps_sqlites_words(database: Path) -> None:
    assert "no such table: t" in translated(failure(database, "select * from t"))


def test_an_error_without_a_result_code_keeps_its_words() -> None:
    """Python raises such ones itself."""
    assert "database is locked" in translated(sqlite3.OperationalError("database is locked"))


def test_a_message_too_large_is_no_fault_of_the_database(database: Path) -> None:
    error = exceptions.translate(
        failure(database, "select zeroblob(2147483647)"), "/srv/channels.sqlite3"
    )
    assert type(error) is MessageTooLarge
    assert "/srv/channels.sqlite3" in str(error)
