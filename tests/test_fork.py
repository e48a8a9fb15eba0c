"""A process forks while it writes; the child writes too."""

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


def test_a_child_born_while_its_parent_writes_can_write(database: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=environment(database),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
