"""The router: our tables go to the layers' databases, and no others go to one of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from channels_sqlite._options.settings import BACKEND
from channels_sqlite.db_routers import ChannelsRouter
from channels_sqlite.layers import SqliteChannelLayer
from channels_sqlite.models import LayerMembership, LayerMessage, LayerSequence


def layer(**config: Any) -> dict[str, Any]:
    return {"BACKEND": BACKEND, "CONFIG": config}


def test_our_models_are_read_and_written_where_the_layer_is(settings: Settings) -> None:
    """In "channels" unless its settings say otherwise."""
    for entry, database in (
        (layer(database="elsewhere"), "elsewhere"),
        (layer(), "channels"),
        ({"BACKEND": BACKEND}, "channels"),
    ):
        settings.CHANNEL_LAYERS = {"default": entry}
        router = ChannelsRouter()
        for model in (LayerMessage, LayerMembership, LayerSequence):
            assert router.db_for_read(model) == router.db_for_write(model) == database


def test_our_tables_stay_put_while_another_layer_stands_in(settings: Settings) -> None:
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    settings.CHANNEL_LAYERS = {"default": {**in_memory, "CONFIG": {"database": "default"}}}
    assert ChannelsRouter().db_for_read(LayerMessage) == "channels"
    del settings.CHANNEL_LAYERS
    assert ChannelsRouter().db_for_read(LayerMessage) == "channels"


def test_a_database_of_the_layers_own_gets_our_tables_and_no_others() -> None:
    """Also where RunSQL and RunPython ask, with hints of their own and no model."""
    router = ChannelsRouter()
    hints: Any
    for hints in ({"model_name": "user"}, {"anything": "else"}):
        assert router.allow_migrate("channels", "channels_sqlite", **hints) is True
        assert router.allow_migrate("default", "channels_sqlite", **hints) is False
        assert router.allow_migrate("channels", "auth", **hints) is False


class Subclass(SqliteChannelLayer):
    """A project's own."""


def test_several_layers_have_their_tables_in_each_database(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(database="fast") | {"BACKEND": f"{__name__}.{Subclass.__name__}"},
        "jobs": layer(database="slow"),
        "again": layer(database="fast"),
        "missing": {"BACKEND": "no_such_package.Layer"},
    }
    router = ChannelsRouter()
    assert router.allow_migrate("fast", "channels_sqlite") is True
    assert router.allow_migrate("slow", "channels_sqlite") is True
    assert router.allow_migrate("channels", "channels_sqlite") is False
    assert router.db_for_read(LayerMessage) == router.db_for_write(LayerMessage) == "fast"


def test_an_object_stays_in_the_database_that_it_came_from(settings: Settings) -> None:
    """Where `using()` has read it from the second layer's, it is not saved or deleted elsewhere."""
    settings.CHANNEL_LAYERS = {"default": layer(database="fast"), "jobs": layer(database="slow")}
    router = ChannelsRouter()
    message = LayerMessage()
    for ask in (router.db_for_read, router.db_for_write):
        for database, its in (("slow", "slow"), ("fast", "fast"), (None, "fast"), ("gone", "fast")):
            message._state.db = database
            assert ask(LayerMessage, instance=message) == its
        assert ask(User, instance=message) is None


def test_the_router_has_no_opinion_on_other_apps_elsewhere(settings: Settings) -> None:
    for entry in (layer(), layer(database="default")):
        settings.CHANNEL_LAYERS = {"default": entry}
        router = ChannelsRouter()
        assert router.db_for_read(User) is router.db_for_write(User) is None
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
    """Nobody else can: the system checks are the app's. Not where the app was taken out for another
    layer, and the router left.
    """
    ours = settings.CHANNEL_LAYERS
    ChannelsRouter()
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "channels_sqlite"]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}
    ChannelsRouter()
    assert caplog.messages == []
    settings.CHANNEL_LAYERS = ours
    ChannelsRouter()
    [words] = caplog.messages
    assert 'INSTALLED_APPS lacks "channels_sqlite"' in words
