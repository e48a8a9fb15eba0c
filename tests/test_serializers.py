"""Serializers: what is sent arrives, or fails when it is sent."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_sqlite import serializers
from channels_sqlite.exceptions import InvalidOption, UndecodableMessage
from channels_sqlite.serializers import Message, Serializer, decode, encode

MSGPACK = serializers.create("msgpack")
JSON = serializers.create("json")
BOTH = pytest.mark.parametrize("serializer", [MSGPACK, JSON], ids=["msgpack", "json"])

unhurried = settings(deadline=None, max_examples=50)

text = st.text(st.characters(codec="utf-8"))
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
scalars = st.none() | st.booleans() | numbers | text


def messages(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Dicts with string keys, as deep as they come."""
    values = st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=15
    )
    return st.dictionaries(text, values)


# What is sent arrives


@unhurried
@given(messages(scalars | st.binary()))
def test_msgpack_brings_back_what_the_specification_allows(message: Message) -> None:
    arrives(MSGPACK, message)


@unhurried
@given(messages(scalars))
def test_json_brings_back_everything_but_bytes(message: Message) -> None:
    arrives(JSON, message)


def arrives(serializer: Serializer, message: Message) -> None:
    before = written(message)
    body = encode(serializer, message)
    assert written(message) == before
    assert written(decode(serializer, body)) == before


def written(value: object) -> str:
    """As Python writes it, which tells 1 from 1.0 and True, 0.0 from -0.0, and NaN from nothing."""
    return repr(value)


@BOTH
def test_tuples_become_lists(serializer: Serializer) -> None:
    message = {"value": (1, ("two", ()))}
    assert decode(serializer, encode(serializer, message)) == {"value": [1, ["two", []]]}


@BOTH
def test_each_decoding_is_a_copy_of_its_own(serializer: Serializer) -> None:
    body = encode(serializer, {"items": [1]})
    decode(serializer, body)["items"].append(2)
    assert decode(serializer, body) == {"items": [1]}


def test_msgpack_brings_back_keys_that_are_no_strings() -> None:
    message = {1: "int", b"b": "bytes", None: "none", 1.5: "float"}
    assert decode(MSGPACK, encode(MSGPACK, message)) == message


def test_json_is_readable_in_any_sql_shell() -> None:
    assert (
        encode(JSON, {"type": "chat", "text": "Grüße"}) == '{"type":"chat","text":"Grüße"}'.encode()
    )


# What cannot be written fails when it is sent

Path = list[Any]


class Unknown:
    """Of no type that any serializer knows."""


refused_by_both = [
    Unknown(),
    {1, 2},
    1j,
    datetime.date(2020, 1, 1),
    "\ud800",  # half of a character
]
refused_by_msgpack = [*refused_by_both, 2**64, -(2**63) - 1]
refused_by_json = [*refused_by_both, b"bytes"]


@st.composite
def messages_with(draw: st.DrawFn, offenders: list[Any]) -> tuple[Message, Path, Any]:
    """A message that is in order but for one value, the path to that value, and the value."""
    offender = value = draw(st.sampled_from(offenders))
    path: Path = []
    for is_list in [*draw(st.lists(st.booleans(), max_size=5)), False]:
        if is_list:
            before = draw(st.lists(scalars, max_size=2))
            value = [*before, value, *draw(st.lists(scalars, max_size=2))]
            path.insert(0, len(before))
        else:
            others = draw(st.dictionaries(text, scalars, max_size=2))
            key = draw(text)
            value = {**others, key: value}
            path.insert(0, key)
    return value, path, offender


@BOTH
@unhurried
@given(data=st.data())
def test_what_is_refused_is_named_by_its_path(serializer: Serializer, data: st.DataObject) -> None:
    offenders = refused_by_json if serializer is JSON else refused_by_msgpack
    message, path, offender = data.draw(messages_with(offenders))
    before = written(message)
    with pytest.raises(TypeError) as refused:
        encode(serializer, message)
    place = "".join(f"[{key!r}]" for key in path)
    assert str(refused.value).startswith(
        f"message{place} cannot be sent: {type(offender).__name__} "
    )
    assert written(message) == before


@pytest.mark.parametrize("key", [1, 1.5, None, b"bytes", True, (1, 2)], ids=repr)
def test_json_refuses_keys_that_it_would_turn_into_strings(key: object) -> None:
    with pytest.raises(TypeError, match=r"message\['deep'\]\[1\], a key "):
        encode(JSON, {"deep": [0, {key: "value"}]})


def test_msgpack_refuses_keys_that_it_could_not_read() -> None:
    with pytest.raises(TypeError, match=r"message\['deep'\]\[1\], a key "):
        encode(MSGPACK, {"deep": [0, {(1, 2): "value"}]})


@BOTH
@pytest.mark.parametrize("wrong", [None, "text", b"bytes", 1, [("type", "test")], 1j], ids=repr)
def test_a_message_must_be_a_dict(serializer: Serializer, wrong: object) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        encode(serializer, wrong)


@BOTH
def test_what_contains_itself_is_refused(serializer: Serializer) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"message\['loop'\]\[0\]\[0\]"):
        encode(serializer, {"loop": loop})


@BOTH
def test_what_is_nested_deeper_than_can_be_read_is_refused(serializer: Serializer) -> None:
    """At any depth: it is refused when it is sent, or it arrives."""
    for depth in nested_depths():
        message: Any = "the core"
        for _ in range(depth):
            message = {"in": message}
        try:
            body = encode(serializer, message)
        except TypeError:
            assert depth > 100
            break
        assert decode(serializer, body) == message
    else:
        pytest.fail("it takes any depth")


def nested_depths() -> Iterator[int]:
    """Every depth around the limits of msgpack and of Python's own recursion; few others."""
    yield from range(1, 500, 50)
    yield from range(500, 530)
    yield from range(530, 900, 50)
    yield from range(900, 1100)
    yield from range(1100, 100_000, 10_000)


# What comes back may be anything


@BOTH
@unhurried
@given(body=st.binary())
def test_arbitrary_bytes_are_a_message_or_undecodable(serializer: Serializer, body: bytes) -> None:
    assert isinstance(message_or_none(serializer, body), dict | None)


@BOTH
@unhurried
@given(message=messages(scalars), data=st.data())
def test_damaged_bytes_are_a_message_or_undecodable(
    serializer: Serializer, message: Message, data: st.DataObject
) -> None:
    body = bytearray(encode(serializer, message))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(message_or_none(serializer, bytes(body)), dict | None)


def message_or_none(serializer: Serializer, body: bytes) -> Message | None:
    """What the body holds; None where that is undecodable, and any other error passes."""
    try:
        return decode(serializer, body)
    except UndecodableMessage:
        return None


@BOTH
@pytest.mark.parametrize("body", [None, "text", 1, 1.5, bytearray(b"\x80")], ids=repr)
def test_a_body_that_is_no_blob_is_undecodable(serializer: Serializer, body: object) -> None:
    """What an SQL shell can put there."""
    with pytest.raises(UndecodableMessage, match=type(body).__name__):
        decode(serializer, body)


@BOTH
@pytest.mark.parametrize("value", [None, 1, "text", [1, 2]], ids=repr)
def test_a_body_that_holds_no_dict_is_undecodable(serializer: Serializer, value: object) -> None:
    with pytest.raises(UndecodableMessage, match=type(value).__name__):
        decode(serializer, serializer.dumps(value))


@BOTH
def test_a_body_cut_short_is_undecodable(serializer: Serializer) -> None:
    body = encode(serializer, {"type": "test.message", "number": 12345})
    for length in range(len(body)):
        with pytest.raises(UndecodableMessage):
            decode(serializer, body[:length])


# By name


def test_an_unknown_name_is_told_which_ones_there_are() -> None:
    with pytest.raises(InvalidOption, match=r"'pickle'.* json, msgpack"):
        serializers.create("pickle")


class Plain:
    """A serializer of a project's own."""

    def dumps(self, value: Any) -> bytes:
        return repr(value).encode()

    def loads(self, body: bytes) -> Any:
        return {"read": body.decode()}


def test_a_project_can_register_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))
    serializers.register("plain", Plain)
    serializer = serializers.create("plain")
    assert decode(serializer, encode(serializer, {"a": 1})) == {"read": "{'a': 1}"}
