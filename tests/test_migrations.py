"""What `migrate` makes of a database, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections, models
from pytest_django import DjangoDbBlocker, Settings

from channels_sqlite import schema
from channels_sqlite.models import Message
from channels_sqlite.settings import BACKEND
from tests import databases

TABLES = {schema.MESSAGE, schema.MEMBERSHIP, schema.SEQUENCE}


@pytest.fixture
def fresh(tmp_path: Path, settings: Settings, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of the layer's database, whose file does not exist yet."""
    with django_db_blocker.unblock(), databases.alias_for(tmp_path / "fresh.sqlite3") as alias:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"database": alias}}}
        yield alias


def migrate(alias: str, *target: str, **options: bool) -> None:
    call_command("migrate", *target, database=alias, verbosity=0, **options)


def names(alias: str, kind: str) -> set[str]:
    """The tables or triggers of ours in the database."""
    with connections[alias].cursor() as cursor:
        cursor.execute("select name from sqlite_master where type = %s", [kind])
        return {name for (name,) in cursor.fetchall() if name.startswith("channels_sqlite")}


@pytest.mark.django_db(databases=["default", "channels"])
def test_the_models_have_no_change_without_a_migration() -> None:
    call_command("makemigrations", "channels_sqlite", check=True, verbosity=0)


def test_migrate_makes_the_tables_and_the_trigger(fresh: str) -> None:
    migrate(fresh)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "trigger") == schema.TRIGGERS.keys()


def test_migrate_makes_nothing_of_ours_in_another_database(fresh: str, settings: Settings) -> None:
    del settings.CHANNEL_LAYERS  # the layer is elsewhere now
    migrate(fresh)
    assert "auth_user" in connections[fresh].introspection.table_names()
    assert names(fresh, "table") == names(fresh, "trigger") == set()


def test_migrate_to_zero_leaves_nothing_of_ours_and_can_be_undone(fresh: str) -> None:
    migrate(fresh)
    migrate(fresh, "channels_sqlite", "zero")
    assert names(fresh, "table") == names(fresh, "trigger") == set()
    migrate(fresh)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "trigger") == schema.TRIGGERS.keys()


def test_migrate_puts_back_the_trigger_that_altering_the_table_dropped(fresh: str) -> None:
    migrate(fresh)
    longer = models.CharField(max_length=200)
    longer.set_attributes_from_name("inbox")
    longer.model = Message
    with connections[fresh].schema_editor() as editor:
        editor.alter_field(Message, Message._meta.get_field("inbox"), longer)
    assert names(fresh, "trigger") == set()
    migrate(fresh)
    assert names(fresh, "trigger") == schema.TRIGGERS.keys()


def test_migrate_makes_the_trigger_without_migrations_too(fresh: str, settings: Settings) -> None:
    settings.MIGRATION_MODULES = {"channels_sqlite": None}
    migrate(fresh, run_syncdb=True)
    assert names(fresh, "table") == TABLES
    assert names(fresh, "trigger") == schema.TRIGGERS.keys()


@pytest.mark.django_db(databases=["default", "channels"])
def test_a_test_runs_databases_are_complete() -> None:
    assert names("channels", "trigger") == schema.TRIGGERS.keys()
    assert names("default", "table") == set()
