"""Settings of the example chat. Three marked blocks are about the channel layer."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("CHAT_DATA_DIR", BASE_DIR))  # the two databases live here

SECRET_KEY = os.environ.get("CHAT_SECRET_KEY", "an-example-keeps-no-secrets")
DEBUG = os.environ.get("CHAT_DEBUG", "1") == "1"
# With DEBUG and no hosts, Django allows localhost and its addresses. For a phone in the same
# network: CHAT_HOSTS=192.168.0.7 python manage.py runserver 0.0.0.0:8000
ALLOWED_HOSTS = os.environ.get("CHAT_HOSTS", "").split()

INSTALLED_APPS = [
    "daphne",  # makes runserver speak ASGI; has to be first
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "channels_sqlite",  # (1) the channel layer's tables
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [  # which the admin needs
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    },
]
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# (2) A database of its own for the layer: neither of the two waits for the other's writes.
SQLITE_OPTIONS = {
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "transaction_mode": "IMMEDIATE",
}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "db.sqlite3",
        "OPTIONS": SQLITE_OPTIONS,
    },
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "channels.sqlite3",
        "OPTIONS": SQLITE_OPTIONS,
    },
}
DATABASE_ROUTERS = ["channels_sqlite.db_routers.ChannelsRouter"]

# (3) The channel layer.
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": "channels_sqlite.layers.SqliteChannelLayer",
        "CONFIG": {
            "database": "channels",
            "polling_interval": 0.05,
            "message_retention": 86400,
            "capacity": 100,
            "expiry": 30,
            "trim_batch_size": 100,
            "auto_trim": True,
        },
    },
}

# CHANNEL_LAYER_URL selects another layer, and no other line of the project changes:
#   redis://127.0.0.1:6379/0   channels_redis, once one machine is not enough
#   memory://                  Channels' own, one process only: the floor for measurements
#   sqlite://?watcher=polling  this layer, woken in that way
CHANNEL_LAYER_URL = os.environ.get("CHANNEL_LAYER_URL", "sqlite://")
url = urlsplit(CHANNEL_LAYER_URL)
match url.scheme:
    case "redis" | "rediss":
        CHANNEL_LAYERS["default"] = {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # channels_redis blocks on the server for 5 s at a time; redis-py 8 then gives up.
            "CONFIG": {"hosts": [{"address": CHANNEL_LAYER_URL, "socket_timeout": None}]},
        }
    case "memory":
        CHANNEL_LAYERS["default"] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    case "sqlite":
        CHANNEL_LAYERS["default"]["CONFIG"].update(parse_qsl(url.query))
    case _:
        raise ImproperlyConfigured(
            f"CHANNEL_LAYER_URL={CHANNEL_LAYER_URL!r}: begin with sqlite://, redis:// or memory://"
        )
