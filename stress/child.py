"""The child process: `python -m stress.child NAME LEDGER`, spoken to in lines of JSON.

The first line it hears is {"settings": ..., "durable": bool}. Every other is a call, {"id": 1,
"role": "module:function", "with": {...}}; calls run side by side, and each is answered by {"id":
1, "result": ...} or {"id": 1, "error": "traceback"}. It ends when its input does, so that no
child outlives the harness, whatever happened to that.
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
    """Arguments that are functions travel as "role:module:function"."""
    if isinstance(value, str) and value.startswith("role:"):
        return find(value.removeprefix("role:"))
    return value


async def answer(worker: Worker, call: dict[str, Any], output: int) -> None:
    reply: dict[str, Any] = {"id": call["id"]}
    try:
        arguments = {name: resolve(value) for name, value in call["with"].items()}
        reply["result"] = await find(call["role"])(worker, **arguments)
    except Exception:
        reply["error"] = traceback.format_exc()
    os.write(output, json.dumps(reply).encode() + b"\n")


async def serve(name: str, path: Path, output: int) -> None:
    reader = asyncio.StreamReader(limit=LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    hello = json.loads(await reader.readline())
    layer = make_layer(hello["settings"])
    worker = Worker(name, layer, Recorder(path, durable=hello["durable"]))
    calls: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        call = asyncio.create_task(answer(worker, json.loads(line), output))
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


def main() -> None:
    name, path = sys.argv[1:]
    # What a library prints must not get between the answers: it goes where errors go.
    output = os.dup(1)
    os.dup2(2, 1)
    asyncio.run(serve(name, Path(path), output))


if __name__ == "__main__":
    main()
