"""A project on the servers and event loops that people run it on, each with two workers."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack, suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Start
from tests.example import servers
from tests.example.servers import Server, free_port
from tests.faults.peers import Peer
from tests.projects import Project
from tests.suites import MANAGE
from tests.waiting import threads, wait_until

PATIENCE = 60.0  # seconds, of which only a hang takes so many
WORKERS = 2

SETTINGS = """
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "chat"
"""

CHAT = """
import os

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.http import HttpResponse
from django.urls import path


class Consumer(AsyncJsonWebsocketConsumer):
    groups = ["chat"]

    async def connect(self):
        await self.accept()
        await self.send_json({"pid": os.getpid()})

    async def receive_json(self, content):
        await self.channel_layer.group_send("chat", {"type": "said", **content})

    async def said(self, event):
        await self.send_json({"text": event["text"]})


async def use(layer):
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "test"})
    await layer.receive(channel)


def view(request):
    async_to_sync(use)(get_channel_layer())
    if text := request.GET.get("text"):
        async_to_sync(get_channel_layer().group_send)("chat", {"type": "said", "text": text})
    return HttpResponse(os.getpid())


urlpatterns = [path("chat", view)]
"""

ASGI = """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from threading import Thread

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

django = get_asgi_application()

from chat import Consumer, async_to_sync, get_channel_layer, use

application = ProtocolTypeRouter({"http": django, "websocket": Consumer.as_asgi()})
# Before a server that preloads forks its workers; others import this in an event loop.
first_use = Thread(target=async_to_sync(use), args=[get_channel_layer()])
first_use.start()
first_use.join()
"""

UVICORN = "uvicorn --workers 2 --loop uvloop --port {port} asgi:application"
SERVERS = {
    "gunicorn with --preload": (
        "gunicorn --preload --workers 2 --worker-class uvicorn_worker.UvicornWorker"
        " --bind 127.0.0.1:{port} asgi:application"
    ),
    "hypercorn on asyncio": "hypercorn --workers 2 --bind 127.0.0.1:{port} asgi:application",
    "granian on uvloop": (
        "granian --interface asgi --workers 2 --loop uvloop --port {port} asgi:application"
    ),
}

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="no process groups here")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path, SETTINGS)
    project.write("chat.py", CHAT)
    project.write("asgi.py", ASGI)
    project.manage("migrate", "--database=channels")
    return project


def server(project: Project, command: str) -> Server:
    names = {"uvicorn", "gunicorn", "hypercorn", "granian", "uvloop"}
    for each in names.intersection(command.split()):
        if find_spec(each) is None:
            pytest.skip(f"no {each} here")
    port = free_port()
    runs = servers.Project(project.directory, "", source=project.directory)
    return Server(runs, port, command.format(port=port).split())


@on_posix
@pytest.mark.parametrize("name", SERVERS)
def test_visitors_of_two_workers_hear_a_websocket_and_a_view(project: Project, name: str) -> None:
    with server(project, SERVERS[name]) as running, ExitStack() as visitors:
        hear_each_other(running, visitors)
    assert "Traceback" not in running.log.read_text()


@on_posix
def test_uvicorn_on_uvloop_in_development_mode_with_warnings_as_errors(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deprecated calls break it, and whatever is left open is said in the log."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with server(project, UVICORN) as running, ExitStack() as visitors:
        hear_each_other(running, visitors)
    said = running.log.read_text().splitlines()
    # uvicorn leaves its own socket open.
    assert [line for line in said if "Traceback" in line or "sqlite" in line] == []


@on_posix
def test_runserver_reloads_under_traffic_and_stops(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reloader ends the server's interpreter, with the layer in use; so does Ctrl-C."""
    project.write("manage.py", MANAGE)
    # Of coroutines that asgiref begins too late: to print that, Python may wait for ever for the
    # lock of a module, which a thread held that has ended.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::RuntimeWarning")
    ends, answered = threading.Event(), set[int]()

    def visit() -> None:
        while not ends.wait(0.02):
            with suppress(OSError, HTTPException, ValueError):  # the server is gone, or half so
                try:
                    with urlopen(f"{running.url}/chat", timeout=PATIENCE) as response:
                        answered.add(int(response.read()))
                except HTTPError as error:
                    error.close()

    with server(project, "manage.py runserver 127.0.0.1:{port}") as running, threads(visit, visit):
        try:
            wait_until(lambda: answered, PATIENCE)
            time.sleep(1.1)  # the reloader looks once a second, at the time of change
            os.utime(project.directory / "chat.py")
            wait_until(lambda: len(answered) > 1, PATIENCE)
            running.interrupt()
        finally:
            ends.set()
    said = running.log.read_text()
    # asgiref has something to say, too: at the end of the interpreter it begins no event loop.
    assert f"channels_sqlite{os.sep}" not in said
    assert str(project.database) not in said


def hear_each_other(running: Server, visitors: ExitStack) -> None:
    """Two visitors, one of each worker, hear what either says, and what a view sends."""
    url = running.url.replace("http", "ws")
    of_workers: dict[int, ClientConnection] = {}
    for _ in range(200):  # which worker takes a connection, the system decides
        visitor = visitors.enter_context(connect(url, open_timeout=PATIENCE))
        of_workers.setdefault(json.loads(visitor.recv(PATIENCE))["pid"], visitor)
        if len(of_workers) == WORKERS:
            break
    assert len(of_workers) == WORKERS
    for number, visitor in enumerate(of_workers.values()):
        visitor.send(json.dumps({"text": f"said {number}"}))
        assert heard(of_workers) == {f"said {number}"}
    with urlopen(f"{running.url}/chat?text=sent", timeout=PATIENCE) as response:
        assert response.status == 200
    assert heard(of_workers) == {"sent"}


def heard(of_workers: dict[int, ClientConnection]) -> set[str]:
    """The texts that came next to all of them."""
    return {json.loads(each.recv(PATIENCE))["text"] for each in of_workers.values()}


@pytest.mark.skipif(find_spec("gevent") is None, reason="no gevent here")
def test_greenlets_send_one_at_a_time_and_again_after_a_clash(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio has one running loop in a thread: of those that send at once all but one or two are
    told so.
    """
    reader = Peer(start)
    reader.consume("work")
    monkeypatch.delenv("TESTS_LOOP", raising=False)  # uvloop and gevent do not go together
    sender = start("tests.gevent_children.sends", channel="work", numbers=[*range(40)])
    sent = sender.hear()
    assert sender.errors() == ""
    sender.tell("at once")
    sent += sender.hear()
    assert sender.wait() == 0
    *received, _end = reader.heard("work", -1)
    assert received[:20] == [*range(20)]
    assert sorted(received) == sent
