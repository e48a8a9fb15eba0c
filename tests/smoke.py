"""A new Django project with nothing but the installed wheel: it migrates, and two processes talk.

`nox -s package` runs this with the Python of an empty environment, so it imports no test tool.
With `converse DIRECTORY` two processes talk in the project that is in that directory.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

PROJECT = "mysite"
SETTINGS = """
INSTALLED_APPS += ["channels", "channels_sqlite"]
DATABASES["channels"] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "channels.sqlite3",
}
DATABASE_ROUTERS = ["channels_sqlite.db_routers.ChannelsRouter"]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels_sqlite.layers.SqliteChannelLayer"}}
"""
ROUNDS = 20
TIMEOUT = 60  # seconds; only a hang takes that long


def main() -> None:
    with TemporaryDirectory() as directory:
        run("-m", "django", "startproject", PROJECT, directory)
        with Path(directory, PROJECT, "settings.py").open("a") as settings:
            settings.write(SETTINGS)
        manage = str(Path(directory, "manage.py"))
        run(manage, "check")
        run(manage, "migrate", "--verbosity=0")
        run(manage, "migrate", "--verbosity=0", "--database=channels")
        converse(directory)
    print(f"Two processes exchanged {ROUNDS} messages each way.")


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, timeout=TIMEOUT)


def converse(directory: str) -> None:
    """Have a process answer what another one asks."""
    environment = os.environ | {
        "PYTHONPATH": directory,
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
    }
    peers = [
        subprocess.Popen([sys.executable, __file__, verb], cwd=directory, env=environment)
        for verb in VERBS
    ]
    try:
        statuses = [peer.wait(TIMEOUT) for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    if any(statuses):
        sys.exit(f"The two processes ended with {statuses}.")


async def ask() -> None:
    layer = installed_layer()
    for number in range(ROUNDS):
        await layer.send("questions", {"type": "question", "number": number})
        answer = await layer.receive("answers")
        assert answer == {"type": "answer", "number": number}, answer


async def answer() -> None:
    layer = installed_layer()
    for number in range(ROUNDS):
        question = await layer.receive("questions")
        assert question == {"type": "question", "number": number}, question
        await layer.send("answers", {"type": "answer", "number": number})


def installed_layer() -> BaseChannelLayer:
    """The project's layer; it comes from the wheel, not from a checkout."""
    import django
    from channels.layers import get_channel_layer

    import channels_sqlite

    assert Path(channels_sqlite.__file__).is_relative_to(sys.prefix), channels_sqlite.__file__
    django.setup()
    layer = get_channel_layer()
    assert layer
    return layer


VERBS = {"ask": ask, "answer": answer}

if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["converse", directory]:
            converse(directory)
        case [verb]:
            asyncio.run(VERBS[verb]())
