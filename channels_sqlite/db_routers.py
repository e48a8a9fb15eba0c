"""The database router: our tables live in the databases of our layers, and nowhere else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import connections
from django.db.utils import DEFAULT_DB_ALIAS

from ._options.settings import configured_databases, configured_layers
from ._storing.private import are_tests_running

if TYPE_CHECKING:
    from django.db.models import Model

APP_LABEL = "channels_sqlite"

logger = logging.getLogger("channels_sqlite")


class ChannelsRouter:
    """Sends this app's models to the database that CHANNEL_LAYERS names.

    Name it in DATABASE_ROUTERS. If several layers use several databases, the tables are migrated in
    all of them, and the ORM (the admin) reads and writes the first; `using()` reaches the others.
    An object of one of them is saved to, and deleted in, the database that it came from.

    A database of the layer's own, under any alias except "default", gets the tables of no other
    app, unless a router before this one says so. Otherwise it has no opinion on other apps.
    """

    def __init__(self) -> None:
        # No system check can say this, because an app that is not installed registers none.
        if apps.ready and not apps.is_installed("channels_sqlite") and configured_layers():
            logger.warning(
                'DATABASE_ROUTERS names ChannelsRouter, but INSTALLED_APPS lacks "channels_sqlite":'
                " migrate does not make the layer's tables. Add it to INSTALLED_APPS."
            )

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        if model._meta.app_label != APP_LABEL:
            return None
        ours = configured_databases()
        state = getattr(hints.get("instance"), "_state", None)
        return state.db if state is not None and state.db in ours else ours[0]

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool | None:
        is_for_layers = db in configured_databases() or _is_mirrored(db)
        if app_label == APP_LABEL:
            return is_for_layers
        return False if is_for_layers and db != DEFAULT_DB_ALIAS else None


def _is_mirrored(db: str) -> bool:
    """Return True for a database that stands for one of ours in tests, by TEST's MIRROR."""
    return are_tests_running() and any(
        connections.settings[alias].get("TEST", {}).get("MIRROR") == db
        for alias in configured_databases()
        if alias in connections.settings
    )
