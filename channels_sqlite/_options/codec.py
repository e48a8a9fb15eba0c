"""Messages to the bytes of a row and back: a serializer, and encryption where keys are set."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import serializers
from ..exceptions import InvalidOption, MessageTooLarge, UndecodableMessage
from ..serializers import Message, Serializer

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

LARGEST_BODY = 10**9 - 2**10
"""Bytes; SQLite's default limit for a whole row, less the other columns."""

LONGEST = len("group ") + 99  # bytes of an address; more of what others wrote is not logged
NUL = b"\0"  # no name has one: it ends the name that an encrypted body begins with


class Codec:
    """Bodies for one layer, of messages to a channel, or to a group: a name may be both."""

    def __init__(self, serializer: Serializer, keys: Sequence[str | bytes]) -> None:
        self._serializer = serializer
        self._cipher = _cipher(keys) if keys else None

    def encode(self, message: object, channel: str, group: str | None = None) -> bytes:
        """The body of a row. Raises TypeError, with the path of what cannot be serialised, or
        MessageTooLarge.
        """
        body = serializers.encode(self._serializer, message)
        if self._cipher is not None:
            body = self._cipher.encrypt(_address(channel, group).encode() + NUL + body)
        if len(body) > LARGEST_BODY:
            raise MessageTooLarge(
                f"A message of {len(body)} bytes is too large: SQLite keeps {LARGEST_BODY} in a"
                " row. Send where to find it instead."
            )
        return body

    def decode(self, body: object, channel: str, group: str | None = None) -> Message:
        """The message; UndecodableMessage for what `encode` did not write, and did not write for
        this channel or group.

        With keys set nothing is taken in plain text, and a body that was moved or copied into a row
        for another one is refused.
        """
        if self._cipher is None:
            return serializers.decode(self._serializer, body)
        if not isinstance(body, bytes):
            raise UndecodableMessage(f"the body is {type(body).__name__}, not an encrypted blob")
        try:
            name, _, body = self._cipher.decrypt(body).partition(NUL)
        except Exception as error:
            raise UndecodableMessage("no key of symmetric_encryption_keys decrypts it") from error
        if name != (address := _address(channel, group)).encode():
            theirs = name[:LONGEST].decode(errors="replace")
            raise UndecodableMessage(f"it was encrypted for {theirs}, not for {address}")
        return serializers.decode(self._serializer, body)


def _address(channel: str, group: str | None) -> str:
    """The name that a body is bound to; no channel's name has a space in it. In a row of others a
    name may be a blob.
    """
    return f"{channel}" if group is None else f"group {group}"


def _cipher(keys: Sequence[str | bytes]) -> MultiFernet:
    """Fernet, as channels_redis has it: the first key encrypts, all of them decrypt.

    Any secret will do, such as random bytes out of os.environ: it is hashed to the 32 bytes that
    Fernet wants.
    """
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise InvalidOption(
            "CHANNEL_LAYERS CONFIG key 'symmetric_encryption_keys' is set, which needs a package: "
            "python -m pip install cryptography"
        ) from error
    escaped = "surrogateescape"  # as os.environ has what is not UTF-8
    secrets = [key.encode(errors=escaped) if isinstance(key, str) else key for key in keys]
    digests = [hashlib.sha256(secret).digest() for secret in secrets]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
