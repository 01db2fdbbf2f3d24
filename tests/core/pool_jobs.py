"""Work that worker processes of the pool's tests do; they import it by name."""

import os
import signal
import time


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


def process(item: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def broken_setup(message: str) -> None:
    from meninx.core.errors import DataError

    raise DataError(message)


READY: list[str] = []


def remember(word: str) -> None:
    READY.append(word)


def recall(item: int) -> str:
    return f"{item}{''.join(READY)}"
