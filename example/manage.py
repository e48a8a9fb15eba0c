#!/usr/bin/env python
"""Django's command line, for the example chat."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

VENV = Path(__file__).resolve().parent / ".venv"


def main() -> None:
    # `uv sync` makes .venv and does not activate it. A plain `python` should use it all the same.
    python = VENV / "bin" / "python"
    if find_spec("channels_sqlite") is None and python.exists() and Path(sys.prefix) != VENV:
        os.execv(python, [str(python), *sys.argv])

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
