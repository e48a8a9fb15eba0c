from typing import ClassVar

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import TestCase, TransactionTestCase

from channels_sqlite.models import LayerMessage

from .chat import ChatConsumer


class Chat:
    databases: ClassVar = {"default", "channels"}

    async def test_two_visitors_chat(self):
        one = WebsocketCommunicator(ChatConsumer.as_asgi(), "/")
        two = WebsocketCommunicator(ChatConsumer.as_asgi(), "/")
        assert (await one.connect())[0]
        assert (await two.connect())[0]
        await one.send_json_to({"text": "hello"})
        assert await two.receive_json_from(timeout=10) == {"text": "hello"}
        assert await one.receive_json_from(timeout=10) == {"text": "hello"}
        await one.disconnect()
        await two.disconnect()

    async def test_they_do_so_on_the_next_event_loop(self):
        await self.test_two_visitors_chat()

    def test_a_sync_view_sends(self):
        layer = get_channel_layer()
        async_to_sync(layer.send)("jobs", {"type": "job"})
        assert async_to_sync(layer.receive)("jobs") == {"type": "job"}

    def test_what_was_sent_is_a_model(self):
        layer = get_channel_layer()
        for count in 1, 2, 3:
            async_to_sync(layer.send)(f"counted.by.{type(self).__name__}", {"type": "job"})
            sent = LayerMessage.objects.filter(inbox=f"counted.by.{type(self).__name__}")
            assert sent.count() == count


class ChatTestCase(Chat, TestCase):
    pass


class ChatTransactionTestCase(Chat, TransactionTestCase):
    pass
