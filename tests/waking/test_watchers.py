"""Watchers: the one that CONFIG names, or the best one that works here."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from channels_sqlite._storing.once import Once
from channels_sqlite._waking import watchers
from channels_sqlite._waking.watchers import best_kind, is_installed, watch
from channels_sqlite.exceptions import WatcherUnavailable
from tests.conftest import available
from tests.processes import Child
from tests.waiting import until
from tests.waking.ears import Ear, Place, touch, write


@pytest.fixture(params=["inotify", "watchfiles"])
def kind(request: pytest.FixtureRequest) -> str:
    return available(request.param)


def start(kind: str, ear: Ear, place: Place, once: Once | None = None) -> Any:
    return watch(kind, ear, str(place.wal), place.bell, 0.01, once or Once())


async def test_a_ring_and_a_write_wake_the_listener(kind: str, ear: Ear, tmp_path: Path) -> None:
    place = Place(tmp_path, "Grüße & ☃.sqlite3")
    watcher = start(kind, ear, place)
    assert ear.watcher == watcher
    assert watcher.kind == kind
    touch(place.bell.path)
    await until(lambda: "ring" in ear.heard)
    write(place.wal)
    await until(lambda: "write" in ear.heard)
    watcher.stop()
    place.bell.close(remove=True)


async def test_auto_takes_the_best_one_that_is_here(ear: Ear, place: Place) -> None:
    watcher = start("auto", ear, place)
    assert watcher.kind == best_kind() == ("inotify" if sys.platform == "linux" else "watchfiles")
    watcher.stop()


async def test_polling_needs_none(ear: Ear, place: Place) -> None:
    assert is_installed("polling")
    assert start("polling", ear, place) is None


# Where watching does not work


async def test_a_watcher_asked_for_by_name_does_not_give_way(
    kind: str, ear: Ear, place: Place
) -> None:
    os.unlink(place.bell.path)
    with pytest.raises(WatcherUnavailable, match=f"{kind} cannot watch {place.files.path}"):
        start(kind, ear, place)
    assert ear.watcher is None


async def test_a_watcher_that_this_system_lacks_is_refused_by_name(
    ear: Ear, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "sys", SimpleNamespace(platform="another"))
    assert best_kind() == "watchfiles"
    with pytest.raises(WatcherUnavailable, match="'inotify', which does not work here"):
        start("inotify", ear, place)


async def test_auto_gives_way_with_one_warning(
    ear: Ear, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    os.unlink(place.bell.path)
    once = Once()
    for _ in range(3):  # every event loop, and every minute
        assert start("auto", ear, place, once) is None
    kinds = [each for each in ("inotify", "watchfiles") if is_installed(each)]
    said = [record.getMessage() for record in caplog.records]
    assert [kind in each for kind, each in zip(kinds, said, strict=True)]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.fixture
def no_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes run as a user who may have no inotify instance at all."""
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh")
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    monkeypatch.setattr(Child, "prefix", prefix)


@pytest.mark.usefixtures("no_instances")
def test_a_layer_polls_where_the_kernels_limit_is_reached(database: Path) -> None:
    with Child("tests.waking.children.receives", database, watcher="auto") as child:
        assert child.hear() == ["polling", 0, 1, 2]
        child.wait()
        assert child.errors().count("Too many open files") == 2
        assert child.errors().count("Trying another way of watching") == 2


@pytest.mark.usefixtures("no_instances")
def test_a_layer_with_a_watcher_by_name_says_what_keeps_it(database: Path, kind: str) -> None:
    with Child("tests.waking.children.receives", database, watcher=kind) as child:
        said = child.hear()
        assert kind in said
        assert "Too many open files" in said
        child.finish()
