"""What `migrate` makes of a database, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections, migrations, models
from django.db.models.signals import pre_migrate
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite import schema
from channels_sqlite.models import Membership, Message
from channels_sqlite.settings import BACKEND
from tests import databases

TABLES = {schema.MESSAGE, schema.MEMBERSHIP, schema.SEQUENCE}
VIEWS = schema.VIEWS.keys()
TRIGGERS = schema.TRIGGERS.keys() | schema.VIEW_TRIGGERS.keys()


@pytest.fixture
def fresh(tmp_path: Path, settings: Settings, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of the layer's database, whose file does not exist yet."""
    with django_db_blocker.unblock(), databases.alias_for(tmp_path / "fresh.sqlite3") as alias:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"database": alias}}}
        yield alias


def migrate(alias: str, *target: str, **options: bool) -> None:
    call_command("migrate", *target, database=alias, verbosity=0, **options)


def names(alias: str, kind: str) -> set[str]:
    """The tables, views or triggers of ours in the database."""
    with connections[alias].cursor() as cursor:
        cursor.execute("select name from sqlite_master where type = %s", [kind])
        return {name for (name,) in cursor.fetchall() if name.startswith("channels_sqlite")}


def announce(alias: str, *migrations: migrations.Migration) -> None:
    """Say which migrations are about to run, as `migrate` does."""
    app = apps.get_app_config("channels_sqlite")
    pre_migrate.send(app, using=alias, plan=[(migration, False) for migration in migrations])


@pytest.mark.django_db(databases=["default", "channels"])
def test_the_models_have_no_change_without_a_migration() -> None:
    call_command("makemigrations", "channels_sqlite", check=True, verbosity=0)


def test_migrate_makes_the_tables_the_views_and_the_triggers(fresh: str) -> None:
    migrate(fresh)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "view") == VIEWS
    assert names(fresh, "trigger") == TRIGGERS


def test_migrate_makes_nothing_of_ours_in_another_database(fresh: str, settings: Settings) -> None:
    del settings.CHANNEL_LAYERS  # the layer is elsewhere now
    migrate(fresh)
    assert "auth_user" in connections[fresh].introspection.table_names()
    assert names(fresh, "table") == names(fresh, "view") == names(fresh, "trigger") == set()


def test_migrate_to_zero_leaves_nothing_of_ours_and_can_be_undone(fresh: str) -> None:
    migrate(fresh)
    migrate(fresh, "channels_sqlite", "zero")
    assert names(fresh, "table") == names(fresh, "view") == names(fresh, "trigger") == set()
    migrate(fresh)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "view") == VIEWS
    assert names(fresh, "trigger") == TRIGGERS


def test_migrations_keep_the_members(fresh: str) -> None:
    """A file of the first migrations is taken forwards and back, one step at a time."""
    steps = ["0003", "0004", "0003", "0001", "0004"]
    migrate(fresh, "channels_sqlite", "0001")
    with connections[fresh].cursor() as cursor:
        cursor.execute(
            f'insert into {schema.MEMBERSHIP} ("group", inbox, channel, expires_at, joined_after)'
            " values ('chat', 'in!', 'in!a', 9e9, 7)"
        )
    for step in steps:
        migrate(fresh, "channels_sqlite", step)
        assert names(fresh, "trigger") == TRIGGERS
    members = Membership.objects.using(fresh).values_list("group", "inbox", "channel")
    assert members.get(joined_after=7) == ("chat", "in!", "in!a")


def test_migrate_puts_back_what_altering_a_table_dropped(fresh: str) -> None:
    migrate(fresh)
    longer = models.CharField(max_length=200)
    longer.set_attributes_from_name("inbox")
    longer.model = Message
    announce(fresh, migrations.Migration("0003_longer", "channels_sqlite"))
    with connections[fresh].schema_editor() as editor:
        editor.alter_field(Message, Message._meta.get_field("inbox"), longer)
    assert names(fresh, "view") == names(fresh, "trigger") == set()
    migrate(fresh)
    assert names(fresh, "view") == VIEWS
    assert names(fresh, "trigger") == TRIGGERS


def test_other_migrations_leave_the_views_alone(fresh: str) -> None:
    """They do not even vanish for a moment: other programs may be sending."""
    migrate(fresh)
    announce(fresh, migrations.Migration("0001_initial", "auth"))
    assert names(fresh, "view") == VIEWS


def test_migrate_makes_the_triggers_without_migrations_too(fresh: str, settings: Settings) -> None:
    settings.MIGRATION_MODULES = {"channels_sqlite": None}
    migrate(fresh, run_syncdb=True)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "view") == VIEWS
    assert names(fresh, "trigger") == TRIGGERS


@pytest.mark.django_db(databases=["default", "channels"])
def test_a_test_runs_databases_are_complete() -> None:
    assert names("channels", "view") == VIEWS
    assert names("channels", "trigger") == TRIGGERS
    assert names("default", "table") == set()
