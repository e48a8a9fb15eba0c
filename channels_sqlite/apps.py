"""The Django app: tables that stay whole, and system checks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db import connections, router
from django.db.models.signals import post_migrate

from . import schema


class ChannelsSqliteConfig(AppConfig):
    name = "channels_sqlite"
    verbose_name = "Channels on SQLite"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # it imports the models, which are loaded only now

        register(checks.check_settings, self.label)
        register(checks.check_databases, self.label, Tags.database)
        register(checks.check_deployment, self.label, deploy=True)
        post_migrate.connect(restore_triggers, sender=self)


def restore_triggers(sender: ChannelsSqliteConfig, using: str, **_kwargs: Any) -> None:
    """Create the triggers that `migrate` left missing.

    Django's schema editor alters an SQLite table by building it anew, and drops its triggers on
    the way; databases made without migrations (`--no-migrations` in a test run) never had them.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or not router.allow_migrate(using, sender.label):
        return
    with connection.cursor() as cursor:
        tables = set(connection.introspection.table_names(cursor))
        if not {schema.MESSAGE, schema.SEQUENCE} <= tables:
            return  # migrated back to zero
        for trigger in schema.TRIGGERS.values():
            cursor.execute(trigger)
