"""Every code block of the documentation runs, and does what its page says."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels_redis.core import RedisChannelLayer

from tests.docs.blocks import TUTORIAL, Block, blocks, lightened, pages
from tests.docs.project import PATIENCE, BlockFailed, Project, needs_bash
from tests.example.servers import heed_ctrl_c

pytestmark = needs_bash


@pytest.fixture(scope="module")
def tutorials_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the tutorial ends with, migrated; to copy."""
    directory = tmp_path_factory.mktemp("tutorial")
    with Project(directory) as project:
        for block in blocks(TUTORIAL):
            if block.kind in {"file", "append"} or "startproject" in block.code:
                project.run(lightened(block))
        project.run(Block("", 0, "sh", {}, MIGRATE))
    return project.root


MIGRATE = "python manage.py migrate channels_sqlite --verbosity=0 --database=channels"


@pytest.fixture
def project(tutorials_project: Path, tmp_path: Path) -> Iterator[Project]:
    """A copy of the tutorial's project, for the blocks of another page."""
    shutil.copytree(tutorials_project, tmp_path / "page" / tutorials_project.name)
    with Project(tmp_path / "page") as project:
        project.run(Block("", 0, "sh", {}, f"cd {tutorials_project.name}"))
        yield project


@pytest.mark.timeout(300)  # a page may run suites of tests
@pytest.mark.parametrize("page", [each for each in pages() if each != TUTORIAL])
def test_the_blocks_of_a_page_run(page: str, request: pytest.FixtureRequest) -> None:
    found = list(blocks(page))
    if not found:
        return  # prose
    project: Project = request.getfixturevalue("project")
    for block in found:
        project.run(block)
    project.import_files()


async def test_the_redis_layer_of_a_page_waits_for_as_long_as_it_takes(redis_url: str) -> None:
    page = "howto/from-channels-redis.md"
    code = next(each.code for each in blocks(page) if '"address"' in each.code)
    settings: dict[str, Any] = {}
    exec(code.replace("redis://127.0.0.1:6379", redis_url), settings)
    config = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]
    layer = RedisChannelLayer(**config)
    with pytest.raises(asyncio.TimeoutError):  # and not redis' own, after five seconds
        await asyncio.wait_for(layer.receive("nobody-sends"), 7)
    await layer.close_pools()


def test_the_worker_of_a_page_ends_by_ctrl_c_and_takes_no_job_after_that(project: Project) -> None:
    found = blocks("howto/workers.md")
    (work,) = (each for each in found if (each.file or "").endswith("/work.py"))
    project.run(work)
    with subprocess.Popen(
        [sys.executable, "manage.py", "work"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as worker:
        assert worker.stdout
        send = "python manage.py channels_sqlite send reports"
        project.run(Block("", 0, "sh", {}, f"""{send} '{{"type": "report", "room": "lobby"}}'"""))
        lines = [worker.stdout.readline() for _ in range(2)]
        worker.send_signal(signal.SIGINT)
        try:
            worker.wait(PATIENCE / 4)
        finally:
            worker.kill()
        assert lines[1] == "A report of lobby\n"
    project.run(Block("", 0, "sh", {}, f"""{send} '{{"type": "report", "room": "later"}}'"""))
    assert "Nobody has taken it" in project.said


# The runner itself


WRONG = [
    *(("cobol", "STOP RUN."), ("sh", "false\ntrue\n"), ("yaml", "a: [1\n")),
    ("sh", "python -m pip install 'channels>=99'  # not yet\n"),
    ("sh", "python -m pip install no-such-package\n"),
    *(("elsewhere", "python manage.py migrate\n"), ("elsewhere", "docker 'run\n")),
    *(("output", "what was not said\n"), ("uwsgi", "[uwsgi]\nmodule = none.wsgi\n")),
    ("ini", "[Service]\nExecStart=/bin/none\nWorkingDirectory=/\n"),
    ("nginx", "server {\n    listen 80\n}\n"),
    ("nginx", "server {\n    proxy_pass http://127.0.0.1:8000;\n}\n"),
    *(("caddy", "chat.example.com {\n"), ("dockerfile", "FROM python\nCOPY nothing .\n")),
]


def test_a_wrong_block_fails(tmp_path: Path) -> None:
    with Project(tmp_path) as project:
        for kind, code in WRONG:
            with pytest.raises(BlockFailed):
                project.run(Block("page.md", 1, kind, {}, code))


def test_wrong_python_fails(project: Project) -> None:
    with pytest.raises(BlockFailed, match="ZeroDivisionError"):
        project.run(Block("page.md", 1, "python", {}, "await __import__('asyncio').sleep(1 / 0)"))
    code = 'CHANNEL_LAYERS["default"]["CONFIG"] = {"database": "missing"}'
    with pytest.raises(BlockFailed, match="E001"):
        project.run(Block("page.md", 1, "python", {"class": "settings"}, code))
    with pytest.raises(BlockFailed, match="no such table"):
        project.run(Block("page.md", 1, "sql", {}, "select * from missing;"))


def test_a_block_that_would_be_left_out_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.docs.blocks.DOCS", tmp_path)
    no_language, hidden = "```\nno language\n```\n", "```{note}\n```sh\nhidden\n```\n```\n"
    for text in ("    indented\n", no_language, hidden):
        (tmp_path / "page.md").write_text(text)
        with pytest.raises(ValueError, match=r"docs/page\.md, line 1"):
            list(blocks("page.md"))


def test_no_line_of_code_is_wider_than_the_page() -> None:
    assert {TUTORIAL, "index.md", "design.md"} <= set(pages())
    lines = [line for page in pages() for block in blocks(page) for line in block.code.splitlines()]
    assert [line for line in lines if len(line) > 88] == []
