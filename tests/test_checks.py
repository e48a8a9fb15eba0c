"""The system checks: each fault is named, and its hint, followed to the letter, mends it."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil  # noqa: F401 - for skipif
import sqlite3
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from channels.exceptions import InvalidChannelLayerError
from channels.layers import channel_layers
from django.core.checks import CheckMessage, Tags, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.test.utils import _TestState
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite._options.conf import Options
from channels_sqlite._options.settings import BACKEND
from channels_sqlite._storing import mounts, schema
from channels_sqlite._tools import file_checks, tables
from channels_sqlite.db_routers import ChannelsRouter
from channels_sqlite.exceptions import DatabaseUnavailable
from channels_sqlite.layers import SqliteChannelLayer
from tests import databases
from tests.projects import Project

ROUTER = "channels_sqlite.db_routers.ChannelsRouter"

Declare = Callable[..., str]
"""Declares the layer's database, with keys of DATABASES; says its alias."""


class EverythingElsewhere:
    """A router such as people have: it has an opinion on every app."""

    def db_for_write(self, model: object, **hints: object) -> str:
        return "default"


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
    return alias


def layers(**config: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": BACKEND, "CONFIG": config}}


def messages(*databases: str) -> list[CheckMessage]:
    """The messages of all our checks; those of the database only for the databases named."""
    return run_checks(tags=["channels_sqlite"], include_deployment_checks=True, databases=databases)


def message(id_: str, *databases: str) -> CheckMessage:
    """The one message with that id."""
    [found] = [each for each in messages(*databases) if each.id == f"channels_sqlite.{id_}"]
    return found


def all_ids(*databases: str) -> set[str]:
    return {str(each.id).removeprefix("channels_sqlite.") for each in messages(*databases)}


def ids(*databases: str) -> set[str]:
    """The ids found, except those that depend on the machine the tests run on."""
    return all_ids(*databases) - {"I001", "W003", "W007"}


ENTRY = r"DATABASES\S* = {.*?\n}"


def run_hint(hint: str | None, pattern: str) -> dict[str, Any]:
    """Run the part of a hint that is Python to copy, as a settings file would."""
    assert hint is not None
    found = re.search(pattern, hint, re.DOTALL)
    assert found is not None, hint
    names: dict[str, Any] = {"BASE_DIR": Path("/somewhere"), "DATABASES": {}}
    exec(found[0], names)
    return names


def mend(settings: Settings, name: str, hint: str | None) -> None:
    """Set what a hint says, of which nothing is wrong then."""
    setattr(settings, name, run_hint(hint, f"{name} = .*")[name])
    assert ids() == set()


# Nothing wrong


def test_a_migrated_database_of_its_own_is_fine(migrated: str) -> None:
    assert ids(migrated) == set()


@pytest.mark.django_db(databases=["default", "channels"])
def test_the_databases_of_a_test_run_are_fine() -> None:
    assert connections["channels"].is_in_memory_db()  # type: ignore[attr-defined]
    assert ids("default", "channels") == set()


def test_a_project_without_our_layer_is_asked_for_nothing_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with settings for tests that put the in-memory layer in its place."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.DATABASE_ROUTERS = []
    monkeypatch.delitem(connections.settings, "channels")
    assert ids("default", "channels") == set()


# CHANNEL_LAYERS and CONFIG


def test_a_project_without_any_layer(settings: Settings) -> None:
    """CHANNELS_LAYERS was written, for example."""
    nothing: Any
    for nothing in ({}, None):
        settings.CHANNEL_LAYERS = nothing
        assert ids() == {"W012"}
    del settings.CHANNEL_LAYERS
    assert ids() == {"W012"}
    mend(settings, "CHANNEL_LAYERS", message("W012").hint)


def test_encryption_without_its_package(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    settings.CHANNEL_LAYERS = layers(symmetric_encryption_keys=["secret"])
    assert "\npython -m pip install cryptography\n" in str(message("E005").hint)


def test_all_that_is_wrong_in_a_config_is_said_at_once(settings: Settings) -> None:
    """In the constructor's words, and for each entry of CHANNEL_LAYERS that is ours."""
    config = {"hosts": [], "prefix": "asgi", "poling_interval": 1, "capacity": 0, "zzz": 1}
    settings.CHANNEL_LAYERS = {
        **layers(),
        "jobs": {"BACKEND": BACKEND, "CONFIG": {**config, "expiry": 60}},
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 0}},
    }
    errors = [each for each in messages() if each.id == "channels_sqlite.E005"]
    assert all('CHANNEL_LAYERS["jobs"]["CONFIG"]' in str(each.hint) for each in errors)
    found = [each.msg for each in errors]
    hosts, prefix, polling, capacity, other = found
    assert all("channels_redis' own; here DATABASES names the file" in _ for _ in (hosts, prefix))
    assert "Did you mean 'polling_interval'? It may have: database, " in polling
    with pytest.raises(ImproperlyConfigured, match=re.escape(capacity)):
        Options.from_config({"capacity": 0})
    assert "Did you mean" not in other


@pytest.mark.parametrize("config", [None, [("capacity", 5)], "capacity"], ids=repr)
def test_a_config_that_is_no_dict(settings: Settings, config: object) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    assert message("E005").msg == (
        f"CHANNEL_LAYERS CONFIG is of type {type(config).__name__}; allowed is a dict."
    )
    assert ids() == {"E005"}


def test_a_watcher_that_does_not_work_here(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    settings.CHANNEL_LAYERS = layers(watcher="watchfiles")
    assert "python -m pip install watchfiles\n" in str(message("E006").hint)
    monkeypatch.setattr(sys, "platform", "darwin")
    settings.CHANNEL_LAYERS = layers(watcher="inotify")
    assert "Linux" in message("E006").msg
    settings.CHANNEL_LAYERS = layers(watcher="auto")
    assert "E006" not in ids()


@pytest.mark.parametrize(
    "backend",
    [
        *("channels_sqlite.layers.SQLiteChannelLayer", "channels_sqlite.layers"),
        *("channel_sqlite.layers.SqliteChannelLayer", "channels.sqlite.layers.SqliteChannelLayer"),
        *("channels.layers.SqliteChannelLayer", "SqliteChannelLayer", "SQLiteChannelLayer"),
    ],
)
def test_a_misspelt_backend(settings: Settings, backend: str) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    found = message("E010")
    assert backend in found.msg
    [right] = re.findall(r'"BACKEND": "(.*)"', str(found.hint))
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": right}}
    assert ids() == set()


def test_a_module_for_a_backend(tmp_path: Path) -> None:
    """In a process of its own: here others have imported the module already."""
    entries = '{"BACKEND": "channels_sqlite"}, "other": {"BACKEND": "channels_sqlite.layers"}'
    project = Project(tmp_path, f'CHANNEL_LAYERS = {{"default": {entries}}}')
    said = project.manage("check", succeeds=False).stderr
    assert said.count("channels_sqlite.E010") == 2


@pytest.mark.parametrize("backend", [BACKEND, "channels_redis.core.RedisChannelLayer"])
@pytest.mark.parametrize(
    ("name", "beside"),
    [("default", {}), ("BACKEND", {}), ("BACKEND", {"CONFIG": {"capacity": 5}})],
    ids=str,
)
def test_an_entry_whose_dict_was_forgotten(
    settings: Settings, name: str, beside: dict[str, Any], backend: str
) -> None:
    settings.CHANNEL_LAYERS = {name: backend, **beside}
    found = message("E010")
    assert f'CHANNEL_LAYERS["{name}"] is a string' in found.msg
    _, line = str(found.hint).split("\n")
    mended = run_hint(f"LAYERS = {{{line}}}", ".*")["LAYERS"]
    assert mended == {"default": {"BACKEND": backend}}
    settings.CHANNEL_LAYERS = mended
    assert ids() == set()


def test_layers_and_entries_that_are_no_dict(settings: Settings) -> None:
    for wrong in ([{"BACKEND": BACKEND}], "channels_sqlite", 5):
        settings.CHANNEL_LAYERS = wrong
        found = message("E010")
        assert f"is of type {type(wrong).__name__}" in found.msg
        mend(settings, "CHANNEL_LAYERS", found.hint)
    for name, entry, words in (
        ("BACKEND", BACKEND, "beside the entries"),
        ("CONFIG", {}, "beside the entries"),
        ("default", {"BACKEND": SqliteChannelLayer}, "a BACKEND that is of type type"),
        *(
            ("default", entry, f"is of type {type(entry).__name__}")
            for entry in (None, 5, [BACKEND])
        ),
    ):
        settings.CHANNEL_LAYERS = {**layers(), name: entry}
        assert words in message("E010").msg


def test_nothing_that_may_be_secret_is_shown(settings: Settings) -> None:
    keys = {"symmetric_encryption_keys": "hidden-key"}
    entry = {"BACKEND": BACKEND, "CONFIG": keys}
    for wrong in (
        ({"default": entry},),
        {"default": (entry,)},
        {"default": {"BACKEND": BACKEND, "CONFIG": [keys]}},
        {"default": entry},
        {"default": {"BACKEND": BACKEND, "OPTIONS": {**keys, "hosts": ["redis://:hidden@host"]}}},
    ):
        settings.CHANNEL_LAYERS = wrong
        found = messages()
        assert found
        assert "hidden" not in str(found)
    assert "hidden" not in repr(Options(symmetric_encryption_keys=("hidden",)))


class Tenant(SqliteChannelLayer):
    """A layer of a project's, with an option of its own."""

    def __init__(self, tenant: str, **config: Any) -> None:
        super().__init__(**config)


def test_a_subclass_may_have_options_of_its_own(migrated: str, settings: Settings) -> None:
    config = {"database": migrated, "tenant": "ann", "capacity": 0}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Tenant", "CONFIG": config}}
    assert "'capacity' is 0" in message("E005").msg
    config["capacity"] = 5
    assert ids() == set()


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"NAME": None}, "E007"),
        ({"ENGINE": "sqlite3"}, "E002"),
        ({"OPTIONS": {"no_such_option": 1}}, "E008"),
    ],
    ids=["name", "engine", "options"],
)
def test_wrong_keys_of_a_database(migrated: str, keys: dict[str, Any], found: str) -> None:
    connections[migrated].close()
    connections.settings[migrated].update(keys)
    assert f"channels_sqlite.{found}" in {each.id for each in messages(migrated)}


def test_an_entry_without_backend(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {}}}
    found = message("E010")
    with pytest.raises(InvalidChannelLayerError) as raised:
        channel_layers["default"]
    assert str(raised.value) in found.msg
    assert f'"BACKEND": "{BACKEND}"' in str(found.hint)


@pytest.mark.parametrize(
    "backend",
    [
        *("channels.layers.InMemoryChannelLayer", "channels_redis.core.RedisChannelLayer"),
        # These are not there to be imported.
        *("channels_lite.core.SqliteChannelLayer", "chat.layers.SqliteChannelLayer", "no.Layer"),
        "of_others.Layer",
    ],
)
def test_another_backend_is_not_taken_for_a_misspelt_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    (tmp_path / "of_others.py").write_text("raise RuntimeError('not in INSTALLED_APPS')")
    monkeypatch.syspath_prepend(tmp_path)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    assert ids() == set()


def test_options_beside_config(settings: Settings) -> None:
    """The options of CACHES as well."""
    beside = {"expiry": 30, "watcher": "auto", "LOCATION": "/tmp", "OPTIONS": {"capacity": 5}}
    config = {"expiry": 10, "watcher": "auto", "capacity": 5}
    right = {"CONFIG": {"expiry": 10}, "TEST_CONFIG": {}}
    for ignored, entry in ((beside, right), ({"config": config}, {})):
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, **ignored, **entry}}
        found = message("W009")
        assert " and ".join(ignored) in found.msg
        hint = str(found.hint).replace('"CONFIG":', "CONFIG =")
        assert run_hint(hint, "CONFIG.*")["CONFIG"] == config
    settings.CHANNEL_LAYERS = layers(**config)
    assert ids() == set()
    for key, value in beside.items():  # and no CONFIG at all
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, key: value}}
        assert ids() == {"W009"}


def test_a_poll_that_comes_too_late(settings: Settings) -> None:
    for interval, config, slow in (
        (0.9, {}, False),
        (1, {}, True),
        (50, {"watcher": "watchfiles"}, True),
        (50, {"watcher": "inotify"}, False),
        (0.5, {"expiry": 0.5}, True),
        (0.5, {"expiry": 0.6}, False),
    ):
        settings.CHANNEL_LAYERS = layers(polling_interval=interval, **config)
        assert ids() == ({"W011"} if slow else set())


# DATABASES


def test_an_alias_that_databases_lacks(settings: Settings, migrated: str) -> None:
    settings.CHANNEL_LAYERS = layers(database="nowhere")
    names = run_hint(message("E001").hint, r"DATABASES.*")
    assert set(names["DATABASES"]) == {"nowhere"}
    assert names["DATABASES"]["nowhere"]["ENGINE"] == "django.db.backends.sqlite3"
    assert ids("nowhere") == {"E001"}
    assert "is meant" not in str(message("E001").hint)
    settings.CHANNEL_LAYERS = layers(database="chanels")
    assert '"database": "channels"\nOr: ' in str(message("E001").hint)
    settings.CHANNEL_LAYERS = layers(database=f"{migrated}s")
    (copied,) = re.findall(r'"database": "(.+)"$', str(message("E001").hint), re.MULTILINE)
    settings.CHANNEL_LAYERS = layers(database=copied)
    assert ids(migrated) == set()


def test_an_engine_that_is_not_sqlite(declare: Declare) -> None:
    alias = declare(ENGINE="django.db.backends.dummy")
    names = run_hint(message("E002").hint, ENTRY)
    assert names["DATABASES"]["channels"]["ENGINE"] == "django.db.backends.sqlite3"
    assert ids(alias) == {"E002"}


def test_a_wrapped_engine_is_sqlite_too(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As people have it for metrics."""
    (tmp_path / "wrapped").mkdir()
    base = "from django.db.backends.sqlite3.base import DatabaseWrapper\n"
    (tmp_path / "wrapped" / "base.py").write_text(base)
    monkeypatch.syspath_prepend(tmp_path)
    alias = declare(ENGINE="wrapped")
    assert ids(alias) == {"W004"}
    follow(message("W004", alias))
    assert ids(alias) == set()
    asyncio.run(SqliteChannelLayer(database=alias).send("test-channel", {"type": "test"}))


def test_the_default_database_is_shared_with_the_projects_data(settings: Settings) -> None:
    """It needs no router."""
    settings.DATABASE_ROUTERS = []
    settings.CHANNEL_LAYERS = layers(database="default")
    found = message("W001")
    for words in ("this thread's own transaction", "transaction.on_commit", "GroupSend"):
        assert words in f"{found.msg} {found.hint}"
    silenced = run_hint(found.hint, r"SILENCED_SYSTEM_CHECKS.*")["SILENCED_SYSTEM_CHECKS"]
    assert silenced == [found.id]
    assert ids() == {"W001"}


@pytest.mark.parametrize(
    "beside", [{"timeout": 20}, {"init_command": "", "transaction_mode": "IMMEDIATE"}], ids=str
)
def test_options_beside_options(declare: Declare, beside: dict[str, object]) -> None:
    declare(OPTIONS={"cached_statements": 200}, **beside)
    found = message("W002")
    assert " and ".join(beside) in found.msg
    assert "which changes nothing" in str(found.hint)
    declare(OPTIONS={"cached_statements": 200})
    assert ids() == set()


def test_a_database_that_is_no_file(declare: Declare) -> None:
    in_memory = (":memory:", "file:shared?mode=memory&cache=shared")
    for name, words in (("", "has no NAME."), *((each, "is in memory") for each in in_memory)):
        alias = declare(NAME=name)
        found = message("E007", alias)
        assert words in found.msg
        assert set(run_hint(found.hint, r"DATABASES.*")["DATABASES"]) == {alias}
        assert ids(alias) == {"E007"}


def test_two_aliases_of_one_file(
    declare: Declare, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each remedy ends in a project without a fault; where the layer's alias is misspelt, too."""
    monkeypatch.delattr(_TestState, "saved_data")  # as where no tests are running
    monkeypatch.chdir(tmp_path)
    path, link = tmp_path / "db.sqlite3", tmp_path / "link.sqlite3"
    link.symlink_to(path)
    monkeypatch.setitem(connections.settings["default"], "NAME", path)
    for name in (path, link, path.name):
        alias = declare(NAME=name)
        hint = message("E009").hint
        assert str(hint).startswith("Give the layer a file of its own")
    declare(**run_hint(hint, ENTRY)["DATABASES"][alias])
    assert ids() == set()
    assert '"database": "default"' in str(hint)
    settings.CHANNEL_LAYERS = layers(database="default")
    assert ids() == {"W001"}
    alias = declare()
    ours = connections.settings[alias]
    ours["NAME"] = tmp_path / f"{alias}.sqlite3"
    with databases.alias_for(ours["NAME"]) as other:
        hint = message("E009").hint
        assert str(hint).startswith(f'Remove DATABASES["{other}"]')
        connections.settings[other]["NAME"] = f"file:{ours['NAME']}?mode=ro"  # in nobody's way
        assert ids() == set()
        connections.settings[other]["NAME"] = ours["NAME"]
        ours["NAME"] = tmp_path / run_hint(hint, ENTRY)["DATABASES"][alias]["NAME"].name
        assert ids() == set()


@pytest.fixture
def mount_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for the kernel's list of mounts; it does not exist yet."""
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    return tmp_path / "mountinfo"


def mounted(place: Path, kind: str) -> bytes:
    """A line of that list, as Linux writes it."""
    escaped = os.fsencode(place).replace(b"\\", rb"\134").replace(b" ", rb"\040")
    return b"23 22 0:5 / %s rw master:1 shared:2 - %s source rw\n" % (escaped, kind.encode())


@pytest.mark.parametrize("name", [b"my \\ share", b"caf\xe9"])
def test_a_network_file_system(
    declare: Declare, tmp_path: Path, mount_table: Path, name: bytes
) -> None:
    share = tmp_path / os.fsdecode(name)
    for kind in ("nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs"):
        lines = [(Path("/"), "ext4"), (share, "ext4"), (share, kind)]
        mount_table.write_bytes(b"".join(mounted(*each) for each in lines))
        declare(NAME=share / "deeper" / "layer.sqlite3")
        assert kind in message("W003").msg
    declare(NAME=tmp_path / "local" / "layer.sqlite3")
    assert "W003" not in all_ids()


def test_without_a_list_of_mounts_nothing_is_said_about_them(
    declare: Declare, mount_table: Path
) -> None:
    declare()
    assert not all_ids() & {"W003", "E011"}
    for text in (b"", b"something else\n"):
        mount_table.write_bytes(text)
        assert not all_ids() & {"W003", "E011"}


@pytest.mark.skipif("shutil.which('unshare') is None", reason="no unshare here")
def test_a_file_that_is_mounted_by_itself(tmp_path: Path) -> None:
    """As `-v ./channels.sqlite3:/app/channels.sqlite3` does it."""
    project = Project(tmp_path)
    (tmp_path / "host.sqlite3").touch()
    project.database.touch()
    bind = f"mount --bind {tmp_path}/host.sqlite3 {project.database}"
    namespace = ("unshare", "-Urm", "sh", "-ec", f'{bind}; exec "$@"', "sh")
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    said = project.manage("check", prefix=namespace, succeeds=False).stderr
    assert "channels_sqlite.E011" in said
    assert f"{project.database} is mounted as a single file" in said
    project.manage("check")


def test_a_file_with_two_names(declare: Declare, tmp_path: Path) -> None:
    """As `cp -al` makes it; to remove the other name is the remedy."""
    declare(NAME=tmp_path / "layer.sqlite3")
    (tmp_path / "layer.sqlite3").touch()
    other = tmp_path / "other.sqlite3"
    other.hardlink_to(tmp_path / "layer.sqlite3")
    assert "2 hard links" in message("E011").msg
    assert f"-samefile {tmp_path}/layer.sqlite3" in str(message("E011").hint)
    other.unlink()
    assert "E011" not in ids()


def test_a_relative_name(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/layer.sqlite3", "file:data/layer.sqlite3?cache=private"):
        declare(NAME=name)
        found = message("W010")
        assert str(tmp_path) in found.msg
        assert str(tmp_path / "data" / "layer.sqlite3") in found.msg
        names = run_hint(str(found.hint).replace('"NAME":', "NAME ="), "NAME.*")
        assert names["NAME"] == Path("/somewhere/data/layer.sqlite3")
        declare(NAME=tmp_path / "layer.sqlite3")
        assert ids() == set()
    declare(NAME="test.sqlite3", TEST={"NAME": "test.sqlite3"})  # as in a test run
    assert "W010" not in ids()


# DATABASE_ROUTERS


def test_no_router_and_one_ahead_of_ours(settings: Settings) -> None:
    other = "tests.test_checks.EverythingElsewhere"
    for routers, id_, mended in (
        ([], "E003", [ROUTER]),
        ([EverythingElsewhere(), ChannelsRouter()], "E004", [ROUTER, other]),
        ([other, ROUTER], "E004", [ROUTER, other]),
    ):
        settings.DATABASE_ROUTERS = routers
        assert ids() == {id_}
        mend(settings, "DATABASE_ROUTERS", message(id_).hint)
        assert mended == settings.DATABASE_ROUTERS


# The contents of the database


def test_migrate_that_runs_the_same_checks_first_is_neither_stopped_nor_told_to_migrate(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = declare()
    assert "never migrated" in message("W004", alias).msg
    assert not (tmp_path / "layer.sqlite3").exists()
    monkeypatch.setattr(sys, "argv", ["manage.py", "migrate"])
    assert ids(alias) == set()
    call_command("migrate", "channels_sqlite", database=alias, verbosity=0, skip_checks=False)
    assert ids(alias) == set()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 1", "never migrated"),
        ("create table t (id integer)", "does not have the tables"),
        *((f"create table {old} (id integer)", "channels-sqlite 0.1") for old in tables.OF_0_1),
    ],
)
def test_a_database_that_lacks_our_tables(declare: Declare, sql: str, words: str) -> None:
    alias = declare()
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
    found = message("W004", alias)
    assert words in found.msg
    assert found.hint == f"Run: python manage.py migrate --database={alias}"  # as NotMigrated says
    assert ids(alias) == {"W004"}
    follow(found)
    assert ids(alias) == set()


def test_an_error_of_sqlite_for_which_migrate_is_no_remedy_leads_to_the_check(
    migrated: str,
) -> None:
    async def send() -> None:
        layer = SqliteChannelLayer(database=migrated)
        try:
            await layer.send("jobs", {"type": "job"})
        finally:
            await layer.close()

    with connections[migrated].cursor() as cursor:
        cursor.execute(f"alter table {schema.MESSAGE} rename column expires_at to ends_at")
    with pytest.raises(DatabaseUnavailable, match=r"no column .* `manage.py check` with `--data"):
        asyncio.run(send())
    call_command("migrate", "channels_sqlite", database=migrated, verbosity=0, skip_checks=True)
    follow(message("W004", migrated))
    asyncio.run(send())


TRIGGERS = schema.TRIGGERS | schema.VIEW_TRIGGERS


@pytest.mark.parametrize(
    ("statements", "id_", "words"),
    [
        ([f"alter table {schema.MESSAGE} add column more"], "W004", {schema.MESSAGE}),
        (["pragma journal_mode = delete"], "W006", {'"delete"'}),
        ([f"drop view {name}" for name in schema.VIEWS], "W004", {*schema.VIEWS}),
        ([f"drop index {name}" for name in schema.INDEXES], "W005", {*schema.INDEXES}),
        ([f"drop trigger {name}" for name in TRIGGERS], "W005", {*TRIGGERS}),
    ],
    ids=["a table of another version", "not in WAL mode", "no views", "no indexes", "no triggers"],
)
def test_what_has_changed_since_migrate_is_named(
    migrated: str, statements: list[str], id_: str, words: set[str]
) -> None:
    with connections[migrated].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    found = message(id_, migrated)
    assert words
    assert [each for each in words if each not in found.msg] == []
    assert found in run_checks(tags=[Tags.database], databases=[migrated])
    follow(found)
    assert ids(migrated) == set()


def test_a_journal_mode_that_init_command_sets(declare: Declare, migrated: str) -> None:
    connections[migrated].close()
    alias = declare(OPTIONS={"init_command": "PRAGMA journal_mode = DELETE;"})
    assert 'OPTIONS["init_command"] sets it: remove that.' in str(message("W006", alias).hint)
    alias = declare()
    found = message("W006", alias)
    assert "init_command" not in str(found.hint)
    follow(found)
    assert ids(alias) == set()


def test_a_database_that_cannot_be_opened(declare: Declare, tmp_path: Path) -> None:
    alias = declare(NAME=tmp_path / "no such" / "layer.sqlite3")
    found = message("E008", alias)
    mkdir = str(found.hint).partition("mkdir")
    subprocess.run(mkdir[1] + mkdir[2], shell=True, check=True)
    assert ids(alias) == {"W004"}


def test_a_name_that_is_a_directory(declare: Declare, tmp_path: Path, mount_table: Path) -> None:
    """A volume of a container, for example."""
    mount_table.write_bytes(mounted(tmp_path, "ext4"))
    alias = declare(NAME=tmp_path)
    assert ids(alias) == {"E008"}
    found = message("E008", alias)
    assert "NAME is a directory" in str(found.hint)
    alias = declare(NAME=literal_eval(str(found.hint).rpartition(" = ")[2]))
    follow(message("W004", alias))
    assert ids(alias) == set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_mistake_in_init_command_and_a_file_that_is_no_database(
    declare: Declare, tmp_path: Path
) -> None:
    file = tmp_path / "layer.sqlite3"
    file.touch()
    alias = declare(OPTIONS={"init_command": "PRAGM journal_mode=WAL;"})
    found = message("E008", alias)
    assert 'OPTIONS["init_command"]:\nPRAGM journal_mode=WAL;' in str(found.hint)
    alias = declare(OPTIONS={"init_command": "PRAGMA journal_mode=WAL;"})
    assert ids(alias) == {"W004"}
    connections[alias].close()
    file.write_text("not a database, " * 100)
    open_to_all(file)
    alias = declare(OPTIONS={"init_command": "PRAGMA synchronous=NORMAL;"})
    assert str(message("E008", alias).hint).startswith("The file must be an SQLite database")
    assert "W007" not in all_ids(alias)
    assert message("W007")  # nobody has asked to open it
    gc.collect()  # Django leaves a connection open if its first statements fail


AS_ANOTHER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.skipif(
    "os.name != 'posix' or os.getuid() != 0 or not shutil.which('setpriv')",
    reason="no second user here",
)
def test_what_a_user_may_not_write_is_named() -> None:
    """The database of another one, which is not opened then; its log, of a command that root ran
    and that was killed; its directory. And those of its own, without the rights to them.
    """
    if subprocess.run([*AS_ANOTHER, sys.executable, "-c", "import django"]).returncode:
        pytest.skip("another user may not run this Python here")

    def check(*options: str, succeeds: bool = False) -> str:
        command = ("check", "--database=channels", *options)
        return project.manage(*command, prefix=AS_ANOTHER, succeeds=succeeds).stderr

    with TemporaryDirectory() as name:  # pytest's are closed to others
        directory = Path(name)
        project = Project(directory)
        database = project.database
        project.manage("migrate", "--database=channels")
        directory.chmod(0o777)
        database.chmod(0o644)
        before = {each.name for each in directory.iterdir()}
        said = check()
        assert "channels_sqlite.E012" in said
        assert f"{database} belongs to user 0 (root)" in said
        assert "this process's user 65534 (nobody) has no" in said
        assert f"sudo -u root {sys.executable} manage.py check --database channels" in said
        assert {each.name for each in directory.iterdir()} == before
        send = ("channels_sqlite", "send", "jobs", '{"type": "job"}')
        project.manage(*send)  # root makes the bells as well
        [command] = re.findall(r"sudo (chown .*)", check())
        subprocess.run(command, shell=True, check=True)
        assert {each.stat().st_uid for each in directory.glob("channels.*")} == {65534}
        project.manage(*send, prefix=AS_ANOTHER)
        logs = [Path(f"{database}{end}") for end in ("-wal", "-shm")]
        for log in logs:
            log.touch()
        for log in logs:
            said = check()
            assert f"{log} belongs to user 0 (root)" in said
            [command] = re.findall(r"sudo (chown .*)", said)
            subprocess.run(command, shell=True, check=True)
        check(succeeds=True)
        directory.chmod(0o755)
        said = check()
        assert f"{directory} belongs to user 0 (root)" in said
        assert "chown" not in said  # it may be /var/lib
        assert "let NAME be in a directory of theirs" in said
        os.chown(directory, 65534, 65534)
        for path, mode in ((directory, 0o555), (database, 0)):
            path.chmod(mode)
            [command] = re.findall(r"chmod .*", check())
            subprocess.run([*AS_ANOTHER, "sh", "-c", command], check=True)
        check(succeeds=True)
        closed = directory / "closed"
        closed.mkdir(0o700)
        project.configure(f'DATABASES["channels"]["NAME"] = {str(closed / "layer.sqlite3")!r}\n')
        assert f"{closed} belongs to user 0 (root)" in check("--deploy")
        (inside := closed / "inside").mkdir()
        project.configure(f'DATABASES["channels"]["NAME"] = {str(inside / "layer.sqlite3")!r}\n')
        for prefix in (AS_ANOTHER, ("setpriv", "--euid=65534")):  # root's, by its real id
            command = ("check", "--database=channels")
            said = project.manage(*command, prefix=prefix, succeeds=False).stderr
            assert f"{closed} belongs to user 0 (root)" in said


def follow(found: CheckMessage) -> None:
    """Run each `python manage.py ...` of a hint."""
    commands = re.findall(r"python manage\.py (.*)", str(found.hint))
    assert commands
    for command in commands:
        arguments = [each.strip('"') for each in re.findall(r'"[^"]*"|\S+', command)]
        name = arguments.pop(0)
        call_command(name, *arguments, **({"verbosity": 0} if name == "migrate" else {}))


# SQLite, and who may read


WITH_THE_BUG = [(3, 35, 0), (3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2)]
WITHOUT_IT = [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 53, 0)]


def test_an_sqlite_with_the_wal_reset_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in WITH_THE_BUG + WITHOUT_IT:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        assert ("I001" in all_ids()) == (version in WITH_THE_BUG), version
        without_deploy = {each.id for each in run_checks(tags=["channels_sqlite"], databases=[])}
        assert "channels_sqlite.I001" not in without_deploy


def open_to_all(path: Path) -> None:
    for directory in path.parents:
        if not directory.stat().st_mode & 0o001 and directory.owner() == path.owner():
            directory.chmod(0o755)
    path.chmod(0o644)


def test_a_file_that_others_may_read(migrated: str, tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("no file modes here")
    path = Path(connections[migrated].settings_dict["NAME"])
    open_to_all(path)
    found = message("W007")
    assert str(path) in found.msg
    assert found not in run_checks(tags=["channels_sqlite"], databases=[])  # but with --deploy
    path.parent.chmod(0o700)
    assert "W007" not in all_ids()
    path.parent.chmod(0o755)
    command = str(found.hint).removeprefix("Run: ")
    subprocess.run(command, shell=True, check=True)
    assert path.stat().st_mode & 0o777 == 0o640
    assert "W007" not in all_ids()


def test_a_log_that_a_long_read_has_let_grow(migrated: str) -> None:
    wal = Path(f"{connections[migrated].settings_dict['NAME']}-wal")
    wal.touch()
    os.truncate(wal, file_checks.LONG_LOG)
    assert "W008" not in ids()
    wal.touch()  # who looked was the last to close the database, and removed it
    os.truncate(wal, file_checks.LONG_LOG + 1)
    found = message("W008")
    assert str(wal) in found.msg
    assert "lsof" in str(found.hint)


def test_a_database_in_memory_has_no_log(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = declare(NAME="file:of-a-test?mode=memory&cache=shared")
    monkeypatch.chdir(tmp_path)
    Path("None-wal").touch()
    os.truncate("None-wal", file_checks.LONG_LOG + 1)
    assert [*file_checks.long_log(alias)] == []
