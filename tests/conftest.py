"""Fixtures that several rooms share: one small synthetic cohort, made once a session."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from proven_networks import proved_once

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


@pytest.fixture(autouse=True, scope="session")
def what_is_loaded_is_no_garbage() -> None:
    """All modules are loaded when the first test begins; no later collection of garbage looks at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk() -> Iterator[None]:
    """``os.fsync`` returns at once in the process of the tests, which no test ends by a power failure.

    Tests of a full disk replace it by their own. Started processes have the real one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def networks_are_proved_once() -> Iterator[None]:
    """The proof before a private run is made once for each packaged network and shape."""
    with proved_once():
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
