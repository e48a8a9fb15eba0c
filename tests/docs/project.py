"""A reader's project: a directory, into which the blocks of a page are written, and where they run.

There is one method for each kind of block. A kind that has none fails the page's test, so that no
block can be left out without a word.
"""

from __future__ import annotations

import atexit
import configparser
import contextlib
import doctest
import json
import os
import re
import shlex
import shutil
import signal
import site
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.docs.blocks import Block
from tests.example.servers import free_port, heed_ctrl_c
from tests.processes import has_node_sqlite
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
CHANNELS = tuple(map(int, version("channels").split(".")[:2]))
NO_LIVE_SERVER = (
    "Channels' live server before 4.3 does not work with Django 5.2" if CHANNELS < (4, 3) else ""
)
# Windows has another shell than the pages.
needs_bash = pytest.mark.skipif(sys.platform == "win32", reason="no bash here")
"""The blocks are of a POSIX shell, as the pages say; Windows has another one. In CI nothing may be
left out for this reason."""
PATIENCE = 120.0  # seconds; a guard against hanging, nothing is measured here

# Blocks of the kind "elsewhere" need what a test must not touch: the machine's services, a registry
# of images, somebody's cloud. They begin with one of these programs.
ELSEWHERE = {"docker", "litestream", "sudo"}

# `docs/tutorial.md` and the how-tos say 8000, 8001; here others may be using them.
PORT = re.compile(r"\b80\d\d\b")

CLONE = "/path/to/channels-sqlite"  # as the pages call the clone that they install from

INSTALL = re.compile(rf"^python -m pip install (?!{CLONE})(.+)$", re.MULTILINE)

ADDS_THE_APP = 'INSTALLED_APPS += ["channels_sqlite"]'

NUMBER = re.compile(r"\d+(\.\d+)?")


class BlockFailed(AssertionError):
    """A block did not do what its page says."""


class Project:
    """A context manager: at its end everything that it has started is stopped."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.state = directory.parent / f"{directory.name}.state"
        self.ports: dict[str, str] = {}
        self.servers: list[subprocess.Popen[bytes]] = []
        self.commands: list[list[str]] = []
        self.said = ""
        self._settings = 0
        self._modules: list[str] = []

    def run(self, block: Block) -> None:
        method: Callable[[Block], None] | None = getattr(self, f"run_{block.kind}", None)
        if method is None:
            raise BlockFailed(f"nobody knows how to run\n{block}")
        try:
            method(block)
        except Exception as error:
            raise BlockFailed(f"{error}\nin {block}") from error

    # Files

    def run_file(self, block: Block) -> None:
        assert block.file
        path = self.root / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
        if path.suffix == ".py":
            self._modules.append(block.file.removesuffix(".py").replace("/", "."))

    def run_append(self, block: Block) -> None:
        assert block.file
        with (self.root / block.file).open("a", encoding="utf-8") as file:
            file.write("\n" + block.code)

    def import_files(self) -> None:
        """Import each Python file of the page, once all of them are there."""
        self._ask(modules=self._modules)

    # Python

    def run_python(self, block: Block) -> None:
        self._ask(name=f"docs/{block.page}:{block.line}", code=block.code)

    def run_settings(self, block: Block) -> None:
        """More lines for the settings: no check complains of them, and each layer can be made."""
        self._settings += 1
        module = f"settings_{self._settings}"
        file = self.root / "config" / f"{module}.py"
        # The project of a page that adds the app has another layer until then.
        before = 'INSTALLED_APPS.remove("channels_sqlite")' if ADDS_THE_APP in block.code else ""
        file.write_text(f"from .settings import *\n{before}\n{block.code}", encoding="utf-8")
        self._ask(settings=f"config.{module}", check=True)

    def _ask(self, settings: str = "config.settings", **question: Any) -> None:
        environment = self.environment | {"DJANGO_SETTINGS_MODULE": settings}
        question |= {"root": str(self.root), "environment": environment}
        process = interpreter()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if answer["error"]:
            raise BlockFailed(answer["error"])
        self.said = answer["said"]

    # Shell

    def run_sh(self, block: Block) -> None:
        """In one shell after another, each of which goes on with what the last one had set."""
        self.said = self._execute(["bash", "-ec", self._in_shell(block, keep=True)])

    def run_server(self, block: Block) -> None:
        """A command that does not end: it goes on in the background until the page ends."""
        self.commands += [shlex.split(line) for line in joined_lines(block.code)]
        log = self.directory.parent / f"server-{len(self.servers)}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-ec", self._in_shell(block, keep=False)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )
        self.servers.append(server)
        ports = [int(self.ports[port]) for port in PORT.findall(block.code)]

        def is_up() -> bool:
            if server.poll() is not None:
                raise BlockFailed(f"it did not start:\n{log.read_text()}")
            return all(map(answers, ports)) if ports else log.stat().st_size > 0

        wait_until(is_up, PATIENCE)

    def run_sqlite3(self, block: Block) -> None:
        """As `sh`, at the end of its page: where there is no such program, the rest is skipped."""
        if shutil.which("sqlite3") is None:
            pytest.skip("no sqlite3 shell here")  # Python has SQLite without its shell
        self.run_sh(block)

    def run_node(self, block: Block) -> None:
        """As `sqlite3`."""
        if not has_node_sqlite():
            pytest.skip("no node:sqlite here")  # Node has it from 22 on; nothing of ours needs Node
        self._execute(["node", "-e", block.code], NODE_NO_WARNINGS="1")

    def run_live(self, block: Block) -> None:
        """As `file`, at the end of its page: with an older Channels, the rest is skipped."""
        if NO_LIVE_SERVER:
            pytest.skip(NO_LIVE_SERVER)  # as its users have no live server either
        self.run_file(block)

    def run_elsewhere(self, block: Block) -> None:
        """Not to be run in a test: its syntax is checked."""
        subprocess.run(["bash", "-n"], input=block.code, text=True, check=True, timeout=PATIENCE)
        words = [shlex.split(line, comments=True) for line in joined_lines(block.code)]
        assert words
        assert {line[0] for line in words if line} <= ELSEWHERE

    def run_output(self, block: Block) -> None:
        """The output of the block before it; `...` stands for anything."""
        compare(block.code, self.said)

    def run_sample(self, block: Block) -> None:
        """As `output`, with other numbers."""
        compare(NUMBER.sub("0", block.code), NUMBER.sub("0", self.said))

    def run_picture(self, block: Block) -> None:
        """Nothing to run."""
        assert block.language == "text"

    def _in_shell(self, block: Block, *, keep: bool) -> str:
        code = PORT.sub(lambda match: self.ports.setdefault(match[0], str(free_port())), block.code)
        code = INSTALL.sub(installed, code).replace(CLONE, shlex.quote(str(ROOT)))
        code = code.replace("-m venv", "-m venv --without-pip")  # which PYTHONPATH has
        state = shlex.quote(str(self.state))
        resume = f"if [ -e {state} ]; then . {state}; fi\n"
        end = f'\n{{ export -p; echo "cd $(printf %q "$PWD")"; }} > {state}' if keep else ""
        return resume + code + end

    def _execute(self, command: list[str], **environment: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.root if environment else self.directory,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # as in a terminal
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise BlockFailed(f"status {done.returncode}:\n{done.stdout}")
        return done.stdout

    # SQL

    def run_sql(self, block: Block) -> None:
        """As the sqlite3 shell has it: each row a line, its columns between bars."""
        with contextlib.closing(sqlite3.connect(self.root / "channels.sqlite3")) as connection:
            connection.isolation_level = None
            rows = []
            for statement in statements(block.code):
                rows += connection.execute(statement).fetchall()
        self.said = "".join("|".join(map(str, row)) + "\n" for row in rows)

    # Other programs' configuration

    def run_yaml(self, block: Block) -> None:
        assert isinstance(yaml.safe_load(block.code), dict)
        if block.file:
            self.run_file(block)

    def run_ini(self, block: Block) -> None:
        """A systemd unit: it starts what the page has shown to start."""
        unit = configparser.ConfigParser(strict=True, interpolation=None)
        unit.read_string(block.code)
        program, *arguments = shlex.split(unit["Service"]["ExecStart"])
        assert [Path(program).name, *arguments] in self.commands
        assert Path(unit["Service"]["WorkingDirectory"]).is_absolute()

    def run_uwsgi(self, block: Block) -> None:
        """It loads a module that there is."""
        configuration = configparser.ConfigParser(strict=True, interpolation=None)
        configuration.read_string(block.code)
        module = configuration["uwsgi"]["module"].replace(".", "/")
        assert (self.root / f"{module}.py").exists()

    def run_nginx(self, block: Block) -> None:
        """As `caddy`, with a sign at the end of each statement."""
        lines = [line.strip() for line in block.code.splitlines() if line.strip()]
        assert [line for line in lines if line[-1] not in "{};"] == []
        self.run_caddy(block)

    def run_caddy(self, block: Block) -> None:
        """Its braces match, and it passes on to what the page starts."""
        braces = re.findall(r"[{}](?=\s)", block.code)
        assert braces.count("{") == braces.count("}")
        started = {word for command in self.commands for word in command if PORT.fullmatch(word)}
        assert set(re.findall(r"127\.0\.0\.1:(\d+)", block.code)) == started

    def run_dockerfile(self, block: Block) -> None:
        """Instructions that there are, files that there are, a command that the page has shown."""
        instructions = [line.split(" ", 1) for line in joined_lines(block.code)]
        known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "CMD"}
        assert {name for name, _ in instructions} <= known
        assert instructions[0][0] == "FROM"
        for name, words in instructions:
            if name == "COPY":
                *sources, _destination = words.split()
                assert all((self.root / source).exists() for source in sources)
            elif name == "CMD":
                assert json.loads(words) in self.commands

    # Life

    @property
    def root(self) -> Path:
        """Where manage.py is."""
        return next(self.directory.glob("*/manage.py"), self.directory / "manage.py").parent

    @property
    def environment(self) -> dict[str, str]:
        """The package of this checkout, and what is installed beside it; nothing is downloaded."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return kept | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which is yes: the build backend is here
            "PIP_NO_COMPILE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            # The plugins that the pages install, and none of this run's.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "-p pytest_django.plugin -p xdist.plugin -p no:cacheprovider",
        }

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        ended = [server for server in self.servers if server.poll() is not None]
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(10)
        if ended and error is None:
            raise BlockFailed(f"ended before the page did: {ended}")


def begin_interpreter() -> subprocess.Popen[str]:
    """A process that runs Python for the pages; see interpreter.py."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-m", "tests.docs.interpreter"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.communicate)
    return process


interpreter = cache(begin_interpreter) if hasattr(os, "fork") else begin_interpreter


def installed(command: re.Match[str]) -> str:
    """Check that the packages are here, as pip would without an index, in a second for each."""
    for each in map(Requirement, shlex.split(command[1], comments=True)):
        assert each.specifier.contains(version(each.name)), each
    return ":"


def compare(wanted: str, said: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(wanted, said, options):
        raise BlockFailed(f"it said:\n{said}")


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def joined_lines(code: str) -> list[str]:
    """The lines that are not empty, those that end in a backslash with their next one."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def statements(sql: str) -> Iterator[str]:
    """The statements of a script, of which the last one ends in a semicolon too."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), statement
