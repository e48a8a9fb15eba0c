"""Messages to bytes and back.

What cannot be written fails here, at send, and names the offending key: a message that only fails
when it is read has already cost somebody else their consumer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from .exceptions import InvalidOption, UndecodableMessage

Message = dict[str, Any]
NoneType = type(None)

DEPTH = 512  # as deep as msgpack goes; what is nested deeper is itself the offence


class Serializer(Protocol):
    """Two verbs; register an implementation with `register` to name it in CONFIG's
    `serializer_format`.
    """

    def dumps(self, value: Any) -> bytes:
        """`value` as bytes; any exception means that it cannot be written."""

    def loads(self, body: bytes) -> Any:
        """What `dumps` was given; any exception means that `body` is not of this serializer."""


class MsgpackSerializer:
    """bytes, str, 64-bit integers, floats, bool, None, lists and dicts; tuples become lists."""

    def dumps(self, value: Any) -> bytes:
        _require_keys(value, (str, bytes, int, float, NoneType))  # the others cannot be unpacked
        packed: bytes = msgpack.packb(value)
        return packed

    def loads(self, body: bytes) -> Any:
        if body[:1] == b"{":  # JSON, as SQL writes it: no dict of msgpack begins so
            return json.loads(body)
        # Keys other than strings are let through: sent as they are, they arrive as they are.
        return msgpack.unpackb(body, strict_map_key=False)


class JsonSerializer:
    """Readable in any SQL shell; no bytes, and dicts with string keys only."""

    def dumps(self, value: Any) -> bytes:
        _require_keys(value, (str,))  # JSON would turn the others into strings without a word
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

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
    try:
        return _registry[name]()
    except KeyError:
        raise InvalidOption(
            f"CHANNEL_LAYERS CONFIG key 'serializer_format' is {name!r}; "
            f"registered are {', '.join(sorted(_registry))}."
        ) from None


def encode(serializer: Serializer, message: object) -> bytes:
    """`message` as bytes; raises TypeError with the path of what cannot be written."""
    if not isinstance(message, dict):
        raise TypeError(f"A message must be a dict, not {type(message).__name__}: {message!r:.100}")
    try:
        return serializer.dumps(message)
    except Exception as error:
        path, value = _offender(serializer, message)
        raise TypeError(
            f"message{path} cannot be sent: {type(value).__name__} {value!r:.100} ({error})"
        ) from error


def decode(serializer: Serializer, body: object) -> Message:
    """The message in `body`; raises `UndecodableMessage` for anything that `encode` did not
    write.
    """
    if not isinstance(body, bytes):
        raise UndecodableMessage(f"the body is {type(body).__name__}, not a blob")
    try:
        message = serializer.loads(body)
    except Exception as error:
        raise UndecodableMessage(f"{type(error).__name__}: {error}") from error
    if not isinstance(message, dict):
        raise UndecodableMessage(f"the body holds {type(message).__name__}, not a dict")
    return message


def _offender(serializer: Serializer, value: Any) -> tuple[str, Any]:
    """The path to, and the value of, the innermost part of `value` that the serializer refuses."""
    path = ""
    for _ in range(DEPTH):
        if isinstance(value, dict):
            for key in value:
                if not _writes(serializer, {key: None}):
                    return f"{path}, a key", key
            parts = [(f"[{key!r}]", part) for key, part in value.items()]
        elif isinstance(value, (list, tuple)):
            parts = [(f"[{index}]", part) for index, part in enumerate(value)]
        else:
            break
        refused = next((part for part in parts if not _writes(serializer, part[1])), None)
        if refused is None:
            break
        path, value = path + refused[0], refused[1]
    return path, value


def _writes(serializer: Serializer, value: Any) -> bool:
    try:
        serializer.dumps(value)
    except Exception:
        return False
    return True


def _require_keys(value: Any, kinds: tuple[type, ...]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, kinds):
                raise TypeError("a key of this type could not be read back")
            if isinstance(item, (dict, list, tuple)):
                _require_keys(item, kinds)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _require_keys(item, kinds)
