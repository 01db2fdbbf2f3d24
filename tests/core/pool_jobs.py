"""Work that worker processes of the pool's tests do; they import it by name."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def square(item: int) -> int:
    return item * item


def fail_on_three(item: int) -> int:
    if item == 3:
        raise ValueError("item three")
    return item


def die_on_three(item: int) -> int:
    if item == 3:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die_on_odd(item: int) -> int:
    if item % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def minus(item: int) -> int:
    return -item


def slow(item: int) -> int:
    time.sleep(0.1)
    return item


def marked(folder: str, item: int) -> int:
    """Leave a file for each item that begins; the first one takes longest."""
    Path(folder, str(item)).touch()
    time.sleep(2 if item == 0 else 1)
    return item


def hour(item: int) -> int:
    """Say which process works, and work for an hour."""
    os.write(2, f"{os.getpid()}\n".encode())
    time.sleep(3600)
    return item


@contextmanager
def in_folder(folder: str) -> Iterator[str]:
    yield folder


def process(item: int) -> int:
    time.sleep(0.05)
    return os.getpid()


@contextmanager
def broken_setup(message: str) -> Iterator[None]:
    from meninx.core.errors import DataError

    raise DataError(message)
    yield


@contextmanager
def remembered(word: str) -> Iterator[list[str]]:
    """Open a list of a word and how often the process opened one."""
    OPENED.append(word)
    words = [word, str(len(OPENED))]
    try:
        yield words
    finally:
        words.clear()


OPENED: list[str] = []


def recall(words: list[str], item: int) -> str:
    time.sleep(0.001)  # lets another thread in
    return f"{item}{words[0]}{words[1]}"


def nothing(context: None, item: int) -> int:
    return item
