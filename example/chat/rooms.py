"""The name of a room: its form in an address, and its group in the channel layer."""

from hashlib import sha256
from unicodedata import category, normalize

from django.urls.converters import StringConverter

NAME_LENGTH = 40


class RoomConverter(StringConverter):
    """A room in an address, however it is written there."""

    def to_python(self, value: str) -> str:
        room = room_name(value)
        if not 0 < len(room) <= NAME_LENGTH:
            raise ValueError(value)
        return room


def room_name(wish: str) -> str:
    """Return what a person typed as a room's name: "Tea & Cake" is tea-cake.

    Letters, marks and digits of any script stay; it is empty without a letter or a digit.
    """
    folded = normalize("NFKC", normalize("NFKC", wish).lower())
    kept = "".join(each if category(each)[0] in "LMN" else " " for each in folded)
    return "-".join(kept.split()) if any(map(str.isalnum, kept)) else ""


def group_name(room: str) -> str:
    """Return the room's group: the names of groups are short, and ASCII only."""
    return f"chat.{room if room.isascii() else sha256(room.encode()).hexdigest()}"
