"""`migrate`: the tables that it makes, and the ones that it leaves alone."""

from __future__ import annotations

import io
import multiprocessing  # noqa: F401 - for skipif
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections
from django.db.models.signals import post_migrate
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite._options.settings import BACKEND
from channels_sqlite._storing import schema
from channels_sqlite._tools import tables
from tests import databases
from tests.projects import Project
from tests.rows import count, sql

KINDS = {
    "table": schema.TABLES.keys(),
    "index": schema.INDEXES.keys(),
    "view": schema.VIEWS.keys(),
    "trigger": schema.TRIGGERS.keys() | schema.VIEW_TRIGGERS.keys(),
}
NOTHING: dict[str, set[str]] = {kind: set() for kind in KINDS}

# As `migrate` of channels-sqlite 0.1 has left a file.
OF_0_1 = """\
create table "channels_sqlite_channelmessage" (
    "id" integer not null primary key autoincrement, "channel" varchar(100) not null,
    "message" text not null check ((json_valid("message") or "message" is null)),
    "expires_at" datetime not null, "delivered" bool not null, "created_at" datetime not null
);
create index "channels_ba_channel_53364c_idx"
    on "channels_sqlite_channelmessage" ("channel", "delivered");
create table "channels_sqlite_channelgroup" (
    "id" integer not null primary key autoincrement, "group_name" varchar(100) not null,
    "channel_name" varchar(100) not null, "added_at" datetime not null
);
insert into django_migrations (app, name, applied)
values ('channels_sqlite', '0001_initial', '2025-09-21');
"""

# As development versions have: fewer columns, an index of another shape, a trigger without epochs.
OF_DEVELOPMENT = """\
create table channels_sqlite_message (
    id integer not null primary key autoincrement, inbox varchar(100) not null,
    channel varchar(100), "group" varchar(100), body blob not null, created_at real not null,
    expires_at real not null, delivered_at real
);
create table channels_sqlite_membership (
    id integer not null primary key autoincrement, "group" varchar(100) not null,
    inbox varchar(100) not null, channel varchar(100) not null, expires_at real not null,
    joined_after bigint not null, renewed_after bigint,
    constraint channels_sqlite_member unique (channel, "group")
);
create index channels_sqlite_member_reads
    on channels_sqlite_membership ("group", inbox, joined_after, expires_at, channel);
create table channels_sqlite_sequence (
    inbox varchar(100) not null primary key, seq bigint not null
);
create trigger channels_sqlite_message_bump after insert on channels_sqlite_message begin
    insert into channels_sqlite_sequence values (new.inbox, new.id);
end;
create view channels_sqlite_send (channel, message) as select null, null where 0;
create trigger channels_sqlite_send_insert instead of insert on channels_sqlite_send begin
    insert into channels_sqlite_message (inbox, body) values (new.channel, new.message);
end;
insert into django_migrations (app, name, applied) values
    ('channels_sqlite', '0001_initial', '2026-01-01'),
    ('channels_sqlite', '0004_members_by_channel', '2026-01-01');
"""

SENDS_WHILE_MIGRATING = """\
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.apps import AppConfig
from django.db.models.signals import post_migrate

def send(**_kwargs):
    async_to_sync(get_channel_layer().send)("jobs", {"type": "job.migrated"})

class SenderConfig(AppConfig):
    name = "sender"

    def ready(self):
        post_migrate.connect(send, sender=self)
"""


@pytest.fixture
def fresh(tmp_path: Path, settings: Settings, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of the layer's database, whose file does not exist yet."""
    with django_db_blocker.unblock(), databases.alias_for(tmp_path / "fresh.sqlite3") as alias:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"database": alias}}}
        yield alias


def migrate(alias: str, *target: str, **options: bool) -> None:
    call_command("migrate", *target, database=alias, verbosity=0, **options)


def select(alias: str, what: str) -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"select {what}")
        return [row[0] if len(row) == 1 else row for row in cursor.fetchall()]


def ours(alias: str) -> dict[str, set[str]]:
    """The names of ours in the database, by their kind."""
    found = select(alias, "type, name from sqlite_master where name like 'channels%'")
    return {kind: {name for each, name in found if each == kind} for kind in KINDS}


def execute(alias: str, script: str) -> None:
    """Run SQL on a file to which nothing of ours was done yet."""
    migrate(alias, "contenttypes")  # for the table in which Django records migrations
    with sql(connections[alias].settings_dict["NAME"]) as connection:
        connection.executescript(script)


# Its results


@pytest.mark.django_db(databases=["default", "channels"])
def test_the_models_have_no_change_without_a_migration() -> None:
    """And the databases of a test run are complete."""
    call_command("makemigrations", "channels_sqlite", check=True, verbosity=0)
    assert ours("channels") == KINDS
    assert ours("default") == NOTHING


def test_migrate_makes_all_that_the_layer_needs_and_no_other_apps_tables(fresh: str) -> None:
    """And back to zero, which can be undone."""
    shown = io.StringIO()
    call_command("sqlmigrate", "channels_sqlite", "0001", database=fresh, stdout=shown)
    assert all(sql in shown.getvalue() for sql in schema.EVERYTHING.values())
    assert ours(fresh) == NOTHING
    migrate(fresh)
    assert ours(fresh) == KINDS
    found = set(connections[fresh].introspection.table_names())
    assert found == {*schema.TABLES, "django_migrations"}
    migrate(fresh, "channels_sqlite", "zero")
    assert ours(fresh) == NOTHING
    migrate(fresh)
    assert ours(fresh) == KINDS


def test_migrate_makes_nothing_of_ours_in_another_database(fresh: str, settings: Settings) -> None:
    del settings.CHANNEL_LAYERS  # the layer is elsewhere now
    migrate(fresh)
    assert "auth_user" in connections[fresh].introspection.table_names()
    assert ours(fresh) == NOTHING


def test_tables_made_without_migrations_are_the_same(
    fresh: str, settings: Settings, tmp_path: Path
) -> None:
    """`--no-migrations` in a test run: Django makes them from the models."""
    settings.MIGRATION_MODULES = {"channels_sqlite": None}
    migrate(fresh, run_syncdb=True)
    assert ours(fresh) == KINDS
    with sql(":memory:") as expected, sql(tmp_path / "fresh.sqlite3") as made:
        for statement in schema.EVERYTHING.values():
            expected.execute(statement)
        assert shape(made) == shape(expected)


def shape(connection: sqlite3.Connection) -> dict[str, Any]:
    """Each table's columns and indexes, with all that SQLite tells of them."""

    def rows(sql: str, *values: str) -> list[list[str]]:
        found = connection.execute(f"select {sql}", values).fetchall()
        return [[str(each).lower() for each in row] for row in found]

    definition = "sql from sqlite_master where name = ?"

    def condition(index: str) -> str:
        return str(rows(definition, index)).replace('"', "").partition(" where ")[2]

    def indexes(table: str) -> dict[str, Any]:
        listed = rows('name, "unique", origin, partial from pragma_index_list(?)', table)
        columns = "seqno, cid, name, desc, coll, key from pragma_index_xinfo(?)"
        return {name: [rest, rows(columns, name), condition(name)] for name, *rest in listed}

    return {
        table: {
            "columns": rows("* from pragma_table_xinfo(?)", table),
            "numbered": "autoincrement" in str(rows(definition, table)),
            # Django makes no table without rowids: its primary key is an index of its own then.
            "indexes": {} if table == schema.SEQUENCE else indexes(table),
        }
        for table in schema.TABLES
    }


# Files of older versions


def test_a_file_of_channels_sqlite_0_1_works_after_migrate(
    fresh: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(fresh, OF_0_1)
    migrate(fresh)
    assert ours(fresh) == KINDS
    recorded = select(fresh, "name from django_migrations where app = 'channels_sqlite'")
    assert recorded == [tables.MIGRATION]
    [words] = caplog.messages
    assert "channels-sqlite 0.1" in words
    assert fresh in words
    migrate(fresh)
    assert caplog.messages == [words]


def test_tables_of_this_version_stay_though_no_migration_is_recorded(fresh: str) -> None:
    """As after a restore of django_migrations alone; `--fake-initial` is what people try then."""
    migrate(fresh)
    execute(fresh, f"insert into {schema.SEND} values ('mail', '{{}}');")
    for options in ({}, {"fake_initial": True}):
        execute(fresh, "delete from django_migrations where app = 'channels_sqlite';")
        migrate(fresh, **options)
        assert select(fresh, f"channel from {schema.MESSAGE}") == ["mail"]
    assert ours(fresh) == KINDS


def test_a_file_of_a_development_version_works_after_migrate(
    fresh: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(fresh, OF_DEVELOPMENT)
    before = ours(fresh)
    migrate(fresh, "auth")
    assert ours(fresh) == before  # which has nothing to do with it
    assert caplog.messages == []
    migrate(fresh)
    [words] = caplog.messages
    assert "tables of another version" in words
    assert ours(fresh) == KINDS
    assert "left_after" in select(fresh, f"name from pragma_table_info('{schema.MEMBERSHIP}')")
    assert select(fresh, f"name from pragma_index_info('{schema.MEMBER_READS}')")[3] == "left_after"
    with connections[fresh].cursor() as cursor:
        cursor.execute(f"insert into {schema.SEND} values ('mail', '{{}}')")
    assert schema.EPOCH in select(fresh, f"inbox from {schema.SEQUENCE}")


# Whatever was done before


def test_a_database_that_was_migrated_before_it_was_the_layers_gets_the_tables(
    fresh: str, settings: Settings
) -> None:
    """`migrate` has recorded our migration there, with no table: nothing is left to apply."""
    with_layer, settings.CHANNEL_LAYERS = settings.CHANNEL_LAYERS, {}
    migrate(fresh)
    assert ours(fresh) == NOTHING
    settings.CHANNEL_LAYERS = with_layer
    migrate(fresh)
    assert ours(fresh) == KINDS


def test_the_second_of_two_that_migrate_at_once_keeps_the_tables(fresh: str) -> None:
    """It has looked what is to be done before the first had done it."""
    migrate(fresh)
    with connections[fresh].cursor() as cursor:
        cursor.execute(f"insert into {schema.SEND} values ('mail', '{{}}')")
    with connections[fresh].schema_editor() as editor:
        tables.make(apps, editor)  # type: ignore[arg-type]
    assert select(fresh, f"channel from {schema.MESSAGE}") == ["mail"]


# With the file alone, as Django's parallel test runner copies it


def test_after_migrate_all_stands_in_the_file_itself(fresh: str, tmp_path: Path) -> None:
    """Also what the handlers of other apps have written."""

    def write(using: str, **_kwargs: Any) -> None:
        with connections[using].cursor() as cursor:
            cursor.execute(f"insert into {schema.SEND} values ('mail', '{{}}')")

    app = apps.get_app_config("sessions")
    post_migrate.connect(write, sender=app)
    try:
        migrate(fresh)
    finally:
        post_migrate.disconnect(write, sender=app)
    copy = shutil.copy(connections[fresh].settings_dict["NAME"], tmp_path / "copy.sqlite3")
    assert count(copy, f"{schema.MESSAGE} where channel = 'mail'") == 1


def test_a_process_that_reads_does_not_keep_migrate_waiting(fresh: str) -> None:
    migrate(fresh)
    timeouts = "timeout from pragma_busy_timeout"
    before = select(fresh, timeouts)
    name = connections[fresh].settings_dict["NAME"]
    with sql(name) as reader:
        reader.execute("begin")
        reader.execute("select * from sqlite_master").fetchall()
        migrate(fresh)
    assert select(fresh, timeouts) == before


# As people do it


def test_a_handler_may_send_in_the_order_of_the_readme_also_where_the_file_was_deleted(
    tmp_path: Path,
) -> None:
    """The default database is migrated first, and its handlers send before the layer's is."""
    project = Project(tmp_path, 'INSTALLED_APPS = ["sender", *INSTALLED_APPS]')
    project.write("sender/apps.py", SENDS_WHILE_MIGRATING)
    project.write("sender/models.py", "")
    made = 'Made the layer\'s tables in the database "channels"'
    waiting = f"channel, count(*) from {schema.MESSAGE}"
    assert made in project.manage("migrate").stdout
    assert project.select(waiting) == [("jobs", 1)]
    project.manage("migrate", "--database=channels")
    assert project.select(waiting) == [("jobs", 2)]
    assert "tables in" not in project.manage("migrate").stdout
    project.database.unlink()
    assert made in project.manage("migrate").stdout
    assert project.select(waiting) == [("jobs", 1)]
    project.configure("")  # nobody sends any more
    project.manage("migrate", "channels_sqlite", "zero", "--database=channels")
    assert "Made" not in project.manage("migrate", "channels_sqlite", "zero").stdout


def test_the_default_database_is_migrated_even_if_the_layers_cannot_be(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.database.write_text("not a database, " * 100)
    said = project.manage("migrate").stdout
    assert 'Did not make the layer\'s tables in the database "channels": file is not a data' in said
    assert project.select("1 from django_content_type limit 1", "db") == [(1,)]
    failed = project.manage("migrate", "--database=channels", succeeds=False)
    assert "is not a database" in failed.stderr


@pytest.mark.parametrize(
    "option",
    [
        '"charset": "utf8mb4"',
        '"transaction_mode": "IMEDIATE"',
        '"isolation_level": "IMEDIATE"',
        '"init_command": ["pragma synchronous = off"]',
    ],
)
def test_the_default_database_is_migrated_even_if_the_layers_options_are_wrong(
    tmp_path: Path, option: str
) -> None:
    project = Project(tmp_path, f'DATABASES["channels"]["OPTIONS"] = {{{option}}}')
    said = project.manage("migrate").stdout
    assert 'Did not make the layer\'s tables in the database "channels": ' in said
    assert project.select("1 from django_content_type limit 1", "db") == [(1,)]
    for arguments in (["check", "--database=channels"], ["migrate", "--database=channels"]):
        failed = project.manage(*arguments, succeeds=False)
        assert "channels_sqlite.E008" in failed.stderr
        assert 'remove it in DATABASES["channels"]["OPTIONS"]' in failed.stderr
        assert not project.database.exists()


# As the interpreter ends, Python's Pool waits for ever if a worker was killed with one of its
# locks. The traceback tells that from a hang of ours.
WRITES_INTO_ITS_COPY = """\
import faulthandler
import os
if os.path.exists("killing"):
    faulthandler.dump_traceback_later(30, exit=True)
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connections
from django.test import TransactionTestCase
from channels_sqlite.models import LayerMessage

class WritesIntoItsCopy:
    databases = {"default", "channels"}

    def test_it(self):
        self.assertEqual(LayerMessage.objects.exclude(channel="from%d" % os.getpid()).count(), 0)
        async_to_sync(get_channel_layer().send)("from%d" % os.getpid(), {"type": "kept"})
        with connections["channels"].cursor() as cursor:
            cursor.execute("pragma integrity_check")
            self.assertEqual(cursor.fetchall(), [("ok",)])
        if os.path.exists("killing"):
            raise SystemExit  # the runner cannot tell of that, and kills its workers

    def _fixture_teardown(self):
        pass  # what it has written stays

class First(WritesIntoItsCopy, TransactionTestCase): ...
class Second(WritesIntoItsCopy, TransactionTestCase): ...
class Third(WritesIntoItsCopy, TransactionTestCase): ...
"""


@pytest.mark.skipif("multiprocessing.get_start_method() != 'fork'", reason="no fork here")
@pytest.mark.parametrize("option", ["--no-input", "--keepdb"])
def test_parallel_tests_on_files_meet_nothing_of_earlier_runs(tmp_path: Path, option: str) -> None:
    project = Project(
        tmp_path, 'DATABASES["channels"]["TEST"] = {"NAME": BASE_DIR / "test.channels.sqlite3"}'
    )
    project.write("quick/tests.py", WRITES_INTO_ITS_COPY)
    command = ("test", "quick", "--parallel=2", option)
    (tmp_path / "killing").touch()
    said = project.manage(*command, succeeds=False).stderr
    assert "Timeout (" not in said or "in _terminate_pool" in said
    # With copies that are kept their logs are, too.
    assert bool(list(tmp_path.glob("test.channels_*"))) == (option == "--keepdb")
    (tmp_path / "killing").unlink()
    if option == "--keepdb":  # what was written is kept, and is not damaged
        said = project.manage(*command, succeeds=False).stderr
        assert "AssertionError" in said
        assert "NotMigrated" not in said
        assert "malformed" not in said
    else:
        assert "Ran 3 tests" in project.manage(*command).stderr
