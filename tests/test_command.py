"""`manage.py channels_sqlite`: what it prints and does, and how it declines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgpack
import pytest
from channels.layers import channel_layers
from django.core.management import CommandError, call_command, load_command_class
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite._options.settings import BACKEND
from channels_sqlite._storing import schema
from channels_sqlite._storing.sql import Transaction
from channels_sqlite._tools import doctor
from channels_sqlite._tools.doctor import Finding
from channels_sqlite._waking import watchers
from channels_sqlite.checks import check_settings
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.management import formats
from channels_sqlite.management.commands.channels_sqlite import Command
from tests import waiting
from tests.conftest import SetTimes, Start
from tests.processes import PATIENCE, ROOT, environment
from tests.projects import Project
from tests.rows import inbox_of, put, put_to_group, select
from tests.storing.tables import join

Run = Callable[..., str]
"""Runs the command with its arguments; what it printed."""


@pytest.fixture
def run(alias: str, settings: Settings) -> Iterator[Run]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"database": alias}}}
    yield command
    asyncio.run(the_layer().close())


def command(*arguments: str) -> str:
    printed = StringIO()
    call_command("channels_sqlite", *arguments, stdout=printed)
    return printed.getvalue()


def the_layer() -> SqliteChannelLayer:
    layer = channel_layers["default"]
    assert isinstance(layer, SqliteChannelLayer)
    return layer


def receive(channel: str) -> Any:
    return asyncio.run(waiting.receive(the_layer(), channel))


def members(group: str, count: int) -> list[str]:
    """New channels in the group."""
    return sorted(asyncio.run(waiting.members(the_layer(), count, group)))


# Another process


class Begun:
    """`manage.py channels_sqlite`, running until it is interrupted, as it says on stderr."""

    def __init__(self, database: Path, *arguments: str, says: str) -> None:
        self.process = subprocess.Popen(
            [*(sys.executable, "-W", "error", "-m", "django", "channels_sqlite"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(database),
        )
        assert self.process.stdout
        assert self.process.stderr
        self.stdout, self.stderr = self.process.stdout, self.process.stderr
        assert says in self.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what it has printed and complained of, after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, *said


# No sub-command


def test_alone_it_lists_its_sub_commands() -> None:
    listed = re.findall(r"^    (\w+)  ", command().partition("commands:")[2], re.MULTILINE)
    assert listed == ["stats", "tail", "send", "groups", "trim", "flush", "doctor"]


# stats


def test_stats_of_a_new_file(run: Run, database: Path) -> None:
    printed = run("stats")
    for words in (
        *(rf"^File +{re.escape(str(database))}$", "journal mode wal", "none alive"),
        "^Messages +0 waiting, 0 delivered, 0 expired$",
        "^Groups    none with messages, none with members",
        f"which is {next(watchers.kinds())} here",
    ):
        assert re.search(words, printed, re.MULTILINE)


def test_stats_are_tables_by_inbox_and_group_and_in_json_hold_everything(
    run: Run, others: sqlite3.Connection
) -> None:
    [ann] = members("chat", 1)
    now = time.time()
    put(others, "mail", created_at=now - 7.04)
    put(others, "mail", delivered_at=now - 100)
    put(others, "mail", expires_at=now - 1)
    put_to_group(others, "chat", inbox_of(ann))
    lines = [re.split(r"  +", line) for line in run("stats").splitlines()]
    assert ["Groups", "1 with messages, 1 with members (1 in all)"] in lines
    [mail] = [line for line in lines if line[0] == "mail"]
    assert mail[1:3] + mail[4:5] + mail[6:] == ["any process", "1", "1", "1", "0"]
    assert 7 <= float(mail[3].removesuffix(" s")) < 30
    assert 99 <= float(mail[5].removesuffix(" s")) < 120
    [chat] = [line for line in lines if line[0] == "chat"]
    assert [chat[1], chat[6]] == ["1", "1"]
    for number in range(28):
        put(others, f"mail.{number}")
    assert "and 10 more" in run("stats")
    stats = json.loads(run("stats", "--json"))
    assert len(stats["inboxes"]) == 30
    assert stats["total"]["waiting"] == 30
    assert stats["size"] > 0


def test_stats_tell_of_readers_that_are_alive_and_whose_inbox_each_is(
    run: Run, others: sqlite3.Connection, start: Start
) -> None:
    peers = [start("echo") for _ in range(2)]
    inboxes = [inbox_of(peer.hear()) for peer in peers]
    lines = [rf"^process {peer.pid} +{next(watchers.kinds())} " for peer in peers]
    lines.append(r"^Readers +2 alive$")
    deadline = time.monotonic() + PATIENCE
    while not all(re.search(each, run("stats"), re.MULTILINE) for each in lines):
        assert time.monotonic() < deadline, run("stats")
    readers = json.loads(run("stats", "--json"))["readers"]
    assert {each["pid"] for each in readers} == {peer.pid for peer in peers}
    assert readers[0]["counters"]["missed_wakes"] == 0
    for inbox in inboxes:
        put(others, f"{inbox}any", delivered_at=time.time())
    peers[1].kill()
    table = [re.split(r"  +", line) for line in run("stats").splitlines()]
    whose = {line[0]: line[1] for line in table if line[0].endswith("!")}
    assert whose == {inboxes[0]: f"process {peers[0].pid}", inboxes[1]: "gone"}


def test_stats_are_drawn_again_also_where_the_file_was_away_for_a_moment(
    run: Run, others: sqlite3.Connection, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = database.with_name("away")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            raise KeyboardInterrupt
        if len(naps) == 1:
            put(others, "mail")
        else:
            os.rename(*((database, away) if len(naps) == 2 else (away, database)))

    monkeypatch.setattr(time, "sleep", nap)
    printed = run("stats", "--watch", "500")
    assert re.findall(r"(\d) waiting", printed) == ["0", "1", "1"]
    assert re.search(r"\n\nFile", printed)
    assert f"{database} does not exist" in printed
    assert 400 < min(naps) <= max(naps) < 500  # to count is a part of the interval
    naps.clear()
    lines = [json.loads(line) for line in run("stats", "--watch", "500", "--json").splitlines()]
    assert ["error" in line or line["total"]["waiting"] for line in lines] == [1, 2, True, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        *("stats --watch -1", "stats --watch nan", "stats --watch 1e300"),
        *("tail --last -1", f"tail --last {2**63}", "tail --last abc"),
    ],
)
def test_a_number_that_means_nothing(arguments: str) -> None:
    number = arguments.split()[-1]
    with pytest.raises(CommandError, match=f": {number} is not a number of (seconds|messages)"):
        command(*arguments.split())


# tail


def test_tail_shows_messages_as_they_come(database: Path, others: sqlite3.Connection) -> None:
    tailing = Begun(database, "tail", says="until Ctrl-C")
    message = {"type": "test.mail", "text": "Grüß\x1b[31m", "raw": b"\xff"}
    put(others, "mail", msgpack.packb(message))
    put_to_group(others, "chat", "mail", b"\xc1")
    put(others, "mail", b"\x81\xa4type" + b"\x91" * 999 + b"\x90")  # lists within lists
    first, second, third = (tailing.stdout.readline().rstrip() for _ in range(3))
    shown = r'{"type": "test.mail", "text": "Grüß\\u001b\[31m", "raw": "\\\\xff"}'
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  mail  {shown}", first)
    assert re.search(r"  chat \(group\)  \(cannot be read: .+\)$", second)
    assert re.search(r"it is nested too deep|\[{999}", third)  # as Python has its limits
    assert select(others, f"count(*) from {schema.MESSAGE} where delivered_at is null") == [3]
    with Transaction(others):
        put(others, "mail")
        others.execute(f"delete from {schema.MESSAGE}")
    put(others, "mail", msgpack.packb({"type": "test"}))
    tailing.stdout.readline()
    assert tailing.end() == (0, "", "Not shown: 1 message, deleted before that.\n")


@pytest.mark.skipif(os.name != "posix", reason="no pipes that break here")
def test_tail_in_json_is_an_object_a_line_and_ends_with_who_reads_it(
    database: Path, others: sqlite3.Connection
) -> None:
    for type_ in ("test.mail", "test.other"):
        put(others, "mail", msgpack.packb({"type": type_}))
    arguments = ("--json", "--last", "9", "--type", "*.mail", "--channel", "m*")
    tailing = Begun(database, "tail", *arguments, says="until Ctrl-C")
    put(others, "mail", msgpack.packb({"type": "late.mail"}))
    lines = [json.loads(tailing.stdout.readline()) for _ in range(2)]
    assert [line["message"] for line in lines] == [{"type": "test.mail"}, {"type": "late.mail"}]
    assert lines[0]["id"] == 1
    assert lines[0]["channel"] == lines[0]["inbox"] == "mail"
    assert lines[0]["group"] is lines[0]["problem"] is None
    tailing.stdout.close()
    put(others, "mail", msgpack.packb({"type": "last.mail"}))
    assert tailing.process.wait(PATIENCE) == 0
    assert tailing.stderr.read() == ""
    tailing.stderr.close()


# send


def test_send_to_a_channel(run: Run, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """A process receives it, and is then killed."""
    peer = start("echo")
    channel = peer.hear()
    message = {"type": "test", "number": 1, "reply_to": "mail", "text": "Grüß"}
    words = json.dumps(message, ensure_ascii=False)
    assert run("send", channel, words) == f"Sent to {channel}.\n"
    assert capsys.readouterr().err == ""
    assert receive("mail") == message
    peer.kill()
    run("send", channel, words)
    assert "Nobody has taken it yet" in capsys.readouterr().err


def test_send_to_a_group(run: Run) -> None:
    assert run("send", "--group", "chat", '{"type": "t"}') == "Sent to chat: no members.\n"
    for channel in members("chat", 2):
        assert run("send", "--group", "chat", '{"type": "test"}') == "Sent to chat: 2 members.\n"
        assert receive(channel) == {"type": "test"}


def test_send_where_there_is_no_room(run: Run, others: sqlite3.Connection) -> None:
    asyncio.run(the_layer().group_add("chat", "mail"))
    for _ in range(100):
        put(others, "mail")
    with pytest.raises(CommandError, match="dropped for 1 of its inboxes"):
        run("send", "--group", "chat", '{"type": "test"}')
    the_layer()._drops.forget()
    with pytest.raises(CommandError, match="mail has 100 messages waiting"):
        run("send", "mail", '{"type": "test"}')


NO_TYPES = ["null", "5", '""', '"_private"', '".private"']


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mail", "{type: test}"], "not JSON.*single quotes"),
        (["mail", "[" * 100_000], "not JSON"),
        (["mail", "[1]"], "must be a dict"),
        (["mail", '{"type": "t", "n": NaN}'], "not JSON: NaN"),
        (["mail", '{"type": "t", "n": 1e999}'], "not JSON: 1e999"),
        (["ma il", '{"type": "t"}'], "Channel name must"),
        (["--group", "!", '{"type": "t"}'], "Group name must"),
        (["--group", "chat", "{}"], 'The message has no "type", .*: a consumer that gets it ends'),
        *((["mail", f'{{"type": {each}}}'], f'"type" is {each}, by which') for each in NO_TYPES),
        (["jobs"], r"not JSON.*send jobs '\{.*\}'"),
        (['{"type": "t"}'], "Name a channel, or a group"),
        (["--group", "chat", "mail", '{"type": "t"}'], "Name a channel, or a group"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_what_cannot_be_sent(run: Run, arguments: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        run("send", *arguments)


# groups


def test_groups(run: Run, others: sqlite3.Connection, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("groups").split() == ["GROUP", "members", "inboxes", "first", "lapses", "in"]
    assert capsys.readouterr().err == "No group has members.\n"
    channels = members("chat", 2)
    lines = [re.split(r"  +", line) for line in run("groups").splitlines()]
    assert lines == [["GROUP", "members", "inboxes", "first lapses in"], ["chat", "2", "1", "24 h"]]
    assert json.loads(run("groups", "--json"))[0]["members"] == 2
    assert run("groups", "chat").splitlines() == channels
    assert json.loads(run("groups", "chat", "--json")) == channels
    change = f"update {schema.MEMBERSHIP} set channel = ? where channel = ?"
    others.executemany(change, zip((b"\x1b", "jobs\x1b[2J"), channels, strict=True))
    assert run("groups", "chat").splitlines() == [r"jobs\x1b[2J", r"b'\x1b'"]
    assert run("groups", "nobody") == ""
    assert capsys.readouterr().err == "nobody has no members.\n"
    with pytest.raises(CommandError, match="Group name must"):
        run("groups", "a b")


# trim and flush


def test_trim_deletes_what_nobody_needs(run: Run, others: sqlite3.Connection) -> None:
    now = time.time()
    for _ in range(250):
        put(others, "mail", delivered_at=now - 100_000)
    put(others, "mail", expires_at=now - 100)
    put(others, "mail", delivered_at=now)
    put(others, "mail")
    join(others, "in!a", expires_in=-1)
    assert run("trim").startswith("Deleted 250 delivered messages, 1 expired one and 1 membership.")
    assert select(others, f"id from {schema.MESSAGE}") == [252, 253]
    assert run("trim") == "There was nothing to delete.\n"


def test_flush_asks_first_and_need_not_where_nobody_can_answer(
    run: Run, others: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(others, "mail")
    members("chat", 2)
    ask = Mock(side_effect=["no", "", "yes"])
    with monkeypatch.context() as answering:
        answering.setattr("builtins.input", ask)
        for _ in range(2):
            with pytest.raises(CommandError, match="Nothing was deleted"):
                run("flush")
        assert select(others, f"count(*) from {schema.MESSAGE}") == [1]
        assert run("flush") == "Deleted all messages and memberships.\n"
    assert "deletes 1 message, 1 of them waiting, and 2 memberships" in ask.call_args.args[0]
    assert select(others, f"count(*) from {schema.MESSAGE}") == [0]
    assert run("flush") == "There is nothing to delete.\n"
    put(others, "mail")
    monkeypatch.setattr(sys, "stdin", StringIO())
    with pytest.raises(CommandError, match="--no-input"):
        run("flush")
    assert select(others, f"count(*) from {schema.MESSAGE}") == [1]
    assert run("flush", "--no-input") == "Deleted all messages and memberships.\n"


def test_a_flush_that_is_interrupted_has_deleted_nothing(
    run: Run, database: Path, others: sqlite3.Connection
) -> None:
    """The exit status is a shell's own, so that `flush && deploy` stops."""
    put(others, "mail")
    with subprocess.Popen(
        [sys.executable, "-m", "django", "channels_sqlite", "flush"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(database),
    ) as flush:
        assert flush.stdout
        assert b"deletes 1 message" in flush.stdout.readline()
        while flush.poll() is None:  # the first one may come just before it begins to read
            flush.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                flush.wait(PATIENCE / 10)
        assert flush.returncode == 130
    assert select(others, f"count(*) from {schema.MESSAGE}") == [1]


def test_flush_asks_in_characters_that_the_terminal_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    project = Project(tmp_path, 'DATABASES["channels"]["NAME"] = BASE_DIR / "日本.sqlite3"')
    project.manage("migrate", "--database=channels")
    project.manage("channels_sqlite", "send", "mail", '{"type": "x"}')
    asked = project.manage("channels_sqlite", "flush", succeeds=False)
    assert r"\u65e5\u672c.sqlite3" in asked.stdout
    assert "--no-input" in asked.stderr


# doctor


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A short conversation; and the checks may open the database."""
    monkeypatch.setattr(doctor, "CALLS", 1)
    monkeypatch.setattr(doctor, "QUIET", 0.1)
    with django_db_blocker.unblock():
        yield


def test_doctor_talks_with_a_second_process_and_keeps_what_the_project_keeps(
    run: Run, others: sqlite3.Connection, hasty: None, set_times: SetTimes
) -> None:
    """For longer than there is between two sweeps."""
    set_times(sweep=0.05)
    put(others, "jobs", delivered_at=time.time())
    verdict, *details = run("doctor").splitlines()
    assert verdict.startswith(f'The watcher is {next(watchers.kinds())} ("auto"), and it works')
    for watcher in watchers.kinds():
        assert re.search(rf"^{watcher}( +\d+\.\d ms){{3}}$", "\n".join(details), re.MULTILINE)
    assert select(others, f"id from {schema.MESSAGE}") == [1]


def test_a_doctor_that_is_interrupted_has_found_nothing_out(database: Path) -> None:
    """The exit status is a shell's own, so that `doctor && deploy` stops."""
    assert Begun(database, "doctor", says="Trying").end()[0] == 130


def unwell() -> str:
    """The words of a doctor that finds something wrong."""
    printed = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("channels_sqlite", "doctor", stdout=printed)
    assert ended.value.code == 1
    return printed.getvalue()


@pytest.mark.usefixtures("hasty", "run")
def test_doctor_says_what_the_checks_say_and_apart_what_matters_in_production(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DATABASE_ROUTERS = []
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    before, after = unwell().split("\nFor production:\n")
    verdict, *details = before.splitlines()
    assert verdict == "The settings have errors: correct them first."
    assert "channels_sqlite.E003" in details[0]
    assert "HINT" in details[1]
    assert "I001" not in before
    assert "I001" in after
    settings.SILENCED_SYSTEM_CHECKS = ["channels_sqlite.I001", "channels_sqlite.W007"]
    assert "production" not in unwell()


@pytest.mark.usefixtures("hasty", "run")
def test_doctor_says_once_that_there_are_no_tables(database: Path) -> None:
    database.unlink()
    assert re.match(r".*does not exist\. Run: python manage\.py migrate", unwell())


@pytest.mark.skipif(os.name != "posix", reason="no shell scripts here")
@pytest.mark.usefixtures("hasty", "run")
def test_doctor_says_why_the_second_process_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho out of order >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    verdict, *details = unwell().splitlines()
    assert verdict.startswith("No message passes from process to process")
    assert "polling: The other process ended: out of order" in details


QUICK = [0.001] * 6
SLOW = [0.9] * 6
HEARD = Finding("inotify", QUICK, QUICK), Finding("watchfiles", QUICK, QUICK)
DEAF = Finding("inotify", SLOW, SLOW), Finding("watchfiles", SLOW, SLOW)
POLLED = Finding("polling", SLOW, SLOW)
SILENT = Finding("polling", problem="The other process did not answer in time.")


@pytest.mark.parametrize(
    ("findings", "watcher", "well", "words"),
    [
        ([*HEARD, POLLED], "inotify", True, "The watcher is inotify, and it works.* 1.0 ms"),
        ([*HEARD, POLLED], "auto", True, 'The watcher is .+ \\("auto"\\), and it works'),
        ([*DEAF, POLLED], "inotify", False, 'local disk, or set "watcher": "polling"'),
        ([DEAF[0], HEARD[1], POLLED], "inotify", False, 'or set "watcher": "watchfiles"'),
        ([*DEAF, POLLED], "polling", True, "The watcher is polling, and it works.* 900.0 ms"),
        ([*DEAF, SILENT], "auto", False, "No message passes"),
    ],
)
def test_the_verdict(findings: list[Finding], watcher: str, well: bool, words: str) -> None:
    is_well, verdict = doctor.verdict(findings, watcher)
    assert is_well == well
    assert re.search(words, verdict)


# Django's own options


def test_djangos_options_stand_on_either_side_of_the_sub_command() -> None:
    parser = load_command_class("channels_sqlite", "channels_sqlite").create_parser("", "")
    given = ["--settings=tests.settings", "--traceback"]
    for arguments in (["stats", *given], [*given, "stats"]):
        options = parser.parse_args(arguments)
        assert (options.settings, options.traceback) == ("tests.settings", True)


# Which layer


def test_without_a_layer_of_ours(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with pytest.raises(CommandError, match=f'CHANNEL_LAYERS = .*"{BACKEND}"'):
        command("stats")


@pytest.mark.parametrize("subcommand", ["doctor", "stats"])
@pytest.mark.parametrize("entry", [{"BACKEND": "channels_sqlite.Layer"}, BACKEND], ids=str)
def test_a_layer_that_is_misspelt(settings: Settings, entry: object, subcommand: str) -> None:
    settings.CHANNEL_LAYERS = {"default": entry}
    (found,) = check_settings()
    with pytest.raises(CommandError) as raised:
        command(subcommand)
    assert str(found) in str(raised.value)
    assert "channels_sqlite.E010" in str(found)
    assert "Add to the settings" not in str(raised.value)


def test_a_layer_is_chosen_by_name(run: Run, settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        **settings.CHANNEL_LAYERS,
        "jobs": {"BACKEND": BACKEND, "CONFIG": {"database": "nowhere"}},
    }
    assert "Messages" in run("stats")
    with pytest.raises(CommandError, match="'nowhere', which DATABASES does not have"):
        run("stats", "--layer", "jobs")
    with pytest.raises(CommandError, match=r"no entry 'other' of .*: default, jobs\."):
        run("stats", "--layer", "other")


@pytest.mark.usefixtures("hasty", "run")
def test_a_database_without_a_name_and_a_config_that_is_no_dict(
    alias: str, settings: Settings
) -> None:
    connections.settings[alias]["NAME"] = ""
    words = re.escape(f'DATABASES["{alias}"] has no NAME.')
    with pytest.raises(CommandError, match=words):
        command("stats")
    assert re.search(words, unwell())
    ours = settings.CHANNEL_LAYERS
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": [("capacity", 5)]}}
    for subcommand in ("stats", "groups", "tail", "trim"):
        with pytest.raises(CommandError, match="CONFIG is of type list; allowed is a dict"):
            command(subcommand)
    settings.CHANNEL_LAYERS = ours


# Formats


def test_a_table_has_columns() -> None:
    assert formats.table(("NAME", "count"), [("a", 1), ("long name", 1000)]) == [
        "NAME       count",
        "a              1",
        "long name   1000",
    ]


def test_a_number_is_written_as_people_read_it() -> None:
    durations = [formats.duration(each) for each in (None, 0, 119.9, 120, 7200, 1e6)]
    assert durations == ["-", "0.0 s", "119.9 s", "2 min", "2 h", "12 d"]
    counts = [formats.counted(each, "member") for each in range(3)]
    assert counts == ["no members", "1 member", "2 members"]
    sizes = [formats.size(each) for each in (0, 1023, 1024, 4_299_162)]
    assert sizes == ["0 bytes", "1023 bytes", "1.0 KB", "4.1 MB"]
    times = [formats.clock(each) for each in (float("inf"), 1e30, float("nan"))]
    assert times == ["inf", "1e+30", "nan"]


def test_text_of_strangers_stays_on_its_line() -> None:
    assert formats.one_line("Grüß 😀") == "Grüß 😀"
    assert formats.one_line("a\x1b[2J\r\n\x9b\u202e\ud800") == r"a\x1b[2J\r\n\x9b\u202e\ud800"


def test_json_of_what_json_does_not_know() -> None:
    assert formats.as_json({b"key": 1}) == "\"{b'key': 1}\""
    strange = {"bytes": b"\xff", "list": [1.5, None], "text": "\ud800", "number": float("nan")}
    assert formats.as_json(strange, indent=None) == (
        r'{"bytes": "\\xff", "list": [1.5, null], "text": "\ud800", "number": "NaN"}'
    )


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    terminal = TextIOWrapper(BytesIO(), "cp1252", newline="\n")
    Command(stdout=terminal).say("Grüß 中")
    terminal.seek(0)
    assert terminal.read() == "Grüß \\u4e2d\n"
