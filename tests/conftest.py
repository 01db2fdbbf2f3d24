"""Fixtures that several rooms share: one small synthetic cohort, made once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meninx.synthetic import AnswerKey, PhantomConfig, write_archives

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reads this when it is loaded


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured kernel choices of the tests stay out of the user's cache folder.

    Every test process has its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MENINX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class Cohort:
    """Three hospitals' archives below ``root``, what was asked for, and the answer key.

    Tests must not write into ``root``.
    """

    root: Path
    config: PhantomConfig
    key: AnswerKey


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """18 invented patients at three hospitals, with 64 x 64 radiographs and three small CT series.

    Identifiers are planted in everything.
    """
    root = tmp_path_factory.mktemp("cohort") / "archives"
    config = PhantomConfig(patients=18, size=64, ct_patients=3, ct_size=(24, 20, 8))
    return Cohort(root, config, write_archives(config, root))
