"""The directory of bells, `<database>-bells`: whatever becomes of it, messages pass and the living
stay members; and readers are born, killed and many.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import WATCHERS, Start
from tests.faults.conftest import StartWith
from tests.faults.peers import (
    AT_LENGTH,
    EXAMPLES,
    MARKS,
    Company,
    Peer,
    Refused,
    bell_of,
    bells,
    bells_in,
    client_of,
    stopped,
)
from tests.processes import Child, succeeds  # noqa: F401 - for skipif
from tests.rows import message
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no flock here"),  # no bells without locks
    pytest.mark.timeout(120 + EXAMPLES),
]
CHILDREN = "tests.faults.bell_children"
kinds = pytest.mark.parametrize("watcher", WATCHERS if AT_LENGTH else ["auto"], indirect=True)
STALE = 10_000
HANGS = 30.0  # seconds, of which only a hang takes so many


@kinds
@pytest.mark.parametrize("how", ["deleted", "moved away"])
def test_the_directory_vanishes(start: Start, database: Path, how: str, watcher: str) -> None:
    """A missing bell proves nothing; each reader makes a new one."""
    company = Company(start, watcher=watcher)
    company.exchange()
    folder = bells(database)
    if how == "deleted":
        shutil.rmtree(folder)
    else:
        folder.rename(folder.with_name("away"))
    company.grow()
    company.check()
    for _, channel in company.members:
        wait_until(bell_of(database, channel).exists, HANGS)


IS_ROOT = getattr(os, "geteuid", lambda: None)() == 0
WEAK = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
"""A command under which root, too, has only the rights of an owner."""


@kinds
def test_the_directory_is_read_only(start_with: StartWith, database: Path, watcher: str) -> None:
    """Readers that have a bell keep it. One that comes later cannot have one, and hears all the
    same.
    """
    weak = WEAK if IS_ROOT and shutil.which(WEAK[0]) else ()
    company = Company(start_with(*weak), watcher=watcher)
    company.exchange()
    folder = bells(database)
    before = bells_in(database)
    assert {client_of(channel) for _, channel in company.members} <= before
    folder.chmod(0o555)
    try:
        if not subprocess.run([*weak, "touch", folder / "x"], capture_output=True).returncode:
            pytest.skip("root may write everywhere")
        company.grow()
        company.check()
    finally:
        folder.chmod(0o755)
    assert bells_in(database) == before


def test_the_directory_is_full_of_bells_of_the_dead(start: Start, database: Path) -> None:
    """Ten thousand: they are swept when the file is opened, while messages pass."""
    folder = bells(database)
    folder.mkdir()
    for _ in range(STALE):
        (folder / secrets.token_urlsafe(9)).touch()
    company = Company(start)
    company.exchange()
    wait_until(lambda: len(bells_in(database)) <= 3, HANGS)
    company.check()
    for peer in (company.sender, *(peer for peer, _ in company.members)):
        assert {level for level, _ in peer.log()} <= {"INFO"}


class Traps:
    """Things to put where the layer expects files of its own, and what they must not lead to."""

    kinds = ("link", "dangling link", "directory", "pipe")

    def __init__(self, elsewhere: Path) -> None:
        self._victim, self._absent = elsewhere / "victim", elsewhere / "absent"
        self._victim.write_text("hands off")
        os.utime(self._victim, (1, 1))
        self._kept: list[Path] = []

    def put(self, kind: str, path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(self._victim)
        elif kind == "dangling link":
            path.symlink_to(self._absent)
        elif kind == "directory":
            path.mkdir()
            self._kept.append(path / "kept")
            self._kept[-1].touch()
        else:
            os.mkfifo(path)

    def check(self) -> None:
        """Nobody has followed, changed or emptied one."""
        assert self._victim.read_text() == "hands off"
        assert self._victim.stat().st_mtime == 1
        assert not self._absent.exists()
        assert [path for path in self._kept if not path.exists()] == []


@pytest.fixture
def traps(tmp_path: Path) -> Traps:
    return Traps(tmp_path)


@kinds
def test_other_things_stand_where_bells_should(
    start: Start, database: Path, traps: Traps, watcher: str
) -> None:
    """Links, directories and pipes, under the names of living readers and of strangers: nobody
    follows them, opens them for writing, or hangs.
    """
    folder = bells(database)
    company = Company(start, len(traps.kinds), watcher=watcher)
    company.exchange()
    strangers = [secrets.token_urlsafe(9) for _ in traps.kinds]
    for kind, (_, channel), stranger in zip(traps.kinds, company.members, strangers, strict=True):
        traps.put(kind, bell_of(database, channel))
        traps.put(kind, folder / stranger)
    with heard_pipe(folder / secrets.token_urlsafe(9)) as pipe:
        for client in [*strangers, pipe.name]:
            company.sender.send(f"specific.{client}!x", message(1))
        company.grow()
        company.check()
        assert not was_opened_for_writing(pipe)
    traps.check()


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", Traps.kinds)
def test_other_things_stand_where_marks_should(
    start: Start, database: Path, traps: Traps, mark: str, kind: str
) -> None:
    """Nobody follows them or hangs. An error may say that they are in the way."""
    bells(database).mkdir()
    traps.put(kind, bells(database) / mark)
    peer = Peer(start)
    with suppress(Refused):
        channel = peer.join("group")
        peer.group_send("group", message(1))
        assert peer.heard(channel, 1) == [1]
    traps.check()


class Pipe:
    """A named pipe that the test listens at."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = path.name
        self.descriptor = descriptor


@contextmanager
def heard_pipe(path: Path) -> Iterator[Pipe]:
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield Pipe(path, descriptor)
    finally:
        os.close(descriptor)


def was_opened_for_writing(pipe: Pipe) -> bool:
    """Return True if a writer has come, even if it is gone: the kernel hangs up then."""
    poll = select.poll()
    poll.register(pipe.descriptor, select.POLLIN)
    return bool(poll.poll(0))


@kinds
@pytest.mark.parametrize("when", ["before anybody comes", "meanwhile"])
def test_a_link_stands_where_the_directory_should(
    start: Start, database: Path, tmp_path: Path, when: str, watcher: str
) -> None:
    """Nobody makes bells in the directory that it names, or takes its files for bells."""
    folder, elsewhere = bells(database), tmp_path / "elsewhere"
    elsewhere.mkdir()
    stranger = elsewhere / secrets.token_urlsafe(9)
    stranger.write_text("hands off")
    os.utime(stranger, (1, 1))
    if when == "before anybody comes":
        folder.symlink_to(elsewhere)
    company = Company(start, watcher=watcher)
    company.exchange()
    if when == "meanwhile":
        shutil.rmtree(folder)
        folder.symlink_to(elsewhere)
    company.sender.send(f"specific.{stranger.name}!x", message(1))
    company.grow()
    company.check()
    assert os.listdir(elsewhere) == [stranger.name]
    assert stranger.read_text() == "hands off"
    assert stranger.stat().st_mtime == 1


def test_nobody_is_taken_for_dead_at_its_birth(start: Start, database: Path) -> None:
    """Readers begin and end, beside processes that sweep without a pause: each is a member, hears
    its group and hears what it is sent; and so do the readers that were there before.
    """
    company = Company(start)
    sweepers = [Peer(start) for _ in range(2)]
    sweepers[0].keep_sending(0.001)
    sweepers[1].keep_opening()
    cradles = [Peer(start) for _ in range(2)]
    for cradle in cradles:
        cradle.begin("births", (EXAMPLES if AT_LENGTH else 100) // len(cradles))
    company.check()
    for cradle in cradles:
        assert cradle.result(HANGS + EXAMPLES) == []
    company.check(0)


def test_killed_at_any_moment_of_their_birth(start: Start, database: Path) -> None:
    """Readers that die while they make their bells, or join a group, leave nothing."""
    count = EXAMPLES // 2 if not AT_LENGTH else 1000
    nursery = start(f"{CHILDREN}.killed_while_young", count=count, within=0.05, group="doomed")
    assert nursery.hear(HANGS + count) == "killed"
    nursery.finish()
    fresh, sender = Peer(start), Peer(start)
    channel = fresh.join("group")
    sender.group_send("group", message(1))
    sender.send(channel, message(2))
    assert fresh.heard(channel, 2) == [1, 2]
    sender.keep_sending()
    # The sender has a bell as well, because it keeps sending to itself.
    wait_until(lambda: len(bells_in(database)) <= 2, HANGS)
    assert client_of(channel) in bells_in(database)
    wait_until(lambda: sender.group_count("doomed") == 0, HANGS)
    assert sender.group_channels("group") == [channel]


CONTAINER: tuple[str, ...] = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
CONTAINER += () if IS_ROOT else ("--user", "--map-root-user")
WITH_VOLUME = 'mount --bind "$0" /mnt && exec "$@"'


CONTAINED = (*CONTAINER, "sh", "-c", WITH_VOLUME, "/tmp", "true")


@pytest.mark.skipif("not succeeds(*CONTAINED)", reason="no namespaces here")
def test_two_containers_share_a_directory(start_with: StartWith, database: Path) -> None:
    """Each has process ids of its own and sees the directory at another path: they hear each other,
    take each other for living while they live, and for dead when they are killed.
    """
    in_volume = Path("/mnt", database.name)
    first = start_with(*CONTAINER)
    second = start_with(
        *CONTAINER, "sh", "-c", WITH_VOLUME, str(database.parent), database=in_volume
    )
    company = Company(first, 1)
    company.members.append((other := Peer(second), channel := other.join(company.group)))
    for peer in (company.sender, other):
        peer.keep_sending()
    company.check()
    company.sender, sender = other, company.sender
    company.check()
    company.sender = sender
    other.child.kill()
    company.members.pop()
    wait_until(lambda: channel not in sender.group_channels(company.group), HANGS)
    company.exchange()


CROWDS = [(100, 1), (2, 50), *([(5, 200)] if AT_LENGTH else [])]
FILES = 40  # descriptors of a process: connections, watches, its event loop
FILES_EACH = 3  # of each further reader in it


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")
@pytest.mark.parametrize(("processes", "layers"), CROWDS)
def test_a_crowd_of_readers(start: Start, processes: int, layers: int) -> None:
    """All hear a message to the group that they are in; each costs a few descriptors."""
    sender = Peer(start)
    crowd = start(f"{CHILDREN}.crowd", processes=processes, layers=layers, group="crowd")
    for _ in range(processes):
        assert crowd.hear(HANGS + layers) == "joined"
    assert sender.group_count("crowd") == processes * layers
    sender.group_send("crowd", message(1))
    for _ in range(processes):
        said = crowd.hear(HANGS + layers)
        assert said["heard"] == [1] * layers
        assert said["descriptors"] <= FILES + FILES_EACH * layers
    assert crowd.wait() == 0


def test_readers_names_the_living(start: Start, database: Path) -> None:
    """Also one that stands still, because nobody has to answer; not one that was killed."""
    watchers = ["auto", "polling", "watchfiles", "auto"]
    asker, living, still, killed = peers = [Peer(start, watcher=each) for each in watchers]
    for peer in peers:
        peer.consume()
    everybody = sorted(peer.child.pid for peer in peers)
    wait_until(lambda: asker.readers() == everybody)
    with stopped(still, database):
        killed.child.kill()
        everybody.remove(killed.child.pid)
        assert asker.readers() == everybody
    assert asker.readers() == everybody
    living.finish()
    everybody.remove(living.child.pid)
    assert asker.readers() == everybody
