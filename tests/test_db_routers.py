"""The router: our tables go to the databases of our layers; on other apps it has no opinion."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from channels_sqlite.db_routers import ChannelsRouter
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.models import Membership, Message, Sequence
from channels_sqlite.settings import BACKEND

OURS = (Message, Membership, Sequence)


def layer(**config: Any) -> dict[str, Any]:
    return {"BACKEND": BACKEND, "CONFIG": config}


def test_our_models_are_read_and_written_where_the_layer_is(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(database="elsewhere")}
    router = ChannelsRouter()
    for model in OURS:
        assert router.db_for_read(model) == "elsewhere"
        assert router.db_for_write(model) == "elsewhere"


def test_the_database_is_channels_unless_said_otherwise(settings: Settings) -> None:
    router = ChannelsRouter()
    settings.CHANNEL_LAYERS = {"default": layer()}
    assert router.db_for_read(Message) == "channels"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND}}
    assert router.db_for_read(Message) == "channels"


class Subclass(SqliteChannelLayer):
    """A project's own."""


def test_a_subclass_of_the_layer_is_ours(settings: Settings) -> None:
    backend = f"{__name__}.{Subclass.__name__}"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": backend, "CONFIG": {"database": "elsewhere"}},
        "missing": {"BACKEND": "no_such_package.Layer"},
    }
    assert ChannelsRouter().db_for_read(Message) == "elsewhere"


def test_our_tables_stay_put_while_another_layer_stands_in(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"database": "default"},
        }
    }
    assert ChannelsRouter().db_for_read(Message) == "channels"
    del settings.CHANNEL_LAYERS
    assert ChannelsRouter().db_for_read(Message) == "channels"


def test_our_tables_are_migrated_there_and_nowhere_else() -> None:
    router = ChannelsRouter()
    assert router.allow_migrate("channels", "channels_sqlite", model_name="message") is True
    assert router.allow_migrate("default", "channels_sqlite", model_name="message") is False
    # As RunSQL and RunPython ask, with hints of their own and no model.
    assert router.allow_migrate("default", "channels_sqlite", anything="else") is False


def test_several_layers_have_their_tables_in_each_database(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(database="fast"),
        "jobs": layer(database="slow"),
        "again": layer(database="fast"),
    }
    router = ChannelsRouter()
    assert router.allow_migrate("fast", "channels_sqlite") is True
    assert router.allow_migrate("slow", "channels_sqlite") is True
    assert router.allow_migrate("channels", "channels_sqlite") is False
    assert router.db_for_read(Message) == router.db_for_write(Message) == "fast"


@pytest.mark.parametrize("alias", ["default", "channels"])
def test_it_has_no_opinion_on_another_app(alias: str) -> None:
    router = ChannelsRouter()
    assert router.db_for_read(User) is None
    assert router.db_for_write(User) is None
    assert router.allow_migrate(alias, "auth", model_name="user") is None


def test_it_can_be_imported_before_the_apps_are_loaded() -> None:
    code = (
        "import sys, channels_sqlite.db_routers\n"
        "assert 'channels_sqlite.models' not in sys.modules\n"
        "assert 'aiosqlite' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
