"""Files that are replaced, deleted, moved, restored, flushed, mounted and shared under processes
that use them.

Three processes, each with another watcher, send each other numbered messages all the time.
Whatever is done to the file, none of them gets a message twice, the file is whole, and they hear
each other again by themselves; messages are lost only around the change.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import Start
from tests.faults.peers import Peer, Refused, stop
from tests.faults.replaced_children import GROUP, REFUSALS
from tests.processes import (
    PATIENCE,
    Child,
    has_namespaces,  # noqa: F401 - for skipif
    in_namespace,
    succeeds,
)
from tests.rows import message, sql
from tests.waiting import cancel, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted here")

CHILDREN = "tests.faults.replaced_children"
WATCHERS = ("auto", "watchfiles", "polling")
NOTICED = 1.5  # seconds in which each process has a heartbeat, and time to open the file again
SECONDS = float(os.environ.get("FAULTS_REPLACE_SECONDS", "3"))  # for two replacements
AROUND = 0.5  # seconds after the first answers in which messages may be lost
LINES = 3  # that a process may log for one change: what is gone, what fails meanwhile

Sent = tuple[str, str, int]
"""A message: from whom, to whom or to which channel, and its number."""


class Record(NamedTuple):
    """The notes of all talkers."""

    sent: set[Sent]
    got: list[Sent]
    delays: list[float]
    refused: dict[str, dict[str, str]]
    """By the name of the talker and that of the error: the latest error's words."""
    logged: dict[str, list[str]]
    """By the name of the talker: the log's name, the words, and the error that they are about."""


class Talkers:
    """Processes that know each other's channels; each bears the name of its watcher."""

    def __init__(self, children: dict[str, Child], database: Path) -> None:
        self.children = children
        self.database = database
        self.channels = {name: child.hear() for name, child in children.items()}

    def order(self, *order: Any, to: str | None = None) -> Record:
        """Have one talker, or all, do something; what they have noted by then."""
        names = [to] if to else list(self.children)
        for name in names:
            self.children[name].tell(order)
        said = {name: self.children[name].hear() for name in names}
        return Record(
            {(name, *sent) for name, each in said.items() for sent in each["sent"]},
            [(*got,) for each in said.values() for got in each["got"]],
            [delay for each in said.values() for delay in each["delays"]],
            {name: each["refused"] for name, each in said.items()},
            {name: each["logged"] for name, each in said.items()},
        )

    def record(self) -> Record:
        """The notes of all so far."""
        return self.order("report")

    def talk(self) -> None:
        """Send to each other from now on, and to a normal channel on which all receive.

        As in a file that has been in use for a while, most stands in the file, unread messages
        among it, and only the latest in the log.
        """
        self.order("send", {"kept": "kept"}, 100)
        for name in self.children:
            peers = {each: channel for each, channel in self.channels.items() if each != name}
            self.order("talk", {**peers, "anyone": "anyone"}, to=name)
        before = self.record().sent
        self.wait_until_all_have_sent(before)
        self.wait_for(self.record().sent - before - self.kept())
        query(self.database, "pragma wal_checkpoint")

    def kept(self) -> set[Sent]:
        """The messages that were sent to a normal channel on which nobody receives."""
        return {each for each in self.record().sent if each[1] == "kept"}

    def hush(self) -> None:
        """Stop sending."""
        self.order("talk", {})

    def wait(self, missing: Callable[[Record], set[Any]]) -> None:
        """Wait until nothing is missing in what all have noted."""
        deadline = time.monotonic() + PATIENCE
        while left := missing(self.record()):
            assert time.monotonic() < deadline, f"{len(left)} are missing: {sorted(left)}"
            time.sleep(0.1)  # each record is of all messages so far

    def wait_until_all_have_sent(self, before: set[Sent]) -> None:
        """Wait until each has had a message accepted for each, beside those of `before`."""
        pairs = {(name, to) for name in self.children for to in (*self.children, "anyone")}
        pairs -= {(name, name) for name in self.children}
        self.wait(lambda record: pairs - {each[:2] for each in record.sent - before})

    def wait_for(self, sent: set[Sent]) -> None:
        """Wait until all these messages have come."""
        self.wait(lambda record: sent.difference(record.got))

    def answer(self, *, group: bool = False) -> None:
        """Each answers this process, which has just opened the file, as it is now."""
        with databases.alias_for(self.database) as alias:
            silent = asyncio.run(ask(SqliteChannelLayer(database=alias), self.channels, group))
        assert silent == set(), self.record().logged

    def recover(self) -> None:
        """They answer a newcomer and hear each other; nothing that is sent from then on is lost."""
        self.answer()
        time.sleep(AROUND)
        before = self.record().sent
        self.wait_until_all_have_sent(before)
        self.hush()
        self.wait_for(self.record().sent - before)

    def end(self, changes: int = 1, *, forgets_claims: bool = False) -> None:
        """End them; nobody got anything twice, the file is whole, no log is flooded.

        A copy, and a file whose log was deleted, may hold a message of a normal channel without
        its claim, which then is made again.
        """
        record = self.record()
        for child in self.children.values():
            child.tell(None)
            child.finish()
        twice = {each: count for each, count in Counter(record.got).items() if count > 1}
        if forgets_claims:
            twice = {each: count for each, count in twice.items() if each[1] != "anyone"}
        assert twice == {}, f"{len(twice)} of {len(record.got)} came twice"
        check_whole(self.database)
        for words in record.logged.values():
            assert len(words) <= LINES * changes, words
            assert all(line.startswith("channels_sqlite: ") for line in words), words
            assert not any("polling every" in line.lower() for line in words), words


async def ask(layer: SqliteChannelLayer, channels: dict[str, str], group: bool) -> set[str]:
    """Ask the talkers, each by its channel or all by their group, until they have answered; the
    names of those that do not.
    """
    question = {"type": "test", "reply_to": await layer.new_channel()}
    silent = {*channels}

    async def ask_again() -> None:
        while True:
            with suppress(*REFUSALS):
                if group:
                    await layer.group_send(GROUP, question)
                for name in set() if group else {*silent}:
                    await layer.send(channels[name], question)
            await asyncio.sleep(0.2)

    async def listen() -> None:
        while silent:
            silent.discard((await layer.receive(question["reply_to"]))["name"])

    asking = asyncio.create_task(ask_again())
    with suppress(TimeoutError):
        await asyncio.wait_for(listen(), PATIENCE)
    await cancel(asking)
    await layer.close()
    return silent


def query(database: Path, statement: str) -> list[Any]:
    """The rows that a program gets which knows nothing of the layer."""
    with sql(database, timeout=10) as connection:
        return connection.execute(statement).fetchall()


def check_whole(database: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    assert query(database, "pragma integrity_check(1)") == [("ok",)]


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """The test's own database file, in a directory that holds nothing else."""
    (tmp_path / "folder").mkdir()
    return Path(shutil.copy(migrated, tmp_path / "folder" / "channels.sqlite3"))


@pytest.fixture
def fresh(migrated: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes one more file as `migrate` leaves it, elsewhere in the same file system."""
    return lambda: Path(shutil.copy(migrated, tempfile.mkdtemp(dir=tmp_path)))


Meet = Callable[..., Talkers]
"""Starts talkers on the test's database, with these watchers."""


@pytest.fixture
def meet(start: Start, database: Path) -> Meet:
    def meet_(*watchers: str) -> Talkers:
        return Talkers({name: talker(start, name) for name in watchers or WATCHERS}, database)

    return meet_


def talker(start: Start, watcher: str, **where: Any) -> Child:
    return start(f"{CHILDREN}.talker", name=watcher, watcher=watcher, **where)


# Replaced and deleted


def moved_there(database: Path, fresh: Callable[[], Path]) -> None:
    """Twice, as deployments do it; log and index stay where they are."""
    for _ in range(2):
        os.replace(fresh(), database)
        time.sleep(SECONDS / 2)


def moved_there_after_the_bells(database: Path, fresh: Callable[[], Path]) -> None:
    """The layer notes again what it had noted there: which log belongs to which file."""
    shutil.rmtree(f"{database}-bells")
    time.sleep(NOTICED)
    os.replace(fresh(), database)


def pointed_to(database: Path, fresh: Callable[[], Path]) -> None:
    """By a symbolic link, which then is pointed elsewhere."""
    for _ in range(2):
        (link := database.with_name("link")).symlink_to(fresh())
        os.replace(link, database)


def test_another_file_takes_the_databases_place(
    meet: Meet, database: Path, fresh: Callable[[], Path]
) -> None:
    """A newcomer is the first to open the new one, before the others have noticed, while their log
    and index stand beside it and they write there.
    """
    talkers = meet()
    for change in (moved_there, moved_there_after_the_bells, pointed_to):
        talkers.talk()
        change(database, fresh)
        talkers.recover()
        check_whole(database)
    talkers.end(changes=6)


DELETED: dict[str, tuple[str, bool]] = {  # what is deleted beside it, and if it is migrated
    "rm and mv": ("", False),
    "rm and migrate": ("", True),
    "rm with the log and migrate": ("-wal", True),
    "rm -rf and migrate": ("?*", True),
}


@pytest.mark.parametrize(("beside", "migrates"), DELETED.values(), ids=DELETED)
def test_the_file_is_deleted_and_another_comes_later(
    meet: Meet, database: Path, fresh: Callable[[], Path], beside: str, migrates: bool
) -> None:
    """Alone, with its log, or with all that bears its name. Meanwhile senders are told to migrate,
    and nobody makes a file of that name. The index of its log may stay in use.
    """
    talkers = meet()
    talkers.talk()
    os.unlink(database)
    for path in database.parent.glob(database.name + beside):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    talkers.wait(
        lambda record: {name for name, each in record.refused.items() if "NotMigrated" not in each}
    )
    assert not database.exists()
    for refused in talkers.record().refused.values():
        assert "migrate --database" in refused["NotMigrated"]
    if migrates:
        databases.migrate(database)
    else:
        os.replace(fresh(), database)
    talkers.recover()
    talkers.end(changes=2)


def test_the_log_is_deleted(meet: Meet, database: Path) -> None:
    """And then it and its index. SQLite would go on in two worlds, or with I/O errors."""
    talkers = meet()
    for ends in (["-wal"], ["-wal", "-shm"]):
        talkers.talk()
        for end in ends:
            os.unlink(f"{database}{end}")
        time.sleep(NOTICED)
        talkers.recover()
    talkers.end(changes=2, forgets_claims=True)


def try_to_send(start: Start, **where: Any) -> str:
    """Send by a process that opens the file, and closes it; words of an error, or ""."""
    peer, words = Peer(start, **where), ""
    try:
        peer.send("test-channel", message(1))
    except Refused as error:
        words = str(error)
    peer.close()
    peer.finish()
    return words


def check_shared(start: Start, database: Path, foreign: sqlite3.Connection) -> None:
    """Another process and a program that has the file open write both into one log."""
    assert try_to_send(start) == ""
    foreign.execute("insert into users values ('Ann')")
    assert foreign.execute("select count(*) from channels_sqlite_message").fetchall() == [(1,)]
    assert query(database, "select * from users") == [("Ann",)]
    check_whole(database)


def test_a_copy_of_the_directory_of_a_killed_process_has_all_of_its_log(
    start: Start, database: Path
) -> None:
    """With its links, as `cp -a`, tar and snapshots make one: all files are other ones by then."""
    peer = Peer(start)
    for number in range(50):
        peer.send("test-channel", message(number))
    peer.child.kill()
    copy = database.parent.with_name("copy")
    subprocess.run(["cp", "-a", database.parent, copy], check=True)
    shutil.rmtree(database.parent)
    copy.rename(database.parent)
    assert try_to_send(start) == ""
    assert query(database, "select count(*) from channels_sqlite_message") == [(51,)]
    check_whole(database)


def test_a_new_log_that_has_the_inode_of_an_old_one_is_left_alone(
    start: Start, database: Path, fresh: Callable[[], Path]
) -> None:
    """A program that knows nothing of the layer is the first to open the new file."""
    log, held = Path(f"{database}-wal"), database.with_name("held")
    log.touch()  # SQLite takes it
    os.link(log, held)
    assert try_to_send(start) == ""
    assert not log.exists()
    os.replace(fresh(), database)
    os.truncate(held, 0)
    os.rename(held, log)  # as the file system may give a new log the number of an old one
    with sql(database) as foreign:
        foreign.execute("create table users (name)")
        check_shared(start, database, foreign)


def test_a_log_that_a_foreign_program_makes_for_the_new_file_is_left_alone(
    start: Start, database: Path, fresh: Callable[[], Path]
) -> None:
    """Also where one has closed the old file as the last."""
    with sql(database) as foreign:
        foreign.execute("create table users (name)")
        assert try_to_send(start) == ""
    os.replace(fresh(), database)
    with sql(database) as foreign:
        foreign.execute("create table users (name)")
        kept = os.stat(f"{database}-bells/.log")
        assert not os.path.samestat(kept, os.stat(f"{database}-wal"))
        check_shared(start, database, foreign)


# Moved


def test_the_database_is_moved_away_and_back(meet: Meet, database: Path) -> None:
    """The file, and then its directory, as a volume that is unmounted for a while: nothing of what
    was accepted before is lost, read or not, and groups have their members.
    """
    talkers = meet()
    talkers.talk()
    talkers.hush()
    before = talkers.record().sent
    assert len(talkers.kept()) == 300
    away = database.parent.with_name("away")
    for moved in (database, database.parent):
        os.rename(moved, away)
        time.sleep(NOTICED)
        os.rename(away, moved)
        talkers.answer(group=True)
    talkers.order("listen", "kept", to="auto")
    talkers.wait_for(before)
    talkers.talk()
    talkers.recover()
    talkers.end(changes=4)


def put_back(database: Path, fresh: Callable[[], Path]) -> None:
    """Another file has its place for a while."""
    kept = database.with_name("kept")
    os.rename(database, kept)
    os.rename(fresh(), database)
    time.sleep(NOTICED)
    os.replace(kept, database)


def brought_back_and_its_log_deleted(database: Path, fresh: Callable[[], Path]) -> None:
    """Its log is that of before, until then."""
    away = database.with_name("away")
    os.rename(database, away)
    time.sleep(NOTICED)
    os.rename(away, database)
    time.sleep(NOTICED)
    os.unlink(f"{database}-wal")


@pytest.mark.parametrize("change", [put_back, brought_back_and_its_log_deleted])
def test_a_database_comes_back_without_its_log(
    start: Start, database: Path, fresh: Callable[[], Path], change: Callable[..., None]
) -> None:
    """Before Python 3.12 a process has to keep the old log, and says so; another one does not."""
    peer = Peer(start)
    channel = peer.new_channel()
    peer.send(channel, message(1))
    peer.consume(channel)
    assert peer.heard(channel, 1) == [1]
    change(database, fresh)
    time.sleep(NOTICED)
    if sys.version_info < (3, 12):
        with pytest.raises(Refused, match=r"put back.*This process still has the old log.*restart"):
            peer.send(channel, message(2))
        peer = Peer(start)
        channel = peer.new_channel()
        peer.consume(channel)
    peer.send(channel, message(2))
    assert peer.heard(channel, 2) == [2]
    check_whole(database)


def test_the_directory_is_another_one(
    meet: Meet, database: Path, fresh: Callable[[], Path]
) -> None:
    """Renamed, with another made in its place: they talk in the new one, and are woken by its
    events as they were by those of the old one. Heartbeats would take a hundred times as long.
    """
    talkers = meet("polling", "auto", "watchfiles")
    speaker, *listeners = talkers.children
    talkers.order("talk", {each: talkers.channels[each] for each in listeners}, to=speaker)
    before = [median_delay(talkers, each) for each in listeners]
    os.rename(database.parent, database.parent.with_name("old"))
    os.rename(fresh().parent, database.parent)
    talkers.answer()
    time.sleep(NOTICED)
    after = [median_delay(talkers, each) for each in listeners]
    assert all(late < max(5 * early, 0.1) for early, late in zip(before, after, strict=True)), (
        f"{before} seconds before, {after} after"
    )
    talkers.end()


def median_delay(talkers: Talkers, name: str) -> float:
    """Of the next ten messages that come to one of them, in seconds."""
    earlier = len(talkers.order("report", to=name).delays)
    wait_until(lambda: len(talkers.order("report", to=name).delays) >= earlier + 10, PATIENCE)
    return statistics.median(talkers.order("report", to=name).delays[earlier:])


def test_an_older_copy_is_restored_into_the_file(
    meet: Meet, database: Path, tmp_path: Path
) -> None:
    """With sqlite3's backup, which writes into the file: numbers of rows are used again, and what
    had been read is unread again.
    """
    talkers = meet()
    talkers.talk()
    copy = tmp_path / "copy.sqlite3"
    backup(database, copy)
    talkers.hush()
    sent = talkers.order("send", {"auto": talkers.channels["auto"]}, 500, to="polling").sent
    talkers.wait_for(sent - talkers.kept())
    backup(copy, database)
    talkers.answer()
    talkers.talk()
    talkers.recover()
    talkers.end(forgets_claims=True)


def backup(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def test_django_flushes_the_database(meet: Meet, database: Path) -> None:
    """Numbers of rows begin anew: all that is sent afterwards arrives, on a process-local and on a
    normal channel, and nothing twice. Fewer than before, and more, for a stopped reader.
    """
    talkers = meet("auto", "polling")
    reader = talkers.children["auto"]
    addresses = {"auto": talkers.channels["auto"], "kept": "kept"}
    talkers.order("listen", "kept", to="auto")
    for count in (5, 200):
        before = talkers.order("send", addresses, 10, to="polling").sent
        talkers.wait_for(before)
        if count == 200:
            stop(reader, database)
        databases.manage(database, "flush", "--database=channels", "--no-input")
        after = talkers.order("send", addresses, count, to="polling").sent - before
        assert len(after) == 2 * count
        reader.signal(signal.SIGCONT)
        talkers.wait_for(after)
    talkers.end()


@pytest.mark.skipif("not has_namespaces()", reason="no user namespaces here")
def test_the_file_is_a_mount_point_by_itself(start: Start, database: Path) -> None:
    """As with a container's `-v file:file`: its log would be another in each; told to mount the
    directory.
    """
    words = try_to_send(start, by=in_namespace(f"mount --bind {database} {database}"))
    assert words.startswith("InvalidOption: ")
    assert str(database) in words
    assert "mount" in words.lower()
    assert "directory" in words


# Shared by users


OWNER, OTHER = 61001, 61002  # users, each with a group of the same number


def as_user(uid: int, gid: int | None = None, umask: int = 0o022) -> Sequence[str]:
    """The command that runs another one as this user, who may read what Python itself needs."""
    return (
        *("setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *("sh", "-ec", f'umask {umask:o}; exec "$@"', "sh"),
    )


def may_be_others() -> bool:
    """Return True if processes may be run as other users: by root, with its rights, on Linux."""
    is_root = getattr(os, "geteuid", lambda: None)() == 0
    return is_root and succeeds(*as_user(OTHER), sys.executable, "-c", "import django")


users = pytest.mark.skipif("not may_be_others()", reason="no rights to be other users here")


@pytest.fixture
def shared(migrated: Path) -> Iterator[Path]:
    """A database file of OWNER's in a directory that all may write to, below no private one."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        path = Path(shutil.copy(migrated, name))
        os.chown(path, OWNER, OWNER)
        os.chmod(path, 0o644)
        yield path


@users
def test_two_users_of_one_group(start: Start, shared: Path) -> None:
    """With a umask of 0002, a directory that hands its group on, and a file of mode 0664."""
    group = 62000
    os.chown(shared.parent, OWNER, group)
    os.chmod(shared.parent, 0o2775)
    os.chown(shared, OWNER, group)
    os.chmod(shared, 0o664)
    started = {
        watcher: talker(start, watcher, by=as_user(user, group, 0o002), on=shared)
        for watcher, user in (("auto", OWNER), ("watchfiles", OTHER))
    }
    talkers = Talkers(started, shared)
    talkers.talk()
    talkers.recover()
    assert not any(talkers.record().logged.values())
    talkers.end()


@users
def test_the_log_is_somebody_elses(start: Start, shared: Path) -> None:
    """And may not be written: the error names it and its owner."""
    peer = Peer(start, by=as_user(OWNER), on=shared)
    peer.join("group")
    peer.child.kill()
    log = f"{shared}-wal"
    os.chown(log, OTHER, OTHER)
    os.chmod(log, 0o644)
    words = try_to_send(start, by=as_user(OWNER), on=shared)
    assert words.startswith("DatabaseUnavailable: ")
    assert log in words
    assert str(OTHER) in words
