"""A set that keeps nothing alive, and that threads may change while another one goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Weak(Generic[T]):
    """The objects that were added, for as long as they live. A `WeakSet` is iterated in Python, and
    fails where another thread adds to it meanwhile.
    """

    def __init__(self) -> None:
        self._by_id: WeakValueDictionary[int, T] = WeakValueDictionary()

    def add(self, one: T) -> None:
        """Have it among them."""
        self._by_id[id(one)] = one

    def discard(self, one: T) -> None:
        """Have it among them no more."""
        self._by_id.pop(id(one), None)

    def __iter__(self) -> Iterator[T]:
        references = self._by_id.valuerefs()  # copied at one go
        return iter([one for each in references if (one := each()) is not None])
