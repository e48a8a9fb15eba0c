"""Runs the Python blocks of one page, in a process of the project that the page is about.

A line of JSON comes in for each: a block to run, or a module to import. A line goes out: what it
printed, and the traceback if it failed. Blocks do not share their names; they may await.
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
from types import CodeType

import django


def main() -> None:
    sys.path.insert(0, os.getcwd())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    loop = asyncio.new_event_loop()
    answers = sys.stdout
    for line in sys.stdin:
        question = json.loads(line)
        error, said = None, io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                if module := question.get("module"):
                    importlib.import_module(module)
                else:
                    run(compiled(question["code"], question["name"]), loop)
        except Exception:
            error = traceback.format_exc()
        answers.write(json.dumps({"said": said.getvalue(), "error": error}) + "\n")
        answers.flush()
    loop.close()


def compiled(code: str, name: str) -> CodeType:
    code_: CodeType = compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code_


def run(code: CodeType, loop: asyncio.AbstractEventLoop) -> None:
    """On the event loop if it awaits; else without one, where the ORM may be used."""
    result = eval(code, {"__name__": "docs"})
    if inspect.iscoroutine(result):
        loop.run_until_complete(result)


if __name__ == "__main__":
    main()
