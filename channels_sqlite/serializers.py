"""Messages to bytes and back.

A value that cannot be written fails here, at send, and names the offending key: a message that only
fails when it is read has already cost somebody else their consumer.
"""

from __future__ import annotations

import datetime
import json
import reprlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from types import NoneType
from typing import Any, Protocol
from uuid import UUID

import msgpack
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise

from .exceptions import InvalidOption, UndecodableMessage

Message = dict[str, Any]

# How deep dicts and lists may be nested, the message itself being the first. Counted here, because
# the serializers differ: msgpack 1.1 packs 511 levels and 1.2 packs 1,024; json reads 1,000 less
# the stack up to Python 3.11. The admin, the command and every JSON parser show 100.
DEPTH = 100

BUFFER = 1024  # bytes, at first

# For error messages. The built-in repr fails on what is nested too deep, and on broken classes.
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100


def _brief(value: object) -> str:
    try:
        return _repr.repr(value)
    except ValueError:  # an int of thousands of digits
        return "(too long to be shown)"


class Serializer(Protocol):
    """Two verbs; register an implementation with `register` to name it in CONFIG's
    `serializer_format`.
    """

    def dumps(self, value: Any) -> bytes:
        """`value` as bytes; any exception means that it cannot be written."""

    def loads(self, body: bytes) -> Any:
        """Return the message that `dumps` was given. Any exception means that `body` is not of this
        serializer.
        """


def text_of(value: object) -> str:
    """The text that stands for `value` in a message, whichever the serializer: receivers get a str.

    -   `datetime`, `date` and `time`: ISO 8601 with all microseconds, and with the UTC offset of an
        aware one, as `isoformat()` writes and `fromisoformat()` reads it
    -   `timedelta`: an ISO 8601 duration, which Django's `parse_duration()` reads
    -   `Decimal` and `UUID`: what `str()` makes of them, which their classes read
    -   a lazy string: its text, in the language that is active where it is sent

    These are the forms of Django's `DjangoJSONEncoder`, with three exceptions: microseconds are
    kept, UTC is written as `+00:00` and not as `Z`, and aware times are allowed.

    Raises TypeError for everything else, and for a time of day in a zone whose offset depends on
    the date.
    """
    if isinstance(value, datetime.time) and value.tzinfo is not None and value.utcoffset() is None:
        raise TypeError("without a date, its time zone has no offset")
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date, too
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, Promise)):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return duration_iso_string(value)
    if isinstance(value, int):
        raise TypeError("an int has 64 bits at most")
    raise TypeError("nothing of this type can be sent")


class MsgpackSerializer:
    """str, bytes, 64-bit ints, floats, bool, None, lists and dicts, and what `text_of` takes.

    Tuples become lists; a bytearray or a memoryview becomes bytes; a value of a subclass or of an
    enum that is one (IntEnum, TextChoices) becomes the plain value. The keys of dicts may be str,
    bytes, int, float, bool and None, and stay what they are.
    """

    def dumps(self, value: Any) -> bytes:
        _require_shape(value, (str, bytes, int, float, NoneType))  # the others cannot be unpacked
        # As many bytes are enough for most, and are no allocation of the operating system's.
        packer = msgpack.Packer(default=text_of, buf_size=BUFFER)  # type: ignore[call-arg]
        packed: bytes = packer.pack(value)
        return packed

    def loads(self, body: bytes) -> Any:
        # JSON, as SQL writes it (in UTF-16 too, where a file is so): no dict of msgpack begins so.
        if body.startswith((b"{", b"\0{")):
            return json.loads(body)
        # Keys other than strings are let through: sent as they are, they arrive as they are.
        return msgpack.unpackb(body, strict_map_key=False)


class JsonSerializer:
    """As `MsgpackSerializer`, but readable in any SQL shell, with ints of any size, without bytes,
    and with dicts of str keys only.
    """

    _encoder = json.JSONEncoder(default=text_of, ensure_ascii=False, separators=(",", ":"))

    def dumps(self, value: Any) -> bytes:
        _require_shape(value, (str,))  # JSON would turn other keys into strings without a word
        return self._encoder.encode(value).encode()

    def loads(self, body: bytes) -> Any:
        return json.loads(body)


_registry: dict[str, Callable[[], Serializer]] = {
    "msgpack": MsgpackSerializer,
    "json": JsonSerializer,
}


def register(name: str, factory: Callable[[], Serializer]) -> None:
    """Make `serializer_format: name` mean what `factory` makes."""
    _registry[name] = factory


def create(name: str) -> Serializer:
    """The serializer called `name`; raises `InvalidOption` where there is none."""
    if name not in _registry:
        raise InvalidOption(
            f"CHANNEL_LAYERS CONFIG key 'serializer_format' is {name!r}; "
            f"registered are {', '.join(sorted(_registry))}."
        )
    return _registry[name]()


def encode(serializer: Serializer, message: object) -> bytes:
    """`message` as bytes; raises TypeError with the path of what cannot be written."""
    if not isinstance(message, dict):
        raise TypeError(
            f"A message must be a dict, not {type(message).__name__}: {_brief(message)}"
        )
    try:
        body = serializer.dumps(message)
    except Exception as error:
        path, value = _offender(serializer, message)
        raise TypeError(
            f"message{path} cannot be sent: {type(value).__name__} {_brief(value)} ({error})"
        ) from error
    if not isinstance(body, bytes):
        name = type(serializer).__name__
        raise TypeError(f"{name}.dumps() has returned {type(body).__name__}, not bytes")
    return body


def decode(serializer: Serializer, body: object) -> Message:
    """The message in `body`; raises `UndecodableMessage` for anything that `encode` did not
    write.
    """
    if not isinstance(body, bytes):
        raise UndecodableMessage(f"the body is {type(body).__name__}, not a blob")
    try:
        message = serializer.loads(body)
    except Exception as error:
        raise UndecodableMessage(
            f"it is encrypted, of another serializer_format, or damaged ({type(error).__name__}:"
            f" {error})"
        ) from error
    if not isinstance(message, dict):
        raise UndecodableMessage(f"the body holds {type(message).__name__}, not a dict")
    return message


def _offender(
    serializer: Serializer, value: Any, path: str = "", levels: int = DEPTH
) -> tuple[str, Any]:
    """The path to, and the value of, the innermost part of `value` that the serializer refuses."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if bad := [key for key in value if not _writes(serializer, {key: None})]:
            return f"{path}, a key", bad[0]
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for key, part in parts:
        if levels and not _writes(serializer, part):
            return _offender(serializer, part, f"{path}[{key!r}]", levels - 1)
    return path, value


def _writes(serializer: Serializer, value: Any) -> bool:
    try:
        serializer.dumps(value)
    except Exception:  # whatever the methods of a user's own class raise
        return False
    return True


def _require_shape(value: Any, kinds: tuple[type, ...], levels: int = DEPTH) -> None:
    """Keys of these kinds only, in dicts and lists that are no deeper than can be read."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, kinds):
                raise TypeError("a key of this type could not be read back")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    if not levels:
        raise TypeError(f"dicts and lists may be nested {DEPTH} deep")
    for item in value:
        if isinstance(item, (dict, list, tuple)):
            _require_shape(item, kinds, levels - 1)
