"""Runs Python for the pages: a process that has imported Django, and forks one for each question;
on Windows it ends with the first.

A line of JSON comes in: the root and the settings of a project, its environment, and what to run: a
block, modules to import, or `check`. A line goes out: what it printed, and the traceback if it
failed. Blocks do not share their names; they may await.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import traceback
from typing import Any

import channels.layers
import django
import django.core.management
import django.db.models
import django.http
import django.urls
from django.core.checks import run_checks


def main() -> None:
    for line in sys.stdin:
        if hasattr(os, "fork") and os.fork():
            os.wait()
            continue
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
        os._exit(0)


def answer(question: dict[str, Any]) -> dict[str, str]:
    os.chdir(question["root"])
    os.environ |= question["environment"]
    sys.path.insert(0, question["root"])
    error, said = "", io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            django.setup()
            for module in question.get("modules", []):
                importlib.import_module(module)
            if "code" in question:
                run(question["code"], question["name"])
            if "check" in question:
                check()
    except BaseException:
        error = traceback.format_exc()
    return {"said": said.getvalue(), "error": error}


def run(code: str, name: str) -> None:
    """On an event loop if it awaits; otherwise without one, where the ORM may be used."""
    result = eval(compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {"__name__": "docs"})
    if inspect.iscoroutine(result):
        asyncio.run(result)


def check() -> None:
    """No check complains of the settings, and each layer can be made."""
    said = [each for each in run_checks() if not each.is_silenced()]
    assert said == [], said
    assert all(
        channels.layers.channel_layers[name] for name in channels.layers.channel_layers.configs
    )


if __name__ == "__main__":
    main()
