"""The system checks: each fault is named, and its hint, followed to the letter, mends it."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, Tags, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite import checks, schema
from channels_sqlite.conf import Options
from channels_sqlite.settings import BACKEND
from tests import databases

ROUTER = "channels_sqlite.db_routers.ChannelsRouter"

Declare = Callable[..., str]
"""Declares the layer's database, with keys of DATABASES; says its alias."""


class EverythingElsewhere:
    """A router such as people have: it has an opinion on every app."""

    def db_for_write(self, model: object, **hints: object) -> str:
        return "default"

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return db == "default"


@pytest.fixture
def declare(
    tmp_path: Path, settings: Settings, django_db_blocker: DjangoDbBlocker
) -> Iterator[Declare]:
    with ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())

        def declare(**keys: Any) -> str:
            path = keys.pop("NAME", tmp_path / "layer.sqlite3")
            alias = stack.enter_context(databases.alias_for(path))
            connections.settings[alias].update(keys)
            settings.CHANNEL_LAYERS = layers(database=alias)
            return alias

        yield declare


@pytest.fixture
def migrated(declare: Declare) -> str:
    """The alias of a layer's database with all its tables, in WAL mode."""
    alias = declare()
    call_command("migrate", "channels_sqlite", database=alias, verbosity=0, skip_checks=True)
    with connections[alias].cursor() as cursor:
        cursor.execute("pragma journal_mode = wal")
    return alias


def layers(**config: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": BACKEND, "CONFIG": config}}


def messages(*databases: str) -> list[CheckMessage]:
    """What all our checks say; those of the database only for the databases named."""
    return run_checks(tags=["channels_sqlite"], include_deployment_checks=True, databases=databases)


def message(id_: str, *databases: str) -> CheckMessage:
    """The one message with that id."""
    [found] = [each for each in messages(*databases) if each.id == f"channels_sqlite.{id_}"]
    return found


def ids(*databases: str) -> set[str]:
    """The ids found, but for those that depend on the machine the tests run on."""
    return {
        each.id.removeprefix("channels_sqlite.") for each in messages(*databases) if each.id
    } - {"I001", "W003", "W007"}


def run_hint(hint: str | None, pattern: str) -> dict[str, Any]:
    """Run the part of a hint that is Python to copy, as a settings file would."""
    assert hint is not None
    found = re.search(pattern, hint, re.DOTALL)
    assert found is not None, hint
    names: dict[str, Any] = {"BASE_DIR": Path("/somewhere"), "DATABASES": {}}
    exec(found[0], names)
    return names


# Nothing wrong


def test_a_migrated_database_of_its_own_is_fine(migrated: str) -> None:
    assert ids(migrated) == set()


@pytest.mark.django_db(databases=["default", "channels"])
def test_the_databases_of_a_test_run_are_fine() -> None:
    assert connections["channels"].is_in_memory_db()  # type: ignore[attr-defined]
    assert ids("default", "channels") == set()


def test_a_project_without_our_layer_is_asked_for_nothing_more(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert ids() == set()


# CONFIG


def test_a_wrong_config_is_told_in_the_constructors_words(settings: Settings) -> None:
    config = {"capacity": 0}
    settings.CHANNEL_LAYERS = layers(**config)
    with pytest.raises(ImproperlyConfigured) as refusal:
        Options.from_config(config)
    assert message("E005").msg == str(refusal.value)
    assert 'CHANNEL_LAYERS["default"]["CONFIG"]' in str(message("E005").hint)


@pytest.mark.parametrize(
    "config",
    [{"serializer_format": "morse"}, {"expiry": -1}, {"capacite": 5}, {"database": ["channels"]}],
    ids=str,
)
def test_each_rule_of_the_config_is_checked(settings: Settings, config: dict[str, Any]) -> None:
    settings.CHANNEL_LAYERS = layers(**config)
    assert "E005" in ids()


def test_encryption_without_its_package(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    settings.CHANNEL_LAYERS = layers(symmetric_encryption_keys=["secret"])
    assert "pip install channels-sqlite[cryptography]" in message("E005").msg


@pytest.mark.parametrize("config", [None, [("capacity", 5)], "capacity"], ids=repr)
def test_a_config_that_is_no_dict(settings: Settings, config: object) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    assert message("E005").msg == f"CHANNEL_LAYERS CONFIG is {config!r}; allowed is a dict."
    assert ids() == {"E005"}


def test_every_layer_is_checked(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        **layers(),
        "jobs": {"BACKEND": BACKEND, "CONFIG": {"capacity": 0}},
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 0}},
    }
    assert "jobs" in str(message("E005").hint)


@pytest.mark.parametrize(
    ("watcher", "package"), [("inotify", "asyncinotify"), ("watchfiles", "watchfiles")]
)
def test_a_watcher_named_but_not_installed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, watcher: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings.CHANNEL_LAYERS = layers(watcher=watcher)
    hint = str(message("E006").hint)
    assert (
        f'pip install "{"channels-sqlite[inotify]" if watcher == "inotify" else watcher}"' in hint
    )
    settings.CHANNEL_LAYERS = layers(watcher="auto")
    assert "E006" not in ids()


# DATABASES


def test_an_alias_that_databases_lacks(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = layers(database="nowhere")
    names = run_hint(message("E001").hint, r"DATABASES.*")
    assert set(names["DATABASES"]) == {"nowhere"}
    assert (
        names["DATABASES"]["nowhere"]["ENGINE"] == connections["channels"].settings_dict["ENGINE"]
    )
    assert ids("nowhere") == {"E001"}


def test_an_engine_that_is_not_sqlite(declare: Declare) -> None:
    alias = declare(ENGINE="django.db.backends.dummy")
    names = run_hint(message("E002").hint, r"DATABASES.*?\n}")
    assert names["DATABASES"]["channels"]["ENGINE"] == "django.db.backends.sqlite3"
    assert ids(alias) == {"E002"}


def test_the_default_database_is_shared_with_the_projects_data(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = layers(database="default")
    hint = message("W001").hint
    assert run_hint(hint, r"SILENCED_SYSTEM_CHECKS.*")["SILENCED_SYSTEM_CHECKS"] == [
        message("W001").id
    ]
    assert ids() == {"W001"}


@pytest.mark.parametrize(
    "beside",
    [
        {"init_command": "PRAGMA synchronous=NORMAL"},
        {"transaction_mode": "IMMEDIATE"},
        {"init_command": "PRAGMA synchronous=NORMAL", "transaction_mode": "IMMEDIATE"},
    ],
    ids=" and ".join,
)
def test_options_beside_options(declare: Declare, beside: dict[str, str]) -> None:
    declare(OPTIONS={"timeout": 3}, **beside)
    found = message("W002")
    assert all(key in found.msg for key in beside)
    options = run_hint(str(found.hint).replace('"OPTIONS":', "OPTIONS ="), "OPTIONS.*")["OPTIONS"]
    assert options == {"timeout": 3, **beside}
    declare(OPTIONS=options)
    assert ids() == set()


@pytest.mark.parametrize("name", [":memory:", "file:shared?mode=memory&cache=shared"])
def test_a_database_in_memory(declare: Declare, name: str) -> None:
    alias = declare(NAME=name)
    names = run_hint(message("E007").hint, r"DATABASES.*")
    assert set(names["DATABASES"]) == {alias}
    assert ids() == {"E007"}


@pytest.mark.parametrize("file_system", ["nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs"])
def test_a_network_file_system(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_system: str
) -> None:
    share, local = tmp_path / "my share", tmp_path / "local"
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", r"\040")
    mounts.write_text(
        "/dev/root / ext4 rw 0 0\n"
        f"/dev/first {escaped} ext4 rw 0 0\n"
        f"server:/export {escaped} {file_system} rw,vers=4.2 0 0\n"
    )
    monkeypatch.setattr(checks, "MOUNTS", mounts)
    declare(NAME=share / "deeper" / "layer.sqlite3")
    assert file_system in message("W003").msg
    declare(NAME=local / "layer.sqlite3")
    assert "W003" not in {each.id for each in messages()}


def test_without_a_list_of_mounts_nothing_is_said_about_them(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOUNTS", tmp_path / "none")
    declare()
    assert not [each for each in messages() if each.id == "channels_sqlite.W003"]


# DATABASE_ROUTERS


def test_no_router(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = []
    hint = message("E003").hint
    assert ids() == {"E003"}
    settings.DATABASE_ROUTERS = run_hint(hint, r"DATABASE_ROUTERS.*")["DATABASE_ROUTERS"]
    assert ids() == set()


def test_a_router_ahead_of_ours(settings: Settings) -> None:
    other = "tests.test_checks.EverythingElsewhere"
    settings.DATABASE_ROUTERS = [other, ROUTER]
    hint = message("E004").hint
    assert ids() == {"E004"}
    settings.DATABASE_ROUTERS = run_hint(hint, r"DATABASE_ROUTERS.*")["DATABASE_ROUTERS"]
    assert [ROUTER, other] == settings.DATABASE_ROUTERS
    assert ids() == set()


def test_the_default_database_needs_no_router(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = []
    settings.CHANNEL_LAYERS = layers(database="default")
    assert ids() == {"W001"}


# What is in the database


def test_a_database_that_was_never_migrated_is_not_told_to_be_while_it_is(declare: Declare) -> None:
    assert ids(declare()) == set()


def test_a_database_that_lacks_our_tables(declare: Declare) -> None:
    alias = declare()
    with connections[alias].cursor() as cursor:
        cursor.execute("create table something_else (id integer)")
    found = message("W004", alias)
    assert ids(alias) == {"W004"}
    follow(found)
    assert ids(alias) == set()


def test_a_table_of_another_version(migrated: str) -> None:
    with connections[migrated].cursor() as cursor:
        cursor.execute(f"alter table {schema.MEMBERSHIP} drop column renewed_after")
    found = message("W004", migrated)
    assert schema.MEMBERSHIP in found.msg
    assert schema.MESSAGE not in found.msg


def test_a_lost_trigger(migrated: str) -> None:
    [trigger] = schema.TRIGGERS
    with connections[migrated].cursor() as cursor:
        cursor.execute(f"drop trigger {trigger}")
    found = message("W005", migrated)
    assert trigger in found.msg
    follow(found)
    assert ids(migrated) == set()


def test_a_journal_mode_that_is_not_wal(migrated: str) -> None:
    with connections[migrated].cursor() as cursor:
        cursor.execute("pragma journal_mode = delete")
    found = message("W006", migrated)
    assert '"delete"' in found.msg
    follow(found)
    assert ids(migrated) == set()


def test_a_database_that_cannot_be_opened(declare: Declare, tmp_path: Path) -> None:
    alias = declare(NAME=tmp_path / "no such" / "layer.sqlite3")
    found = message("E008", alias)
    mkdir = str(found.hint).partition("mkdir")
    subprocess.run(mkdir[1] + mkdir[2], shell=True, check=True)
    assert ids(alias) == set()


def test_a_file_that_is_no_database(declare: Declare, tmp_path: Path) -> None:
    (tmp_path / "layer.sqlite3").write_text("not a database, " * 100)
    assert "E008" in ids(declare())


def test_only_the_databases_asked_for_are_opened(declare: Declare, tmp_path: Path) -> None:
    declare()
    assert ids("default") == set()
    assert not (tmp_path / "layer.sqlite3").exists()


def test_a_plain_check_opens_no_database(declare: Declare, tmp_path: Path) -> None:
    declare()
    call_command("check")
    assert not (tmp_path / "layer.sqlite3").exists()


def test_the_checks_of_the_database_are_tagged_as_such(migrated: str) -> None:
    alias = migrated
    with connections[alias].cursor() as cursor:
        cursor.execute(f"alter table {schema.MEMBERSHIP} drop column renewed_after")
    found = run_checks(tags=[Tags.database], databases=[alias])
    assert [each.id for each in found] == ["channels_sqlite.W004"]


def test_no_check_keeps_migrate_from_mending(declare: Declare) -> None:
    alias = declare()
    call_command("migrate", "channels_sqlite", database=alias, verbosity=0)
    assert ids(alias) == set()


def follow(found: CheckMessage) -> None:
    """Run the `python manage.py ...` of a hint."""
    command = re.search(r"python manage\.py (.*)", str(found.hint))
    assert command is not None
    arguments = [each.strip('"') for each in re.findall(r'"[^"]*"|\S+', command[1])]
    name = arguments.pop(0)
    call_command(name, *arguments, **({"verbosity": 0} if name == "migrate" else {}))


# SQLite, and who may read


def test_an_sqlite_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert ids() == {"E009"}
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 0))
    assert ids() == set()


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 35, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_an_sqlite_with_the_wal_reset_bug(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], affected: bool
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    found = [each for each in messages() if each.id == "channels_sqlite.I001"]
    assert len(found) == affected


def test_a_file_that_others_may_read(migrated: str, tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("no file modes here")
    path = Path(connections[migrated].settings_dict["NAME"])
    for directory in path.parents:
        if not directory.stat().st_mode & 0o001 and directory.owner() == path.owner():
            directory.chmod(0o755)
    path.chmod(0o644)
    found = message("W007")
    assert str(path) in found.msg
    command = str(found.hint).removeprefix("Run: ")
    subprocess.run(command, shell=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o640
    assert "channels_sqlite.W007" not in {each.id for each in messages()}


def test_a_file_in_a_closed_directory_is_not_readable_by_others(migrated: str) -> None:
    path = Path(connections[migrated].settings_dict["NAME"])
    path.chmod(0o644)
    path.parent.chmod(0o700)
    assert "channels_sqlite.W007" not in {each.id for each in messages()}


def test_a_log_that_a_long_read_has_let_grow(migrated: str) -> None:
    wal = Path(f"{connections[migrated].settings_dict['NAME']}-wal")
    wal.touch()
    os.truncate(wal, checks.LONG_LOG)
    assert "channels_sqlite.W008" not in {each.id for each in messages()}
    wal.touch()  # who looked was the last to close the database, and removed it
    os.truncate(wal, checks.LONG_LOG + 1)
    found = message("W008")
    assert str(wal) in found.msg
    assert "lsof" in str(found.hint)


def test_what_matters_in_production_only_is_said_with_deploy_only(migrated: str) -> None:
    found = {each.id for each in run_checks(tags=["channels_sqlite"], databases=[migrated])}
    assert not found & {"channels_sqlite.I001", "channels_sqlite.W007"}
