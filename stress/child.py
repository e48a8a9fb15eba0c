"""The child process, which gets its calls as lines of JSON over a Unix socket.

It connects to the harness and sends {"ledger": its ledger's path, "pid": ...}. The first line it
gets is {"settings": ..., "durable": bool, "prepare": "module:function" or ""}. Every other line is
a call, {"id": 1, "role": "module:function", "with": {...}}. Calls run side by side. The answer is
{"id": 1, "result": ...} or {"id": 1, "error": "traceback"}. The child ends when the connection
ends. So no child outlives the harness, however that ended.

    python -m stress.child SOCKET LEDGER ERRORS
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from stress.recorder import Recorder
from stress.roles import Worker, disconnect

LINE = 1 << 28  # the longest line, in bytes


def find(reference: str) -> Any:
    from django.utils.module_loading import import_string

    return import_string(reference.replace(":", "."))


def resolve(value: Any) -> Any:
    """Return the function, if the argument is one: it travels as "role:module:function"."""
    if isinstance(value, str) and value.startswith("role:"):
        return find(value.removeprefix("role:"))
    return value


async def answer(worker: Worker, call: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    reply: dict[str, Any] = {"id": call["id"]}
    try:
        arguments = {name: resolve(value) for name, value in call["with"].items()}
        reply["result"] = await find(call["role"])(worker, **arguments)
    except Exception:
        reply["error"] = traceback.format_exc()
    writer.write(json.dumps(reply).encode() + b"\n")


async def serve(socket: str, ledger: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(socket, limit=LINE)
    writer.write(json.dumps({"ledger": str(ledger), "pid": os.getpid()}).encode() + b"\n")
    hello = json.loads(await reader.readline())
    if hello["prepare"]:
        find(hello["prepare"])(ledger.parent)
    layer = make_layer(hello["settings"])
    worker = Worker(ledger.stem, layer, Recorder(ledger, durable=hello["durable"]))
    calls: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        call = asyncio.create_task(answer(worker, json.loads(line), writer))
        calls.add(call)
        call.add_done_callback(calls.discard)
    for call in calls:
        call.cancel()
    await disconnect(worker)
    if close := getattr(layer, "close", None):
        await close()


def make_layer(settings: dict[str, Any]) -> Any:
    import django
    from channels.layers import get_channel_layer
    from django.conf import settings as django_settings

    django_settings.configure(**settings)
    django.setup()
    return get_channel_layer()


def live(socket: str, ledger: str, errors: str) -> None:
    """Run a child. The output of it and of its libraries goes to the file `errors`."""
    output = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for theirs, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(theirs, standard)
    asyncio.run(serve(socket, Path(ledger)))


if __name__ == "__main__":
    live(*sys.argv[1:])
