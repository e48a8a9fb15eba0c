"""The wheel and the sdist, and the promises of the project's commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "channels_sqlite"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture
def in_wheel(dist: Path) -> set[str]:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


@pytest.fixture
def in_sdist(dist: Path) -> set[str]:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def modules() -> Iterator[Path]:
    return PACKAGE.rglob("*.py")


def test_the_wheel_holds_all_of_the_package_the_licence_and_nothing_beside(
    in_wheel: set[str],
) -> None:
    metadata = f"channels_sqlite-{PROJECT['version']}.dist-info/"
    shipped = {path.relative_to(ROOT).as_posix() for path in modules()}
    assert shipped | {"channels_sqlite/py.typed", f"{metadata}licenses/LICENSE"} <= in_wheel
    assert [name for name in in_wheel if not name.startswith(("channels_sqlite/", metadata))] == []


def test_every_link_of_the_readme_leads_somewhere_from_an_index_too(dist: Path) -> None:
    with ZipFile(next(dist.glob("*.whl"))) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        readme = wheel.read(name).decode()
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_sdist_can_be_tested_and_nothing_a_run_leaves_behind_is_shipped(
    in_wheel: set[str], in_sdist: set[str]
) -> None:
    needed = {"CHANGELOG.md", "LICENSE", "README.md", "noxfile.py", "pyproject.toml"}
    modules = {"channels_sqlite/__init__.py", "tests/settings.py", "tests/smoke.py"}
    assert needed | modules <= in_sdist
    leftovers = re.compile(r"\.(pyc|sqlite3(-\w+)?)$|__pycache__|\.venv/|\.nox/|uv\.lock$")
    assert [name for name in in_wheel | in_sdist if leftovers.search(name)] == []


def test_every_import_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"].values()
    declared = {distribution(each) for each in sum(extras, PROJECT["dependencies"])}
    owners = packages_distributions()
    imported = {
        distribution(owner)
        for path in modules()
        for name in imports(path)
        if name not in {*sys.stdlib_module_names, PACKAGE.name}
        for owner in owners.get(name, [name])
    }
    # Django brings asgiref, and shares its types: a floor of our own could only contradict it.
    assert imported - {"asgiref"} <= declared


def distribution(requirement: str) -> str:
    """The normalised name that a requirement begins with."""
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def imports(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_every_nox_command_written_down_names_a_session() -> None:
    """The noxfile is read, as nox itself is not here."""
    sessions = {
        node.name
        for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    for file in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml"):
        written = re.findall(r"nox -s ([\w ]+\w)", (ROOT / file).read_text(encoding="utf-8"))
        assert written
        assert {name for names in written for name in names.split()} <= sessions


def test_every_action_is_pinned_to_a_commit() -> None:
    for workflow in (ROOT / ".github" / "workflows").iterdir():
        used = re.findall(r"uses: (.+)", workflow.read_text(encoding="utf-8"))
        assert used
        pinned = re.compile(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+")
        assert [each for each in used if not pinned.fullmatch(each)] == []
