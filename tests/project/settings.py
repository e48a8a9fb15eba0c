from pathlib import Path
from tempfile import gettempdir

BASE_DIR = Path(gettempdir())
SECRET_KEY = "tests"
USE_TZ = True

INSTALLED_APPS = ["channels", "channels_sqlite"]

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"},
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "channels.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}
DATABASE_ROUTERS = ["channels_sqlite.db_routers.ChannelsRouter"]
CHANNEL_LAYERS = {
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
