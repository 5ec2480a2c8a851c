"""`@live`: what a block, or a client, opens and keeps, such as a connection or a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def close_live(owner: Any) -> None:
    """Close and drop everything `@live` that the owner has made; the next use makes it anew."""
    with owner._lock:  # noqa: SLF001 (one of us)
        kept, owner._live = owner._live, {}  # noqa: SLF001
    for each in kept.values():
        if close := getattr(each, "close", None):
            close()


class live(Generic[T]):  # noqa: N801 (a decorator)
    """Turn a method without arguments into an attribute that is made on first use and kept, once for all threads.

    It is dropped when the block is closed, copied or pickled, and made anew when it is next needed.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Self | T:
        if instance is None:
            return self
        with instance._lock:  # noqa: SLF001 (our own)
            kept: dict[str, Any] = instance._live  # noqa: SLF001
            if self._name not in kept:
                kept[self._name] = self._make(instance)
            value: T = kept[self._name]
            return value
