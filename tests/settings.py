"""Settings of the test suite, and of the processes that it starts."""

import os
from pathlib import Path
from tempfile import gettempdir

DIRECTORY = Path(gettempdir())

SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "channels",
    "channels_sqlite",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DIRECTORY / "default.sqlite3"},
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        # A process that a test starts is told which file to use.
        "NAME": os.environ.get("CHANNELS_DATABASE", DIRECTORY / "channels.sqlite3"),
    },
}
DATABASE_ROUTERS = ["channels_sqlite.db_routers.ChannelsRouter"]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels_sqlite.layers.SqliteChannelLayer"}}
