"""The codec: bodies that only these keys open, and only for the channel they were sent to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_sqlite import serializers
from channels_sqlite._options.codec import Codec
from channels_sqlite.exceptions import UndecodableMessage

pytest.importorskip("cryptography", reason="no cryptography here")

MSGPACK = serializers.create("msgpack")
MESSAGE = {"type": "test.message", "secret": "the password"}


def codec(*keys: str | bytes) -> Codec:
    return Codec(MSGPACK, keys)


def test_without_keys_a_body_is_what_the_serializer_wrote() -> None:
    assert codec().encode(MESSAGE, "test-channel") == serializers.encode(MSGPACK, MESSAGE)


def test_a_key_may_be_any_secret_and_two_bodies_of_one_message_differ() -> None:
    """Otherwise the table would tell that a sender says the same again."""
    keys: list[str | bytes] = ["key", b"key", "Schlüssel", "x" * 1000]
    for key in keys:
        bodies = {codec(key).encode(MESSAGE, "test-channel") for _ in range(5)}
        assert len(bodies) == 5
        assert [codec(key).decode(body, "test-channel") for body in bodies] == [MESSAGE] * 5


def test_a_key_out_of_the_environment_is_the_same_as_its_bytes() -> None:
    """Python has what is not UTF-8 there as surrogates."""
    body = codec(b"\xff\xfe key").encode(MESSAGE, "test-channel")
    assert codec("\udcff\udcfe key").decode(body, "test-channel") == MESSAGE


def test_another_key_or_none_reads_nothing() -> None:
    body = codec("key").encode(MESSAGE, "test-channel")
    with pytest.raises(UndecodableMessage, match="symmetric_encryption_keys"):
        codec("another").decode(body, "test-channel")
    with pytest.raises(UndecodableMessage, match="it is encrypted, of another serializer_format"):
        codec().decode(body, "test-channel")


def test_a_body_that_was_copied_to_a_name_that_is_a_blob_is_undecodable() -> None:
    """SQLite keeps a blob in any column, and so the admin and the command meet one."""
    body = codec("key").encode(MESSAGE, "test-channel")
    blob: Any = b"test-channel"
    with pytest.raises(UndecodableMessage, match="it was encrypted for test-channel, not for b'"):
        codec("key").decode(body, blob)


@settings(deadline=None, max_examples=15)
@given(plain=st.binary(), other=st.one_of(st.none(), st.text(), st.integers(), st.floats()))
def test_anything_else_is_undecodable(plain: bytes, other: object) -> None:
    """Also what the same key has encrypted elsewhere, by channels_redis say."""
    cipher = codec("key")._cipher
    assert cipher is not None
    for body in (plain, other, cipher.encrypt(plain), cipher.encrypt(1000 * plain)):
        with pytest.raises(UndecodableMessage) as raised:
            codec("key").decode(body, "test-channel")
        assert len(str(raised.value)) < 500
