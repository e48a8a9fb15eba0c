"""The layers that are measured: what each needs, and the Django settings that make it.

Ours has the README's settings and its defaults. Rivals have their defaults, with two exceptions: a
scenario may raise `capacity`, and says so; redis-py 8's socket timeout of 5 s is off, because it
would end the idle receive() of channels_redis.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stress import redis_server

DATABASE = "channels.sqlite3"


@dataclass(frozen=True)
class Layer:
    name: str
    title: str  # for readers of tables and pictures
    says: str
    backend: str
    modules: tuple[str, ...] = ()  # beside channels itself
    app: str = ""  # the Django app with its tables
    router: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # of DATABASES["channels"]
    config: Mapping[str, Any] = field(default_factory=dict)
    redis: bool = False
    processes: bool = True  # joins several processes

    @property
    def ours(self) -> bool:
        return self.name.startswith("sqlite")

    @property
    def file(self) -> bool:
        return bool(self.app)

    def missing(self) -> str:
        """Return why this layer cannot be measured here, or ""."""
        for module in self.modules:
            if find_spec(module) is None:
                return f"{module} is not installed"
        if self.name == "sqlite:inotify" and sys.platform != "linux":
            return "inotify exists on Linux only"
        if self.redis and redis_server.EXECUTABLE is None:
            return "redis-server is not installed"
        return ""

    def accepts(self, key: str) -> bool:
        """Return True if CONFIG may hold this key: Redis pub/sub ignores capacity."""
        return key != "capacity" or self.name != "redis-pubsub"

    def settings(
        self, directory: Path, redis_url: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Django's settings for a process that uses this layer in `directory`."""
        config = {key: value for key, value in config.items() if self.accepts(key)}
        if self.redis:
            config["hosts"] = [{"address": redis_url, "socket_timeout": None}]
        sqlite = "django.db.backends.sqlite3"
        channels = {
            "ENGINE": sqlite,
            "NAME": str(directory / DATABASE),
            "OPTIONS": dict(self.options),
        }
        return {
            "SECRET_KEY": "stress",
            "USE_TZ": True,
            "INSTALLED_APPS": ["channels", *filter(None, [self.app])],
            "DATABASES": {
                "default": {"ENGINE": sqlite, "NAME": ":memory:"},
                **({"channels": channels} if self.file else {}),
            },
            "DATABASE_ROUTERS": list(filter(None, [self.router])),
            "CHANNEL_LAYERS": {
                "default": {"BACKEND": self.backend, "CONFIG": {**self.config, **config}}
            },
        }


def _sqlite(name: str, says: str, **config: Any) -> Layer:
    watcher = config.get("watcher", "inotify")
    return Layer(
        name=name,
        title=f"with {watcher}" if watcher != "inotify" else "channels-sqlite",
        says=says,
        backend="channels_sqlite.layers.SqliteChannelLayer",
        modules=("channels_sqlite.layers",),
        app="channels_sqlite",
        router="channels_sqlite.db_routers.ChannelsRouter",
        options={
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
        },
        config={"database": "channels", **config},
    )


LAYERS: dict[str, Layer] = {
    layer.name: layer
    for layer in (
        _sqlite("sqlite", "ours, watcher auto"),
        _sqlite("sqlite:inotify", "ours, watcher inotify", watcher="inotify"),
        _sqlite("sqlite:watchfiles", "ours, watcher watchfiles", watcher="watchfiles"),
        _sqlite("sqlite:polling", "ours, watcher polling", watcher="polling"),
        Layer(
            name="memory",
            title="in memory",
            says="Channels' in-memory layer; one process only",
            backend="channels.layers.InMemoryChannelLayer",
            processes=False,
        ),
        Layer(
            name="redis",
            title="channels_redis",
            says="channels_redis on a redis-server of the harness's own",
            backend="channels_redis.core.RedisChannelLayer",
            modules=("channels_redis",),
            redis=True,
        ),
        Layer(
            name="redis-pubsub",
            title="Redis pub/sub",
            says="channels_redis's pub/sub layer: no capacity, no expiry",
            backend="channels_redis.pubsub.RedisPubSubChannelLayer",
            modules=("channels_redis",),
            redis=True,
        ),
        Layer(
            name="channels-lite",
            title="channels-lite",
            says="channels-lite's aiosqlite layer: SQLite, polled every 0.1 s",
            backend="channels_lite.layers.aio.AIOSQLiteChannelLayer",
            modules=("channels_lite", "aiosqlitepool"),
            app="channels_lite",
            router="channels_lite.router.ChannelsRouter",
            config={"database": "channels"},
        ),
    )
}
