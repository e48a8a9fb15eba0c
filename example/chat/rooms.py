"""The name of a room: what it may look like in an address, and its group in the channel layer."""

from django.urls.converters import SlugConverter
from django.utils.text import slugify

NAME_LENGTH = 40


class RoomConverter(SlugConverter):
    regex = f"[-a-z0-9_]{{1,{NAME_LENGTH}}}"


def room_name(wish: str) -> str:
    """What a person typed, as a room's name: "Tea & Cake" is tea-cake; empty if nothing is left."""
    return slugify(wish)[:NAME_LENGTH]


def group_name(room: str) -> str:
    return f"chat.{room}"
