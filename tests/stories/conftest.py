"""The command line in this process, for stories that run one command after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meninx.cli import app


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs one command and returns its exit code, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call
