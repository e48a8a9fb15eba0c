"""The rights of the files, and what a reader of them finds."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.conftest import OpenLayer
from tests.kinds import by_default
from tests.rows import put, sql
from tests.waiting import soon

SECRET = "the treasure is under the old oak"


def message(number: int) -> dict[str, Any]:
    return {"type": "test", "number": number, "text": SECRET}


@pytest.mark.skipif(sys.platform == "win32", reason="no umask here")
async def test_the_files_have_the_rights_of_the_umask(tmp_path: Path) -> None:
    """Of the file that `migrate` makes, and of SQLite's beside it."""
    mask = 0o027
    before = os.umask(mask)
    try:
        path = tmp_path / "private.sqlite3"
        databases.migrate(path)
        os.umask(0)
        with databases.alias_for(path) as alias:
            layer = SqliteChannelLayer(database=alias)
            await layer.send("shared", message(1))
            names = [path, Path(f"{path}-wal"), Path(f"{path}-shm")]
            rights = [os.stat(name).st_mode & 0o777 for name in names]
            await layer.close()
    finally:
        os.umask(before)
    assert rights == [0o666 & ~mask] * 3


@by_default
async def test_nobody_reads_a_body_in_the_files(open_layer: OpenLayer, database: Path) -> None:
    """Neither in the table nor in the log, nor what a group was sent."""
    layer = open_layer(symmetric_encryption_keys=["new", "old"])
    local = await layer.new_channel()
    await layer.group_add("test-group", local)
    await layer.send("shared", message(1))
    await layer.send(local, message(2))
    await layer.group_send("test-group", message(3))
    found = b"".join(content(Path(f"{database}{end}")) for end in ("", "-wal"))
    assert len(found) > 4096
    assert SECRET.encode() not in found
    assert b"treasure" not in found
    assert await soon(layer.receive("shared")) == message(1)
    assert [await soon(layer.receive(local)) for _ in range(2)] == [message(2), message(3)]


def content(path: Path) -> bytes:
    """Of a copy made by another process: to open and close it here would drop SQLite's locks."""
    return subprocess.run(["cat", path], capture_output=True, check=True).stdout


@by_default
async def test_a_body_is_for_one_address_only(
    open_layer: OpenLayer, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who can write the file moves each row to each other address: of the same process, of
    another, to a normal channel, to a group, to a group of a channel's name. None is taken.
    """
    config = {"symmetric_encryption_keys": ["a key"], "capacity": 1000}
    layer, other = open_layer(**config), open_layer(**config)
    mine, second = [await layer.new_channel() for _ in range(2)]
    theirs = await other.new_channel()
    for joined in ("chat", "shared"):
        await layer.group_add(joined, mine)
    addresses: list[tuple[str | None, str | None]] = [("chat", None), ("shared", None)]
    addresses += [(None, name) for name in (mine, second, theirs, "shared")]
    refused = 0
    for origin in addresses:
        for target in addresses:
            if target == origin or target[1] == theirs:
                continue
            forged = sent_to(origin, layer)
            group, channel = target
            inbox = layer.non_local_name(channel or mine)
            with sql(database) as connection:
                put(connection, channel or mine, forged, inbox=inbox, channel=channel, group=group)
            refused += 1
            await layer.send(channel or mine, message(refused))
            assert await soon(layer.receive(channel or mine)) == message(refused)
    said = [each for each in caplog.records if each.name == "channels_sqlite"]
    assert len(said) == refused == 25
    caplog.clear()


def sent_to(address: tuple[str | None, str | None], layer: Any) -> bytes:
    """The body of a row that was sent to a group, or to a channel."""
    group, channel = address
    body: bytes = layer.codec.encode(message(0), channel or "", group)
    return body


@by_default
async def test_keys_are_changed_under_traffic(open_layer: OpenLayer) -> None:
    """One process after the other, as the documentation has it; nobody misses anything."""
    steps = [["old"], ["old", "new"], ["new", "old"], ["new"]]
    for before, after in pairwise(steps):
        processes = [open_layer(symmetric_encryption_keys=keys) for keys in (before, after)]
        for reader in processes:
            for writer in processes:
                channel = await reader.new_channel()
                for address in (channel, "shared"):
                    await writer.send(address, message(1))
                    assert await soon(reader.receive(address)) == message(1)
