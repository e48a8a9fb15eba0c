"""A process forks while it writes or reads; the child writes too."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork here")

SCRIPT = """
import asyncio, os, threading
import django
django.setup()
from channels.layers import get_channel_layer

layer = get_channel_layer()
stop = threading.Event()

async def write(count):
    for number in range(count):
        await layer.send(f"fork.{os.getpid()}.{number % 20}", {"number": number})

def keep_writing():
    async def write_until_stopped():
        while not stop.is_set():
            await write(20)
            await layer.flush()
    asyncio.run(write_until_stopped())

asyncio.run(write(1))
writing = threading.Thread(target=keep_writing)
writing.start()
for _ in range(40):
    child = os.fork()
    if not child:
        asyncio.run(asyncio.wait_for(write(1), 20))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
writing.join()
"""


READ = """
import asyncio, os, sqlite3, threading
import django
django.setup()
from channels.layers import get_channel_layer
from channels_sqlite._storing import sql as store

layer = get_channel_layer()
stop = threading.Event()

def keep_reading():
    reader = layer._ends.database.reader
    while not stop.is_set():
        with reader.in_use:
            store.sequences(reader, ["a", "b"])

asyncio.run(layer.send("test-channel", {}))
reading = [threading.Thread(target=keep_reading, daemon=True) for _ in range(2)]
for each in reading:
    each.start()
for _ in range(200):
    child = os.fork()
    if not child:
        sqlite3.connect(":memory:").execute("create table a (b)")  # SQLite's own locks are free
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
"""

GRANDCHILDREN = """
import asyncio, os
import django
django.setup()
from channels.layers import get_channel_layer
from channels_sqlite import connection

layer = get_channel_layer()
asyncio.run(layer.send("test-channel", {}))
child = os.fork()
if not child:
    inherited = {*connection._writers} | {*connection._readers}
    asyncio.run(layer.send("test-channel", {}))
    os._exit(len(inherited))
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize(
    "script", [SCRIPT, READ, GRANDCHILDREN], ids=["writes", "reads", "wrote, and the child forks"]
)
def test_a_child_can_write_whatever_its_parent_did(database: Path, script: str) -> None:
    """And does not wait, when it forks itself, for locks that it has inherited."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment(database),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
