"""The site of the WebSocket servers: each message of a socket goes to all sockets of its room.

A server imports `application` from here, as from a project's asgi.py. The Django settings come as
JSON in an environment variable. The process ends when its standard input ends. So no server
outlives the harness, however that ended. Before it ends, it writes down what its layer has counted.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from stress import limits, roles

# Environment variables, as stress.servers sets them.
SETTINGS = "STRESS_SETTINGS"
COUNTS = "STRESS_COUNTS"  # a file to write


def obey_input(layer: Any) -> None:
    """Collect Python's garbage for each byte of input. End the process at the end of the input."""
    while os.read(0, 1):
        gc.collect()
    with suppress(OSError):  # the harness may be gone, and the directory with it
        Path(os.environ[COUNTS]).write_text(json.dumps(roles.counts_of(layer)))
    os._exit(0)


def make_application() -> Any:
    settings.configure(**json.loads(os.environ[SETTINGS]))
    django.setup()
    limits.open_many()

    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.layers import get_channel_layer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import re_path

    class Room(AsyncWebsocketConsumer):
        """One socket, in one room, as in a Channels tutorial."""

        async def connect(self) -> None:
            self.room = self.scope["url_route"]["kwargs"]["room"]
            await self.channel_layer.group_add(self.room, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            del code
            await self.channel_layer.group_discard(self.room, self.channel_name)

        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            del bytes_data
            await self.channel_layer.group_send(self.room, {"type": "room.said", "text": text_data})

        async def room_said(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    layer = get_channel_layer()
    threading.Thread(target=obey_input, args=(layer,), daemon=True).start()
    room: Any = Room.as_asgi()  # Django's types know no route to an ASGI application
    return ProtocolTypeRouter({"websocket": URLRouter([re_path(r"^(?P<room>\w+)$", room)])})


application = make_application()
