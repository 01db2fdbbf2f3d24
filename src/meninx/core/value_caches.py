"""Caches whose keys or results are values of patients, and the end of them.

    >>> @cached(maxsize=8)
    ... def folded(name: str) -> str:
    ...     return name.casefold()
    >>> with cleared():
    ...     folded("Quentinsson")
    'quentinsson'

A run fills them, because the files of a patient come one after the other. When it ends they are empty, also
in a process that goes on, such as a service or the worker of a cluster. Who cleans single instances in memory
says when the last one was cleaned (:meth:`meninx.deid.Deidentifier.close`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import ParamSpec, TypeVar

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")
_empty: list[Callable[[], None]] = []  # of every such cache that was imported


def cached(
    maxsize: int,
) -> Callable[[Callable[ArgumentsT, ResultT]], Callable[ArgumentsT, ResultT]]:
    """Return a decorator: ``lru_cache`` of ``maxsize`` results that :func:`cleared` empties."""

    def decorated(function: Callable[ArgumentsT, ResultT]) -> Callable[ArgumentsT, ResultT]:
        made = lru_cache(maxsize)(function)
        _empty.append(made.cache_clear)
        # The arguments are those of the function; the type of lru_cache takes any hashable ones.
        return made  # type: ignore[return-value]

    return decorated


@contextmanager
def cleared() -> Iterator[None]:
    """Empty all of them at the end. A run beside it in another thread only loses speed."""
    try:
        yield
    finally:
        clear()


def clear() -> None:
    """Empty all of them now."""
    for empty in _empty:
        empty()
