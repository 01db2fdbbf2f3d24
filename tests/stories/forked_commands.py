"""The command line in a process forked from the one of the tests, which need not import torch again."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meninx.cli.app import main


def nothing() -> None:
    """Prepare nothing."""


@dataclass
class Command:
    """A running command.

    Attributes:
        pid: its process.
        out: file of its standard output.
        err: file of its standard error.
        code: its exit code as of :class:`subprocess.Popen`; None while it runs.
    """

    pid: int
    out: Path
    err: Path
    code: int | None = None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 120.0) -> int:
        """Return the exit code; a command that takes longer is killed."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if self.code is None:
            self.send(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise TimeoutError("the command did not end in time")
        return self.code

    def says(self, word: str, seconds: float = 60.0) -> None:
        """Wait until a word is on standard error."""
        end = time.monotonic() + seconds
        while word not in self.err.read_text():
            assert self.poll() is None, self.err.read_text()
            assert time.monotonic() < end, f"{word} was not printed in time"
            time.sleep(0.01)


def start(folder: Path, *words: object, prepare: Callable[[], None] = nothing) -> Command:
    """Return a running command, whose output lies in two new files of ``folder``.

    Args:
        folder: an existing folder.
        *words: of the command line, without ``meninx``.
        prepare: called in the new process first; may replace functions of meninx.
    """
    number = len(list(folder.glob("command*.out")))
    out, err = (folder / f"command{number}.{end}" for end in ("out", "err"))
    handles = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) for path in (out, err)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads; those of the tests only wait
        pid = os.fork()
    if pid:
        for handle in handles:
            os.close(handle)
        return Command(pid, out, err)
    _child(handles, [str(word) for word in words], prepare)
    raise AssertionError("the child has ended")


def _child(handles: list[int], words: list[str], prepare: Callable[[], None]) -> None:
    """Run a command and end the process, whatever happens."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for handle, target in zip(handles, (1, 2), strict=True):
            os.dup2(handle, target)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        prepare()
        main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
