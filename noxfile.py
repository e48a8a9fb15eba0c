"""The project's verbs: test, lint, stress, example, and the others around them.

`nox --list` explains each. Arguments after `--` go to the tool behind the verb:

    nox -s test -- tests/test_specification.py -k flush
    nox -s stress -- latency --layer sqlite
    nox -s example -- 127.0.0.1:9000
    nox -s faults            the tests of faults at length: 10,000 hostile files, locks of 30 s
    nox -s matrix            every supported combination
    nox -t oldest newest     its two corners
    nox -s sqlite            the oldest and the newest SQLite
    nox -s newest-debian     Debian unstable, with its Python and SQLite
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "test"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
DJANGOS = {"5.2": "3.11", "6.0": "3.12", "6.1": "3.12"}  # each with the oldest Python we run it on
FLOORS = "oldest"  # every other runtime dependency at the lowest version pyproject.toml promises
NEWEST = "newest"
PARALLEL = ["--numprocesses=4", "--dist=worksteal"]  # on any machine: the tests mostly wait
ADDRESS = "127.0.0.1:8000"

# If it is set, each of the thousand processes of the tests would compile Django for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests on this Python, with the newest Django and Channels it takes."""
    run_tests(session)


@nox.session(name="django-main")
def django_main(session: nox.Session) -> None:
    """Run the tests with Django as it is developed, which is not supported yet."""
    run_tests(session, "django @ https://github.com/django/django/archive/main.tar.gz")


AT_LENGTH = {
    "FAULTS_EXAMPLES": "10000",
    "FAULTS_FORKS": "1000",
    "FAULTS_INTERRUPTS": "10000",
    "FAULTS_LOCK_SECONDS": "30",
    "FAULTS_REPLACE_SECONDS": "9",
}
FAULTS = ["tests/faults", "tests/test_life.py", "tests/test_processes.py"]


@nox.session
def faults(session: nox.Session) -> None:
    """Run the tests of faults at length, which `test` runs in brief: up to an hour; on uvloop
    with TESTS_LOOP=uvloop in the environment.
    """
    session.install("-e", ".[cryptography]", *group("test"))
    arguments = session.posargs or ["--durations=10", *FAULTS]
    session.run("python", "-m", "pytest", *arguments, env=AT_LENGTH)


def combinations() -> list[nox.param]:
    """Every Python, Django and Channels that go together. The oldest and the newest carry a tag."""
    each = [
        combination
        for combination in itertools.product(PYTHONS, DJANGOS, (FLOORS, NEWEST))
        if minor(combination[0]) >= minor(DJANGOS[combination[1]])
    ]
    tags = {each[0]: [FLOORS], each[-1]: [NEWEST]}
    return [
        nox.param(
            *combination,
            id="python{}-django{}-{}".format(*combination),
            tags=tags.get(combination, []),
        )
        for combination in each
    ]


def minor(python: str) -> int:
    return int(python.split(".")[1])


@nox.session
@nox.parametrize("python,django,channels", combinations())
def matrix(session: nox.Session, django: str, channels: str) -> None:
    """Run the tests on one supported combination of Python, Django and Channels; the oldest on
    uvloop.
    """
    pins = [f"django=={django}.*"]
    if channels == FLOORS:
        pins += floors()
        if sys.platform != "win32":
            session.env["TESTS_LOOP"] = "uvloop"  # the one that uvicorn takes where it is installed
    run_tests(session, *pins)


SQLITES = {FLOORS: "pysqlite3-binary==0.4.7.post8", NEWEST: "pysqlite3-binary"}  # 3.39.4, 3.51.1
CORE = ["tests/storing", "tests/test_exceptions.py", "tests/test_migrations.py"]
CORE += ["tests/test_corners.py", "tests/test_processes.py", "tests/test_sql_api.py"]
# The tests of tests/faults that do not wait for locks: the oldest wheel only sleeps for whole
# seconds, and gives up at once if the timeout is shorter.
FAULTS_OF_CORE = ["bells", "clocks", "errors", "files", "forks", "members"]
FAULTS_OF_CORE += ["privacy", "replaced", "rows", "schemas", "wakes"]


@nox.session(python="3.11")  # Django 6 asks sqlite3 for more than pysqlite3 has
@nox.parametrize("sqlite", [nox.param(each, id=name) for name, each in SQLITES.items()])
def sqlite(session: nox.Session, sqlite: str) -> None:
    """Run the tests that concern SQLite with the oldest and the newest that the index has."""
    session.install("-e", ".[cryptography]", *group("test"), sqlite)
    # For every process of this environment, also the ones that tests start.
    put_in_its_place = (
        "import sys, pysqlite3.dbapi2;"
        ' sys.modules.update({"sqlite3": pysqlite3, "sqlite3.dbapi2": pysqlite3.dbapi2})\n'
    )
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    purelib = str(session.run("python", "-c", where, silent=True)).strip()
    Path(purelib, "another_sqlite.pth").write_text(put_in_its_place)
    session.run("python", "-c", "import sqlite3; print('SQLite', sqlite3.sqlite_version)")
    tests = [*CORE, *(f"tests/faults/test_{each}.py" for each in FAULTS_OF_CORE)]
    if sqlite == SQLITES[FLOORS]:
        # Its sqlite3 begins a transaction before `pragma journal_mode = wal`, so that Django cannot
        # execute a project's init_command.
        tests += ["-k", "not a_handler_may_send and not parallel_tests_on_files"]
    session.run("python", "-m", "pytest", *(session.posargs or [*PARALLEL, *tests]))


UNSTABLE = "ca-certificates,python3-venv,redis-server,sqlite3,strace,util-linux"
# The mounts end with the command, because they are in a mount namespace of its own.
INSIDE = """\
mkdir -p "$0/project"
mount --bind . "$0/project"
mount --bind /dev "$0/dev"
mount --bind /dev/shm "$0/dev/shm"
mount -t proc proc "$0/proc"
cd "$0/project"
exec chroot "$0" env -i -C /project HOME=/root LANG=C.UTF-8 PATH=/venv/bin:/usr/sbin:/usr/bin "$@"
"""


@nox.session(name="newest-debian", venv_backend="none")
def newest_debian(session: nox.Session) -> None:
    """Run the tests in Debian unstable, with its Python and SQLite: as root, with debootstrap.

    It is made once. Without .nox/newest-debian it is made again, with the newest packages.
    """
    if not (shutil.which("debootstrap") and shutil.which("unshare")) or os.geteuid() != 0:
        session.skip("It needs debootstrap and unshare, and to be run as root")
    place = Path(session.create_tmp()).resolve()
    root, done = place / "unstable", place / "done"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        make = ["debootstrap", "--variant=minbase", f"--include={UNSTABLE}", "unstable", str(root)]
        session.run(*make, silent=True)
        done.touch()
    trusted = Path("etc/ssl/certs/ca-certificates.crt")  # the machine's own, beside Debian's
    if Path("/", trusted).exists():
        shutil.copy(Path("/", trusted), root / trusted)
    inside = ["unshare", "--mount", "sh", "-euc", INSIDE, str(root)]
    session.run(*inside, "python3", "-m", "venv", "/venv")
    session.run(*inside, "pip", "install", "--quiet", "-e", ".[cryptography]", *group("test"))
    session.run(*inside, "python", "-m", "pytest", *(session.posargs or PARALLEL))


def floors() -> list[str]:
    requirements: list[str] = PYPROJECT["project"]["dependencies"]
    return [each.replace(">=", "==") for each in requirements if not each.startswith("django>")]


def run_tests(session: nox.Session, *pins: str) -> None:
    compiled = {"UV_COMPILE_BYTECODE": "1"}  # as pip does; uv leaves it to each first import
    session.install("-e", ".[cryptography]", *group("test"), *pins, env=compiled)
    if not session.posargs:
        session.log(
            "Running about 2,000 tests in four processes, with servers, browsers and killed"
            " processes among them: 5 to 15 minutes. Tests that need a program which this machine"
            " does not have are left out, and named."
        )
    session.run("python", "-m", "pytest", *(session.posargs or PARALLEL))


def group(name: str) -> tuple[str, ...]:
    """A dependency group's requirements; pip itself knows groups only from 25.1 on."""
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and types. Change nothing."""
    session.install("-e", ".[cryptography]", *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def stress(session: nox.Session) -> None:
    """Measure the layer beside its rivals, in the quick profile unless arguments say otherwise."""
    session.install("-e", ".[cryptography]", *group("stress"))
    session.run("python", "-m", "stress", *(session.posargs or ["--profile", "quick"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build. Warnings are errors, and nothing is downloaded."""
    session.install("-e", ".", *group("docs"))
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env"]
    session.run("python", "-m", "sphinx", *strict, *session.posargs, "docs", "docs/_build")


@nox.session(reuse_venv=True)
def example(session: nox.Session) -> None:
    """Serve the example chat until Ctrl-C, at the address given or 127.0.0.1:8000."""
    session.install("-e", ".", "-r", "example/requirements.txt")
    session.chdir("example")
    session.run("python", "manage.py", "migrate", "--verbosity=0")
    session.run("python", "manage.py", "migrate", "--database=channels", "--verbosity=0")
    session.log(
        "For the chat's summaries, in another terminal: %s %s runworker summaries",
        shutil.which("python", path=session.bin),
        Path.cwd() / "manage.py",
    )
    address = session.posargs[0] if session.posargs else ADDRESS
    if address.isdigit():
        address = f"{ADDRESS.partition(':')[0]}:{address}"
    host, _, port = address.rpartition(":")
    try:  # runserver would say so and not end
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except (OSError, ValueError) as error:
        session.error(f"Nothing can be served at {address}: {error}. For another port: -- 9000")
    session.log(f"The chat is at http://{address}/chat; Ctrl-C ends it.")
    # By default nox kills the command 0.3 s after Ctrl-C; a server gets time to end.
    session.run("python", "manage.py", "runserver", address, interrupt_timeout=10)


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel, and use the wheel in an empty environment."""
    session.install(*group("package"))
    place = Path(session.create_tmp()).resolve()
    dist, empty = place / "dist", place / "empty"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", f"--outdir={dist}", silent=True)
    artifacts = [str(artifact) for artifact in dist.iterdir()]
    session.run("twine", "check", "--strict", *artifacts)

    # virtualenv rather than venv, which Debian ships apart from Python.
    session.run("python", "-m", "virtualenv", "--quiet", "--clear", str(empty))
    python = str(empty / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    wheel = next(artifact for artifact in artifacts if artifact.endswith(".whl"))
    session.run(python, "-m", "pip", "install", "--quiet", wheel, external=True)
    session.run(python, "tests/smoke.py", external=True)
