"""How the command writes things down for a terminal, or for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.template.defaultfilters import filesizeformat

Cells = Sequence[object]


def table(header: Cells, rows: Iterable[Cells]) -> list[str]:
    """Lines with columns: names to the left, and numbers to the right."""
    lines = [[one_line(str(cell)) for cell in row] for row in (header, *rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return ["  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]) for line in lines]


def as_json(value: Any, *, indent: int | None = 2, ascii_only: bool = True) -> str:
    """JSON of what a message may hold; what JSON does not know is written as text."""
    write = partial(json.dumps, indent=indent, default=_text, ensure_ascii=ascii_only)
    try:
        text = write(value)
    except (TypeError, ValueError):  # a key that is no text; a list within itself
        return write(repr(value))
    has_constants = "NaN" in text or "Infinity" in text  # which Python's JSON knows, and no other
    return write(json.loads(text, parse_constant=str)) if has_constants else text


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def one_line(text: str) -> str:
    """Without what moves the cursor or turns the writing: messages come from strangers."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def known(text: str, stream: Any) -> str:
    """Without the characters of a message, or of a path, that a terminal or a pipe cannot take."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def counted(number: int, noun: str) -> str:
    """Such as "1 member" or "2 members"."""
    return f"{number} {noun}" if number == 1 else f"{number or 'no'} {noun}s"


def duration(seconds: float | None) -> str:
    """Such as "4.2 s" or "3 h"; "-" for None."""
    if seconds is None:
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Bytes, such as "4.1 MB"."""
    return filesizeformat(count).replace("\xa0", " ")


def clock(seconds: float) -> str:
    """The local time of day of unix seconds, to the millisecond."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, OSError, TypeError, ValueError):  # a row that anybody may write
        return str(seconds)
