"""The command line in this process, and a small folder of pictures to try it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meninx.cli.app import run


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """A function that runs one command: ``invoke("train", folder, "--dry-run")``."""

    def call(*words: object) -> Said:
        capfd.readouterr()
        code = run([str(word) for word in words])
        got = capfd.readouterr()
        return Said(code, got.out, got.err)

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Class folders with six small pictures each."""
    generator = np.random.default_rng(0)
    for name in ("clear", "effusion"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(generator.integers(0, 256, (16, 16), dtype=np.uint8)).save(
                folder / f"{number}.png"
            )
    return tmp_path / "images"
