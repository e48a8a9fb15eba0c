"""A set that keeps nothing alive, and that threads may change while another one goes through it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Weak(Generic[T]):
    """The objects that were added, for as long as they live. A `WeakSet` is iterated in Python, and
    fails where another thread adds to it meanwhile.
    """

    def __init__(self, key: Callable[[T], Hashable] = id) -> None:
        self._key = key
        self._by_key: WeakValueDictionary[Hashable, T] = WeakValueDictionary()
        self.get = self._by_key.get
        """The one with this key; None if there is none."""

    def add(self, one: T) -> None:
        self._by_key[self._key(one)] = one

    def discard(self, one: T) -> None:
        self._by_key.pop(self._key(one), None)

    def __iter__(self) -> Iterator[T]:
        references = self._by_key.valuerefs()  # copied at one go
        return iter([one for each in references if (one := each()) is not None])
