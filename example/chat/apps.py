from django.apps import AppConfig
from django.urls import register_converter

from chat.rooms import RoomConverter


class ChatConfig(AppConfig):
    name = "chat"

    def ready(self) -> None:
        register_converter(RoomConverter, "room")  # pages and sockets both have it in their paths
