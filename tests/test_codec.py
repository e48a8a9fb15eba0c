"""The codec: bodies that only these keys open, and only for the channel they were sent to."""

from __future__ import annotations

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


def test_with_keys_a_message_comes_back() -> None:
    body = codec("key").encode(MESSAGE, "test-channel")
    assert codec("key").decode(body, "test-channel") == MESSAGE


def test_with_keys_nothing_can_be_read_in_the_table() -> None:
    body = codec("key").encode(MESSAGE, "test-channel")
    assert b"password" not in body
    assert b"test-channel" not in body


def test_two_bodies_of_one_message_differ() -> None:
    """Or the table would tell that somebody says the same again."""
    bodies = {codec("key").encode(MESSAGE, "test-channel") for _ in range(10)}
    assert len(bodies) == 10


@pytest.mark.parametrize("key", ["key", b"key", "Schlüssel", "x" * 1000])
def test_a_key_may_be_any_secret(key: str | bytes) -> None:
    body = codec(key).encode(MESSAGE, "test-channel")
    assert codec(key).decode(body, "test-channel") == MESSAGE


def test_a_text_and_its_bytes_are_the_same_key() -> None:
    body = codec("Schlüssel").encode(MESSAGE, "test-channel")
    assert codec("Schlüssel".encode()).decode(body, "test-channel") == MESSAGE


def test_the_first_key_writes_and_all_of_them_read() -> None:
    """So that keys can be changed one process after the other."""
    old = codec("old").encode(MESSAGE, "test-channel")
    new = codec("new", "old").encode(MESSAGE, "test-channel")
    assert codec("new", "old").decode(old, "test-channel") == MESSAGE
    assert codec("new").decode(new, "test-channel") == MESSAGE
    with pytest.raises(UndecodableMessage):
        codec("old").decode(new, "test-channel")


def test_another_key_reads_nothing() -> None:
    body = codec("key").encode(MESSAGE, "test-channel")
    with pytest.raises(UndecodableMessage, match="symmetric_encryption_keys"):
        codec("another").decode(body, "test-channel")


def test_with_keys_plain_text_is_not_taken() -> None:
    """Who can write into the file could otherwise say anything."""
    with pytest.raises(UndecodableMessage):
        codec("key").decode(codec().encode(MESSAGE, "test-channel"), "test-channel")


def test_without_keys_what_is_encrypted_is_not_read() -> None:
    with pytest.raises(UndecodableMessage):
        codec().decode(codec("key").encode(MESSAGE, "test-channel"), "test-channel")


@pytest.mark.parametrize("another", ["another-channel", "test-channe", "test-channel2", ""])
def test_a_body_is_for_one_channel_only(another: str) -> None:
    """Moved into another row, it is refused."""
    body = codec("key").encode(MESSAGE, "test-channel")
    with pytest.raises(UndecodableMessage, match="test-channel"):
        codec("key").decode(body, another)


def test_a_body_for_a_channel_is_not_for_the_group_of_its_name() -> None:
    for_channel = codec("key").encode(MESSAGE, "chat")
    for_group = codec("key").encode(MESSAGE, "", "chat")
    assert codec("key").decode(for_group, "whoever-is-in-it", "chat") == MESSAGE
    with pytest.raises(UndecodableMessage, match="group chat"):
        codec("key").decode(for_channel, "chat", "chat")
    with pytest.raises(UndecodableMessage, match="group chat"):
        codec("key").decode(for_group, "chat")


def test_what_was_changed_is_refused() -> None:
    body = codec("key").encode(MESSAGE, "test-channel")
    for place in range(0, len(body), 7):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises(UndecodableMessage):
            codec("key").decode(bytes(changed), "test-channel")


@settings(deadline=None)
@given(body=st.one_of(st.binary(), st.none(), st.text(), st.integers(), st.floats()))
def test_anything_else_is_undecodable(body: object) -> None:
    with pytest.raises(UndecodableMessage):
        codec("key").decode(body, "test-channel")


@settings(deadline=None)
@given(plain=st.binary())
def test_what_the_same_key_encrypted_elsewhere_is_undecodable(plain: bytes) -> None:
    """channels_redis, say, given the same secret."""
    cipher = codec("key")._cipher
    assert cipher is not None
    with pytest.raises(UndecodableMessage):
        codec("key").decode(cipher.encrypt(plain), "test-channel")


def test_what_cannot_be_serialised_is_refused_before_it_is_encrypted() -> None:
    with pytest.raises(TypeError, match=r"message\['deep'\]\[0\]"):
        codec("key").encode({"deep": [object()]}, "test-channel")
