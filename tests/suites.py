"""A project of somebody else's, with tests of its own; see test_suites.py.

Its settings are those of the README. The layer's database is the test's `database`, which stands
for the one that a developer works with.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests import projects
from tests.docs.project import PATIENCE, Project

SETTINGS = """\
INSTALLED_APPS += ["chat"]
ASGI_APPLICATION = "chat.asgi.application"
LOGGING = {
    "version": 1,
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": BASE_DIR / "log", "delay": True}
    },
    "loggers": {"channels_sqlite": {"handlers": ["file"], "level": "WARNING"}},
}
"""

ON_A_FILE = 'DATABASES["channels"]["TEST"] = {"NAME": BASE_DIR / "test_channels.sqlite3"}\n'

MANAGE = """\
import os

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    execute_from_command_line()
"""

ASGI = """\
from django.core.asgi import get_asgi_application

http = get_asgi_application()

from channels.routing import ProtocolTypeRouter

from tests.chat import ChatConsumer

application = ProtocolTypeRouter({"http": http, "websocket": ChatConsumer.as_asgi()})
"""

STEPS = """\
import asyncio

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from channels_sqlite.models import LayerMessage
from tests.chat import ChatConsumer

JOB = {"type": "job", "sender": "suite"}

def flush():
    async_to_sync(get_channel_layer().flush)()

def send(channel):
    async_to_sync(get_channel_layer().send)(channel, JOB)

@async_to_sync
async def receive(channel):
    return await asyncio.wait_for(get_channel_layer().receive(channel), 10)

def count(channel):
    return LayerMessage.objects.filter(channel=channel).count()

def send_and_receive():
    send("jobs")
    assert receive("jobs") == JOB

def say(text):
    event = {**JOB, "type": "chat.message", "text": text}
    async_to_sync(get_channel_layer().group_send)("room", event)

@async_to_sync
async def chat():
    one, two = [WebsocketCommunicator(ChatConsumer.as_asgi(), "/") for _ in range(2)]
    for each in one, two:
        assert (await each.connect(timeout=30))[0]
    await one.send_json_to({"text": "hello"})
    assert await two.receive_json_from(timeout=30) == {"text": "hello"}
    await get_channel_layer().group_send("room", {**JOB, "type": "chat.message", "text": "bye"})
    for each in one, two:
        await each.disconnect()
"""


class Suite(projects.Project):
    """A project whose tests are the module `code`, and run in `cwd`; `app` is its apps.py."""

    def __init__(
        self, directory: Path, code: str, settings: str = "", app: str = "", cwd: Path | None = None
    ) -> None:
        super().__init__(directory, SETTINGS + settings)
        self.write("manage.py", MANAGE)
        self.write("chat/apps.py", app)
        self.write("chat/asgi.py", ASGI)
        self.write("chat/steps.py", STEPS)
        self.write("chat/tests.py", code)
        self._cwd = cwd or directory
        self._before = set(self._files())

    def test(self, *arguments: str) -> int:
        """Run `manage.py test`; the number of tests, all of which passed."""
        manage = str(self.directory / "manage.py")
        said = self._run(manage, "test", "chat", "--noinput", *arguments)
        return count_in(said, r"Ran (\d+) test")

    def pytest(self, *arguments: str) -> int:
        """Run pytest with pytest-django; the number of tests, all of which passed."""
        fixed = ["-m", "pytest", "-p", "no:cacheprovider", "--ds=settings", "chat/tests.py"]
        return count_in(self._run(*fixed, *arguments), r"(\d+) passed")

    def unittest(self) -> int:
        """Run Python's own runner; the number of tests, all of which passed."""
        return count_in(self._run("-m", "unittest", "chat.tests"), r"Ran (\d+) test")

    def left(self) -> list[str]:
        """The names of the files that its runs have made and not removed."""
        return sorted(path.name for path in set(self._files()) - self._before)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self._cwd,
            env=Project(self.directory).environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        log = self.directory / "log"
        assert not log.exists(), f"the layer has warned:\n{log.read_text()}"
        return done.stdout

    def _files(self) -> Iterable[Path]:
        found = self.directory.rglob("*")
        return (path for path in found if "__pycache__" not in path.parts)


def count_in(said: str, pattern: str) -> int:
    """The number that the output names."""
    found = re.search(pattern, said)
    assert found, said
    return int(found[1])
