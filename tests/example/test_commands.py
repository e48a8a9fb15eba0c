"""The example's commands, as a newcomer types them."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.example.servers import EXAMPLE, PATIENCE, CommandFailed, Project
from tests.example.sockets import Client, client

pytestmark = pytest.mark.timeout(300)  # each command imports Django anew


def test_runserver_reloads_and_it_and_a_worker_end_on_ctrl_c_while_people_are_connected(
    project: Project, tmp_path: Path
) -> None:
    source = tmp_path / "example"  # to touch
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns(".venv", "*.sqlite3*"))
    copy = replace(project, source=source)
    worker = copy.start(["manage.py", "runworker", "summaries"], "worker")
    with copy.runserver() as server:
        with client(server.url, "lobby") as ada:
            before = process(ada)
            line = ada.say("Before")["line"]
            touch_until_closed(source / "chat" / "rooms.py", ada)
        server.wait()
        with client(server.url, "lobby") as ada:
            assert process(ada) != before
            assert ada.receive("lines")["lines"] == [line]
            ada.send(type="summarise")
            ada.receive("summary")  # so the worker has begun
            os.killpg(worker.pid, signal.SIGINT)
            worker.wait(PATIENCE)
            assert server.interrupt() == 0


def process(person: Client) -> int:
    """Join under a name that nobody has; returns the process that answers."""
    person.send(type="join", name=uuid4().hex)
    number: int = person.receive("welcome")["process"]
    return number


def touch_until_closed(path: Path, person: Client) -> None:
    """Django looks at its files once a second, and takes the first look for the state of things."""
    for _ in range(int(PATIENCE)):
        os.utime(path)
        try:
            while True:
                person.connection.recv(timeout=1)
        except TimeoutError:
            continue
        except ConnectionClosed:
            return
    pytest.fail("the server did not reload")


def test_say_declines_a_bad_line_in_words(project: Project) -> None:
    with pytest.raises(CommandFailed) as refusal:
        project.manage("say", "lobby", "  ")
    words = "text: There is nothing in this line yet. Write a word or two."
    assert str(refusal.value).splitlines() == [f"CommandError: {words}"]


def test_an_unknown_layer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as refusal:
        Project(tmp_path, "carrier-pigeon://").manage("check")
    assert "carrier-pigeon://" in str(refusal.value)


def test_nothing_is_left_out_of_the_migrations(project: Project) -> None:
    code = """
        from django.core.management import call_command
        call_command("makemigrations", check_changes=True, dry_run=True)
        call_command("check", fail_level="WARNING", databases=["default", "channels"])
    """
    project.manage("shell", "-c", dedent(code))
