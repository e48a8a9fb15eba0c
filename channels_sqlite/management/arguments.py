"""Arguments of `manage.py channels_sqlite`: read, or refused in words that help."""

from __future__ import annotations

import json
import math
from argparse import ArgumentTypeError
from contextlib import suppress
from typing import Any

from django.core.management.base import CommandError

LONGEST = 1_000_000  # seconds
EXAMPLE = """'{"type": "chat.line", "text": "Hello"}'"""


def pause(text: str) -> float:
    """Seconds between two counts."""
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < LONGEST:
            return seconds
    raise ArgumentTypeError(f"{text} is not a number of seconds above 0 and below {LONGEST:,}")


def row_count(text: str) -> int:
    """How many rows to begin with."""
    with suppress(ValueError):
        if 0 <= (count := int(text)) < 2**63:  # SQLite takes less for all of them, more is an error
            return count
    raise ArgumentTypeError(f"{text} is not a number of messages")


def _finite(text: str) -> float:
    """A number in JSON: NaN and Infinity are Python's own, and 1e999 would become one."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is none of its numbers")
    return number


def message_of(text: str) -> dict[str, Any]:
    """The message in some JSON, unless it would end the consumer that gets it."""
    try:
        message = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"The message is not JSON: {error}. Send takes a channel (or --group GROUP) and a "
            f"message, in single quotes in a shell: send jobs {EXAMPLE}"
        ) from error
    if not isinstance(message, dict):
        raise CommandError(f"A message must be a dict, which JSON calls an object: {EXAMPLE}")
    type_ = message.get("type")
    # Channels refuses a leading "_", and makes one of a ".".
    if not isinstance(type_, str) or type_[:1] in {"", ".", "_"}:
        written = f'\'s "type" is {json.dumps(type_)}' if "type" in message else ' has no "type"'
        raise CommandError(
            f"The message{written}, by which a consumer finds its method: a consumer that gets it"
            f" ends. A type is a text that begins with a letter: {EXAMPLE}"
        )
    return message
