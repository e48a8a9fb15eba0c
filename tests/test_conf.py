"""CONFIG: every key is checked, and a wrong one is named together with what is allowed."""

from __future__ import annotations

import re
from collections import UserDict
from dataclasses import fields
from typing import Any

import pytest

from channels_sqlite._options.conf import KEYS, Options
from channels_sqlite.exceptions import InvalidOption

NOT_NUMBERS = ["1", None, True, [1], 1j]
NOT_FINITE = [float("inf"), float("-inf"), float("nan")]
NOT_DURATIONS = [*NOT_NUMBERS, *NOT_FINITE, 0, -1, -0.5]
NOT_COUNTS = [*NOT_NUMBERS, *NOT_FINITE, 0, -1, 1.5, 100.0, 2**63]

WRONG: dict[str, list[Any]] = {
    "database": ["", None, 1, ["channels"]],
    "polling_interval": [*NOT_DURATIONS, 0.0009, 60.1],
    "message_retention": [*NOT_NUMBERS, *NOT_FINITE, -1, False, 10**400],
    "capacity": NOT_COUNTS,
    "channel_capacity": [
        None,
        [("http*", 1)],
        *({"http*": count} for count in NOT_COUNTS),
        {1: 10},
        {b"http*": 10},
        {re.compile(b"http.*"): 10},
    ],
    "expiry": NOT_DURATIONS,
    "group_expiry": NOT_DURATIONS,
    "trim_batch_size": [*NOT_COUNTS, 10**9 + 1],
    "auto_trim": [0, 1, "yes", None],
    "watcher": ["", "kqueue", None, True, ["inotify"]],
    "serializer_format": ["", None, 1],
    "symmetric_encryption_keys": ["secret", b"secret", None, [1], [""], [b""], {"secret"}],
}

RIGHT: dict[str, list[Any]] = {
    "database": ["default", "channels"],
    "polling_interval": [0.001, 1, 60],
    "message_retention": [0, 0.0, 0.5, 10**9],
    "capacity": [1, 2**63 - 1],
    "channel_capacity": [
        {},
        {"http.request": 200, re.compile(r"^websocket\.send!.+"): 20},
        UserDict({"http*": 1}),
    ],
    "expiry": [0.1, 1, 10**9],
    "group_expiry": [0.1, 1, 10**9],
    "trim_batch_size": [1, 10**9],
    "auto_trim": [True, False],
    "watcher": ["auto", "inotify", "watchfiles", "polling"],
    "serializer_format": ["msgpack", "json", "of-a-project's-own"],
    "symmetric_encryption_keys": [[], (), ["secret", b"another"], ("secret",)],
}


@pytest.mark.parametrize("key", [each.name for each in fields(Options)])
def test_a_right_value_is_taken_as_it_is_and_a_wrong_one_named_with_its_key(key: str) -> None:
    for value in RIGHT[key]:
        assert getattr(Options.from_config({key: value}), key) is value
    for value in WRONG[key]:
        with pytest.raises(InvalidOption) as refused:
            Options.from_config({key: value})
        shown = "not shown here" if key == KEYS else repr(value)
        assert f"{key!r} is {shown}; allowed is " in str(refused.value)
