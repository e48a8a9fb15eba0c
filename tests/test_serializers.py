"""Serializers: what is sent arrives, or fails when it is sent."""

from __future__ import annotations

import datetime
import json
from collections import OrderedDict
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from http import HTTPStatus
from time import struct_time
from typing import Any, TypeVar
from unittest.mock import Mock
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db.models import TextChoices
from django.utils import translation
from django.utils.dateparse import parse_date, parse_datetime, parse_duration, parse_time
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels_sqlite import serializers
from channels_sqlite.exceptions import InvalidOption, UndecodableMessage
from channels_sqlite.serializers import DEPTH, Message, Serializer, decode, encode, text_of

T = TypeVar("T")

MSGPACK = serializers.create("msgpack")
JSON = serializers.create("json")
BOTH = pytest.mark.parametrize("serializer", [MSGPACK, JSON], ids=["msgpack", "json"])

A_DAY = datetime.date(2026, 1, 2)

unhurried = settings(deadline=None, max_examples=15)

text = st.text(st.characters(codec="utf-8"))
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
scalars = st.none() | st.booleans() | numbers | text


def messages(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Dicts with string keys, as deep as they come."""
    values = st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=15
    )
    return st.dictionaries(text, values)


# Messages that arrive as they were sent


@unhurried
@given(message=messages(scalars), data=st.binary())
def test_what_the_specification_allows_is_brought_back(message: Message, data: bytes) -> None:
    """By JSON all but bytes."""
    for serializer, sent in ((JSON, message), (MSGPACK, {**message, "data": data})):
        before = repr(sent)  # which tells 1 from 1.0 and True, 0.0 from -0.0, and NaN from nothing
        body = encode(serializer, sent)
        assert repr(sent) == before
        assert repr(decode(serializer, body)) == before


def test_msgpack_brings_back_keys_that_are_no_strings() -> None:
    message = {2: "int", b"b": "bytes", None: "none", 1.5: "float", True: "bool"}
    assert repr(decode(MSGPACK, encode(MSGPACK, message))) == repr(message)


# Text for values of other types, the same from both

offsets = st.timedeltas(
    datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59)
).map(datetime.timezone)
zones = st.none() | st.just(datetime.UTC) | offsets | st.timezones()

with_a_reader = (
    st.tuples(st.datetimes(timezones=zones), st.just(parse_datetime))
    | st.tuples(st.datetimes(timezones=zones), st.just(datetime.datetime.fromisoformat))
    | st.tuples(st.dates(), st.just(parse_date))
    | st.tuples(st.times(), st.just(parse_time))
    | st.tuples(st.times(timezones=offsets), st.just(datetime.time.fromisoformat))
    | st.tuples(st.timedeltas(), st.just(parse_duration))
    | st.tuples(st.decimals(allow_nan=False), st.just(Decimal))
    | st.tuples(st.uuids(), st.just(UUID))
)


def same(one: Any, other: Any) -> bool:
    """Equal, and in the hour that a clock's change makes doubtful, where zones never compare equal,
    of one local time and one offset.
    """
    if isinstance(one, datetime.datetime):
        local = one.replace(tzinfo=None) == other.replace(tzinfo=None, fold=0)
        return bool(local and one.utcoffset() == other.utcoffset())
    return bool(one == other)


@unhurried
@given(with_a_reader)
def test_other_types_arrive_as_text_that_reads_as_what_was_sent(
    pair: tuple[Any, Callable[[str], Any]],
) -> None:
    value, read = pair
    for serializer in (MSGPACK, JSON):
        text = round_trip(serializer, value)
        assert type(text) is str
        assert same(read(text), value)
        assert text == text_of(value)


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 678901), "2026-01-02T03:04:05.678901"),
        (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(3, 4, 5), "03:04:05"),
        (datetime.timedelta(days=1, seconds=2, microseconds=3), "P1DT00H00M02.000003S"),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), "NaN"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (gettext_lazy("Yes"), "Yes"),
        (format_lazy("{}, {}", gettext_lazy("Yes"), 1), "Yes, 1"),
        (SimpleLazyObject(lambda: Decimal(1)), "1"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_is_the_documented_one(serializer: Serializer, value: object, text: str) -> None:
    assert round_trip(serializer, value) == text


def test_lazy_text_is_in_the_language_of_who_sends_it() -> None:
    lazy = gettext_lazy("Yes")
    for serializer in (MSGPACK, JSON):
        with translation.override("de"):
            body = encode(serializer, {"value": lazy})
        assert decode(serializer, body) == {"value": "Ja"}


class Nickname(str):
    """A str by another name, as Django's SafeString is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


class Colour(TextChoices):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Half(float, Enum):
    HALF = 0.5


@BOTH
@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Nickname("text"), "text"),
        (mark_safe("<b>"), "<b>"),
        (Colour.RED, "red"),
        (Size.LARGE, 3),
        (HTTPStatus.OK, 200),
        (Half.HALF, 0.5),
        (OrderedDict(a=1), {"a": 1}),
        ({Colour.RED: 1, Nickname("key"): 2}, {"red": 1, "key": 2}),
        (struct_time(range(9)), [*range(9)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_and_enums_arrive_as_the_plain_value(
    serializer: Serializer, value: object, plain: object
) -> None:
    arrived = round_trip(serializer, value)
    assert repr(arrived) == repr(plain)  # which tells a subclass, too


def test_msgpack_makes_bytes_of_what_is_like_them_and_json_brings_back_ints_of_any_size() -> None:
    for value in (bytearray(b"bytes"), memoryview(b"bytes")):
        assert round_trip(MSGPACK, value) == b"bytes"
    assert round_trip(JSON, 2**100) == 2**100


def round_trip(serializer: Serializer, value: object) -> Any:
    return decode(serializer, encode(serializer, {"value": value}))["value"]


# Messages that cannot be written fail when they are sent


NOON_IN_LONDON = datetime.time(12, tzinfo=ZoneInfo("Europe/London"))  # an hour off in summer


HALF_A_CHARACTER = "\ud800"

refused_by_both = [
    *(object(), {1, 2}, 1j, NOON_IN_LONDON, SimpleLazyObject(dict)),
    *(HALF_A_CHARACTER, gettext_lazy(HALF_A_CHARACTER)),
]


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        *((MSGPACK, value) for value in (*refused_by_both, 2**64, -(2**63) - 1, 10**5000)),
        *((JSON, value) for value in (*refused_by_both, b"bytes")),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_refused_is_named_by_its_path(serializer: Serializer, value: Any) -> None:
    at_the_top, deep = {"a": 1, "": value}, {"in": [0, {"b": None, "c": [[], value, 2]}]}
    for message, place in ((at_the_top, "['']"), (deep, "['in'][1]['c'][1]")):
        with pytest.raises(TypeError) as refused:
            encode(serializer, message)
        words = f"message{place} cannot be sent: {type(value).__name__} "
        assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    ("serializer", "key"),
    [
        *((JSON, key) for key in (1, 1.5, None, b"bytes", True, (1, 2), A_DAY, Size.LARGE)),
        *((MSGPACK, key) for key in ((1, 2), A_DAY, UUID(int=1), gettext_lazy("Yes"))),
    ],
    ids=lambda each: type(each).__name__,
)
def test_keys_that_would_come_back_as_others_or_not_at_all_are_refused(
    serializer: Serializer, key: object
) -> None:
    with pytest.raises(TypeError, match=r"message\['deep'\]\[1\], a key "):
        encode(serializer, {"deep": [0, {key: "value"}]})


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("not even a repr")


@BOTH
def test_what_contains_itself_or_has_no_repr_is_refused_and_named(serializer: Serializer) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"message\['loop'\]\[0\]\[0\]"):
        encode(serializer, {"loop": loop})
    with pytest.raises(TypeError, match=r"message\['value'\] cannot be sent: Broken <Broken "):
        encode(serializer, {"value": Broken()})


@BOTH
@pytest.mark.parametrize(
    "wrap", [lambda inner: [inner], lambda inner: {"in": inner}], ids=["list", "dict"]
)
def test_what_is_nested_as_deep_as_it_may_be_arrives_and_no_deeper(
    serializer: Serializer, wrap: Callable[[Any], Any]
) -> None:
    def nested(levels: int) -> Message:
        value: Any = A_DAY
        for _ in range(levels - 1):
            value = wrap(value)
        return {"in": value}

    message = from_a_deep_stack(lambda: decode(serializer, encode(serializer, nested(DEPTH))))
    assert repr(message) == repr(nested(DEPTH)).replace(repr(A_DAY), repr(str(A_DAY)))
    for levels in (DEPTH + 1, 100_000):
        with pytest.raises(TypeError, match=f"nested {DEPTH} deep"):
            encode(serializer, nested(levels))


def from_a_deep_stack(call: Callable[[], T], frames: int = 200) -> T:
    """As deep as in a view, behind middleware."""
    return from_a_deep_stack(call, frames - 1) if frames else call()


# Any bytes may come back


@BOTH
@settings(unhurried, suppress_health_check=[HealthCheck.too_slow])
@given(message=messages(scalars), data=st.data())
def test_damaged_bytes_are_a_message_or_undecodable(
    serializer: Serializer, message: Message, data: st.DataObject
) -> None:
    """And so are any other bytes."""
    body = bytearray(encode(serializer, message))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    for each in (bytes(body), data.draw(st.binary())):
        try:
            assert isinstance(decode(serializer, each), dict)
        except UndecodableMessage:
            continue


@BOTH
def test_a_body_that_is_no_blob_or_holds_no_dict_is_undecodable(serializer: Serializer) -> None:
    """An SQL shell can put them there."""
    values: list[Any] = [None, "text", 1, 1.5, [1, 2]]
    for value in values:
        for body in (value, serializer.dumps(value)):
            with pytest.raises(UndecodableMessage, match=type(value).__name__):
                decode(serializer, body)


class Plain:
    """A serializer of a project's own."""

    def dumps(self, value: Any) -> bytes:
        return repr(value).encode()

    def loads(self, body: bytes) -> Any:
        return {"read": body.decode()}


def test_a_project_can_register_its_own_and_is_told_which_ones_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InvalidOption, match=r"'pickle'.* json, msgpack"):
        serializers.create("pickle")
    monkeypatch.setattr(serializers, "_registry", dict(serializers._registry))
    serializers.register("plain", Plain)
    serializer = serializers.create("plain")
    serializers.register("textual", lambda: Mock(dumps=json.dumps))
    with pytest.raises(TypeError, match="has returned str, not bytes"):
        encode(serializers.create("textual"), {"a": 1})
    serializers.register("broken", Mock(side_effect=KeyError("a setting")))
    with pytest.raises(KeyError, match="a setting"):
        serializers.create("broken")
    assert decode(serializer, encode(serializer, {"a": 1})) == {"read": "{'a': 1}"}
