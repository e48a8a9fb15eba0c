"""The database router: our tables live in the databases of our layers, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import configured_databases

if TYPE_CHECKING:
    from django.db.models import Model

APP_LABEL = "channels_sqlite"


class ChannelsRouter:
    """Sends this app's models to the database that CHANNEL_LAYERS names.

    Name it in DATABASE_ROUTERS. It has no opinion on the models of any other app. Where several
    layers use several databases the tables are migrated in all of them, and the ORM (the admin)
    reads and writes the first; `using()` reaches the others.
    """

    def db_for_read(self, model: type[Model], **_hints: Any) -> str | None:
        return configured_databases()[0] if model._meta.app_label == APP_LABEL else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool | None:
        return db in configured_databases() if app_label == APP_LABEL else None
