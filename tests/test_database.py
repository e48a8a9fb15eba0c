"""The database: this process's one way into a file, opened once, and anew when it must be."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pytest_django import Settings

from channels_sqlite import database as module
from channels_sqlite.database import Database
from channels_sqlite.databases import database_for
from channels_sqlite.exceptions import (
    DatabaseUnavailable,
    InvalidOption,
    MessageTooLarge,
    NotMigrated,
)
from tests.parts import parts
from tests.waiting import PATIENCE, soon, until

ENGINE = "django.db.backends.sqlite3"
Open = Callable[..., Database]


@pytest.fixture
async def open_(database: Path) -> AsyncIterator[Open]:
    """Makes databases of files, the test's own unless told otherwise, and closes them."""
    made: list[Database] = []

    def make(name: Path | str = database, **options: Any) -> Database:
        settings = {"ENGINE": ENGINE, "NAME": name, "OPTIONS": options}
        made.append(Database(settings, "channels"))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def one(open_: Open) -> Database:
    return open_()


async def query(database: Database, sql: str) -> list[Any]:
    """What the writing connection answers."""
    return await soon(database.run(lambda raw: raw.execute(sql).fetchall()))


async def count(database: Database) -> int:
    ((found,),) = await query(database, "select count(*) from channels_sqlite_message")
    assert isinstance(found, int)
    return found


def remove(*paths: Path | str) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)


def exists(path: Path | str) -> bool:
    return Path(path).exists()


def write(path: Path, text: str) -> None:
    path.write_text(text)


INSERT = (
    "insert into channels_sqlite_message (inbox, channel, body, created_at, expires_at)"
    " values ('a', 'a', x'80', 0, 0)"
)


# One for each file


def settings_for(name: object, **more: Any) -> dict[str, Any]:
    return {"ENGINE": ENGINE, "NAME": name, **more}


def test_there_is_one_for_each_file(database: Path, tmp_path: Path) -> None:
    """By whatever name, and for whichever alias."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.sqlite3").symlink_to(database)
    first = database_for(settings_for(str(database)), "one")
    assert database_for(settings_for(database), "two") is first
    assert database_for(settings_for(tmp_path / "folder" / ".." / database.name), "one") is first
    assert database_for(settings_for(tmp_path / "link.sqlite3"), "one") is first
    assert database_for(settings_for(f"file:{database}?mode=rw"), "one") is first
    assert database_for(settings_for(tmp_path / "another.sqlite3"), "one") is not first


def test_threads_that_ask_at_once_get_the_same(database: Path) -> None:
    begin, got = threading.Barrier(8), []

    def ask() -> None:
        begin.wait(PATIENCE)
        got.append(database_for(settings_for(database), "channels"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(got) == 8
    assert len(set(map(id, got))) == 1


def test_another_engine_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match=r"'channels'.*'django\.db\.backends\.postgresql'"):
        database_for({"ENGINE": "django.db.backends.postgresql", "NAME": "x"}, "channels")


def test_memory_that_each_connection_would_see_its_own_of_is_refused() -> None:
    with pytest.raises(InvalidOption, match="Give it a file"):
        database_for(settings_for(":memory:"), "channels")


# Opening


async def test_nothing_is_opened_before_the_first_use(one: Database, database: Path) -> None:
    remove(database)
    assert one.reader is None


async def test_many_first_users_share_one_opening(one: Database) -> None:
    """A prototype started 10,000 threads."""
    threads = threading.active_count()
    most = 0

    def note_threads(raw: sqlite3.Connection) -> int:
        nonlocal most
        most = max(most, threading.active_count())
        return id(raw)

    used = await soon(asyncio.gather(*[one.run(note_threads) for _ in range(1000)]))
    assert len(set(used)) == 1
    assert most - threads <= 2


async def test_loops_of_several_threads_share_one_opening(one: Database) -> None:
    async def use() -> int:
        return await one.run(id)

    used = await asyncio.gather(*[asyncio.to_thread(asyncio.run, use()) for _ in range(8)])
    assert len(set(used)) == 1


async def test_a_first_user_who_is_cancelled_does_not_take_the_others_along(one: Database) -> None:
    users = [asyncio.create_task(query(one, "select 1")) for _ in range(3)]
    await asyncio.sleep(0)
    users[0].cancel()
    assert await soon(asyncio.gather(*users[1:])) == [[(1,)], [(1,)]]


@pytest.mark.parametrize(
    "name",
    [
        "with spaces.sqlite3",
        "what?mode=ro.sqlite3",
        "a#b.sqlite3",
        "100%41.sqlite3",
        "Grüße & co.sqlite3",
        "quote's.sqlite3",
    ],
)
async def test_any_file_name_is_taken_literally(open_: Open, database: Path, name: str) -> None:
    named = database.with_name(name)
    os.rename(database, named)
    one = open_(named)
    assert await count(one) == 0
    assert one.path == str(named)
    await one.run(lambda raw: raw.execute(INSERT).fetchall(), ring=True)
    assert exists(one.wal)
    assert [each.name for each in named.parent.glob("*.sqlite3")] == [name]


async def test_a_symbolic_link_is_followed_to_the_wal(
    open_: Open, database: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link.sqlite3"
    link.symlink_to(database)
    one = open_(link)
    await query(one, INSERT)
    assert one.wal == f"{database}-wal"
    assert exists(one.wal)


async def test_a_relative_name_is_that_of_the_working_directory(
    open_: Open, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(database.parent)
    one = open_(database.name)
    assert await count(one) == 0
    assert one.path == str(database)


@pytest.mark.parametrize("name", ["file:{}", "file:{}?mode=rw", "file://{}?cache=private"])
async def test_an_uri_names_a_file(open_: Open, database: Path, name: str) -> None:
    one = open_(name.format(database))
    assert await count(one) == 0
    assert one.wal == f"{database}-wal"


async def test_the_file_is_in_wal_mode_and_the_connection_as_it_should_be(one: Database) -> None:
    assert await query(one, "pragma journal_mode") == [("wal",)]
    assert await query(one, "pragma synchronous") == [(1,)]
    assert await query(one, "pragma journal_size_limit") == [(module.WAL_LIMIT,)]
    assert await query(one, "pragma wal_autocheckpoint") == [(module.WAL_PAGES,)]


async def test_the_projects_init_command_has_the_last_word(open_: Open) -> None:
    one = open_(init_command="PRAGMA synchronous=FULL; PRAGMA cache_size=-1234;")
    assert await query(one, "pragma synchronous") == [(2,)]
    assert await query(one, "pragma cache_size") == [(-1234,)]


async def test_a_wal_that_is_there_is_not_set_again(one: Database, database: Path) -> None:
    """Setting it takes a lock, and would be a source of "database is locked" itself."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("pragma journal_mode = wal").fetchall()
        other.execute("begin immediate")
        assert await query(one, "pragma journal_mode") == [("wal",)]


async def test_memory_is_shared_by_name(open_: Open, database: Path) -> None:
    name = f"file:{uuid4().hex}?mode=memory&cache=shared"
    with closing(sqlite3.connect(name, uri=True)) as memory:
        with closing(sqlite3.connect(database)) as file:
            file.backup(memory)
        one = open_(name)
        assert one.in_memory
        await one.run(lambda raw: raw.execute(INSERT).fetchall(), ring=True)
        assert memory.execute("select count(*) from channels_sqlite_message").fetchall() == [(1,)]
        assert not one.forget_replaced()
        await one.close()


# What cannot be opened


async def test_a_missing_file_says_which_command_makes_it(one: Database, database: Path) -> None:
    remove(database)
    with pytest.raises(NotMigrated) as raised:
        await one.ready()
    assert str(database) in str(raised.value)
    assert "python manage.py migrate --database=channels" in str(raised.value)
    assert not exists(database)


async def test_without_the_app_it_says_that_it_has_to_be_installed(
    one: Database, database: Path, settings: Settings
) -> None:
    """For `migrate` would find nothing to make."""
    remove(database)
    settings.INSTALLED_APPS = ["channels"]
    with pytest.raises(NotMigrated, match=r"Add .channels_sqlite. to INSTALLED_APPS\. Run:"):
        await one.ready()


async def test_an_empty_file_says_which_command_fills_it(one: Database, database: Path) -> None:
    write(database, "")
    with pytest.raises(NotMigrated, match="migrate --database=channels"):
        await one.ready()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("table", "channels_sqlite_membership"),
        ("trigger", "channels_sqlite_message_bump"),
    ],
)
async def test_what_is_missing_in_the_file_is_named(
    one: Database, database: Path, kind: str, name: str
) -> None:
    """Django's schema editor drops triggers when it rebuilds a table."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"drop {kind} {name}")
    with pytest.raises(NotMigrated, match=f"lacks {name}"):
        await one.ready()


async def test_every_first_user_is_told_what_is_wrong(one: Database, database: Path) -> None:
    remove(database)
    results = await soon(asyncio.gather(*[one.run(id) for _ in range(20)], return_exceptions=True))
    assert {type(each) for each in results} == {NotMigrated}


async def test_what_could_not_be_opened_is_tried_again(
    one: Database, database: Path, migrated: Path
) -> None:
    remove(database)
    with pytest.raises(NotMigrated):
        await one.ready()
    shutil.copy(migrated, database)
    assert await count(one) == 0


async def test_a_file_that_is_no_database_is_an_error_of_ours(
    one: Database, database: Path
) -> None:
    write(database, "This is not an SQLite database, is it? " * 100)
    with pytest.raises(DatabaseUnavailable, match=str(database)):
        await one.ready()


async def test_a_broken_init_command_is_an_error_of_ours(open_: Open) -> None:
    with pytest.raises(DatabaseUnavailable, match="nonsense"):
        await open_(init_command="nonsense").ready()
    gc.collect()


# Errors of statements


async def test_sqlites_errors_come_out_translated(one: Database, database: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="no such table") as raised:
        await query(one, "select * from nowhere")
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    with pytest.raises(MessageTooLarge):
        await query(one, "select zeroblob(2147483647)")
    assert await query(one, "select 1") == [(1,)]


async def test_a_lock_is_waited_for_as_long_as_options_say(open_: Open, database: Path) -> None:
    patient, impatient = open_(timeout=PATIENCE), open_(timeout=0.05)
    await count(patient)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(DatabaseUnavailable):
            await query(impatient, INSERT)
        waiting = asyncio.create_task(query(patient, INSERT))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        other.execute("rollback")
    await soon(waiting)
    assert await count(impatient) == 1


async def test_errors_of_the_function_itself_pass_through(one: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await one.run(lambda _: 1 / 0)
    with pytest.raises(ValueError, match="of the function"):
        await one.run(lambda _: int("of the function"))


async def test_a_cancelled_statement_was_run_when_its_caller_is_told(one: Database) -> None:
    await one.ready()
    task = asyncio.create_task(query(one, INSERT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.reader is not None
    assert one.reader.execute("select count(*) from channels_sqlite_message").fetchall() == [(1,)]


# Ringing and nudging


async def test_a_ring_touches_the_wal_after_the_commit(one: Database) -> None:
    """Also when nothing was written: the touch is not SQLite's."""
    await query(one, INSERT)
    os.utime(one.wal, (0, 0))
    await one.run(lambda _: None)
    assert os.stat(one.wal).st_mtime == 0
    await one.run(lambda _: None, ring=True)
    assert os.stat(one.wal).st_mtime > 0


async def test_a_statement_that_failed_does_not_ring(one: Database) -> None:
    await query(one, INSERT)
    os.utime(one.wal, (0, 0))
    with pytest.raises(ZeroDivisionError):
        await one.run(lambda _: 1 / 0, ring=True)
    assert os.stat(one.wal).st_mtime == 0


async def test_a_ring_does_not_open_files(one: Database) -> None:
    """To open a file of the database and close it would drop SQLite's locks."""
    await query(one, INSERT)
    opened: list[str] = []
    armed = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if armed and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(audit)
    await one.run(lambda raw: raw.execute(INSERT).fetchall(), ring=True)
    await one.close()
    armed.clear()  # an audit hook cannot be removed
    assert [each for each in opened if one.path in each] == []


class Ear:
    """A receiver that only listens."""

    def __init__(self) -> None:
        self.heard: list[asyncio.AbstractEventLoop] = []

    def nudge(
        self, here: asyncio.AbstractEventLoop, inboxes: Collection[str] | None = None
    ) -> None:
        self.heard.append(here)


async def test_a_nudge_reaches_every_receiver_of_the_process(one: Database) -> None:
    ears = [Ear(), Ear()]
    one.receivers.update(ears)
    one.nudge()
    assert [ear.heard for ear in ears] == [[asyncio.get_running_loop()]] * 2


async def test_a_receiver_that_is_gone_is_not_kept(one: Database) -> None:
    one.receivers.add(Ear())
    await until(lambda: len(one.receivers) == 0)
    one.nudge()


# The file is lost or replaced


async def test_a_file_that_stays_is_not_replaced(one: Database) -> None:
    assert not one.forget_replaced()
    await query(one, INSERT)
    assert not one.forget_replaced()
    assert one.generation == 0


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use looks whether the file is still there, rather than one in a second."""
    monkeypatch.setattr(module, "CHECK_FILE_EVERY", 0)


async def test_a_replaced_file_is_opened_anew(
    one: Database,
    database: Path,
    migrated: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await query(one, INSERT)
    shutil.copy(migrated, tmp_path / "new.sqlite3")
    os.replace(tmp_path / "new.sqlite3", database)
    assert one.forget_replaced()
    assert one.generation == 1
    assert not one.forget_replaced()
    (said,) = caplog.messages
    assert str(database) in said
    remove(f"{database}-wal", f"{database}-shm")
    assert await count(one) == 0


async def test_a_use_notices_by_itself_that_the_file_was_replaced(
    one: Database,
    database: Path,
    migrated: Path,
    unhurried: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await query(one, INSERT)
    remove(database, f"{database}-wal", f"{database}-shm")
    with pytest.raises(NotMigrated):
        await query(one, INSERT)
    shutil.copy(migrated, database)
    assert await count(one) == 0
    assert one.generation == 1
    assert len(caplog.messages) == 1


async def test_calls_in_flight_are_ended_on_the_old_file(
    one: Database, database: Path, migrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And those that come later are run on the new one."""
    await one.ready()
    go = threading.Event()
    in_flight = asyncio.create_task(one.run(lambda _: go.wait(PATIENCE)))
    await asyncio.sleep(0.01)
    remove(database)
    shutil.copy(migrated, database)
    assert one.forget_replaced()
    later = asyncio.create_task(count(one))
    go.set()
    assert await soon(in_flight)
    assert await soon(later) == 0
    caplog.clear()


# The thread's death


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_calls_behind_a_dead_thread_are_run_by_its_successor(one: Database) -> None:
    """Without any further use of the database: nobody else might come."""
    await one.ready()
    entered, go, ran = threading.Event(), threading.Event(), []

    def hold(_: sqlite3.Connection) -> None:
        entered.set()
        go.wait(PATIENCE)

    def abandon_loop() -> asyncio.Task[None]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(one.run(hold))
        loop.run_until_complete(asyncio.sleep(0))
        assert entered.wait(PATIENCE)
        loop.close()
        return task

    doomed = await asyncio.to_thread(abandon_loop)
    doomed._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
    behind = [asyncio.create_task(one.run(lambda _: ran.append(1))) for _ in range(3)]
    await asyncio.sleep(0.01)
    go.set()
    await soon(asyncio.gather(*behind))
    assert ran == [1, 1, 1]
    assert await query(one, "select 1") == [(1,)]
    del doomed
    gc.collect()  # what nobody could close would be complained of


# Closing


async def test_closing_is_idempotent_and_the_next_use_opens_again(one: Database) -> None:
    await one.close()
    for _ in range(3):
        await query(one, INSERT)
        await one.close()
        await one.close()
        assert one.reader is None
    assert await count(one) == 3


async def test_the_last_one_out_removes_the_wal(one: Database) -> None:
    await query(one, INSERT)
    assert exists(one.wal)
    await one.close()
    assert not exists(one.wal)


async def test_a_use_that_meets_the_closing_is_run_all_the_same(one: Database) -> None:
    """Whichever comes first; by another layer, or another loop."""
    for _ in range(20):
        uses = [asyncio.create_task(query(one, INSERT)) for _ in range(3)]
        closing_ = asyncio.create_task(one.close())
        uses += [asyncio.create_task(query(one, INSERT)) for _ in range(3)]
        await soon(asyncio.gather(closing_, *uses))
    assert await count(one) == 120


async def test_closing_while_it_is_being_opened_leaves_nothing_open(one: Database) -> None:
    before = threading.active_count()
    for _ in range(5):
        opening = one.open()
        await one.close()
        await soon(asyncio.wrap_future(opening))
        await one.close()
    await until(lambda: threading.active_count() <= before)


async def test_what_was_written_and_cannot_be_announced_was_written(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory may not be searched any more, say."""

    def refuse(*_: object) -> None:
        raise PermissionError

    async with parts(database) as made:
        await made.database.ready()
        monkeypatch.setattr(os, "utime", refuse)
        assert await made.database.run(lambda _: "written", ring=True) == "written"
