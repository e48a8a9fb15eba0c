"""The application that the servers and `manage.py runworker` run."""

import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()  # before the imports below, which need the models

from chat.routing import websocket_urlpatterns  # noqa: E402
from chat.workers import SummaryWorker  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns)),
        "channel": ChannelNameRouter({"summaries": SummaryWorker.as_asgi()}),
    }
)
