"""The router: our tables go to the layers' databases, and no others go to one of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from channels_sqlite._options.settings import BACKEND
from channels_sqlite.db_routers import ChannelsRouter
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.models import LayerMembership, LayerMessage, LayerSequence

OURS = (LayerMessage, LayerMembership, LayerSequence)


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
    assert router.db_for_read(LayerMessage) == "channels"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND}}
    assert router.db_for_read(LayerMessage) == "channels"


class Subclass(SqliteChannelLayer):
    """A project's own."""


def test_a_subclass_of_the_layer_is_ours(settings: Settings) -> None:
    backend = f"{__name__}.{Subclass.__name__}"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": backend, "CONFIG": {"database": "elsewhere"}},
        "missing": {"BACKEND": "no_such_package.Layer"},
    }
    assert ChannelsRouter().db_for_read(LayerMessage) == "elsewhere"


def test_our_tables_stay_put_while_another_layer_stands_in(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"database": "default"},
        }
    }
    assert ChannelsRouter().db_for_read(LayerMessage) == "channels"
    del settings.CHANNEL_LAYERS
    assert ChannelsRouter().db_for_read(LayerMessage) == "channels"


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
    assert router.db_for_read(LayerMessage) == router.db_for_write(LayerMessage) == "fast"


def test_another_apps_rows_are_not_its_business() -> None:
    router = ChannelsRouter()
    assert router.db_for_read(User) is None
    assert router.db_for_write(User) is None


def test_a_database_of_the_layers_own_gets_the_tables_of_no_other_app() -> None:
    router = ChannelsRouter()
    assert router.allow_migrate("channels", "auth", model_name="user") is False
    # As RunSQL and RunPython ask, with hints of their own and no model.
    assert router.allow_migrate("channels", "auth", anything="else") is False


@pytest.mark.parametrize("shared", [False, True])
def test_the_router_has_no_opinion_on_other_apps_elsewhere(
    settings: Settings, shared: bool
) -> None:
    if shared:
        settings.CHANNEL_LAYERS = {"default": layer(database="default")}
    router = ChannelsRouter()
    assert router.allow_migrate("default", "auth", model_name="user") is None
    assert router.allow_migrate("replica", "auth", model_name="user") is None


def test_a_backend_that_cannot_be_imported_now_may_be_later(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the apps are loaded, a project's module may not be there yet."""
    config = {"database": "elsewhere"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "late_module.Layer", "CONFIG": config}}
    assert ChannelsRouter().db_for_read(LayerMessage) == "channels"
    (tmp_path / "late_module.py").write_text(
        "from channels_sqlite.layers import SqliteChannelLayer as Layer"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert ChannelsRouter().db_for_read(LayerMessage) == "elsewhere"


def test_the_router_says_that_the_app_is_missing(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else can: the system checks are the app's."""
    ChannelsRouter()
    assert caplog.messages == []
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "channels_sqlite"]
    ChannelsRouter()
    [words] = caplog.messages
    assert 'INSTALLED_APPS lacks "channels_sqlite"' in words


def test_the_router_can_be_imported_before_the_apps_are_loaded() -> None:
    code = (
        "import sys, channels_sqlite.db_routers\n"
        "assert 'channels_sqlite.models' not in sys.modules\n"
        "assert 'aiosqlite' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
