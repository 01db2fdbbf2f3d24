"""Fixtures that several rooms share: one small synthetic cohort, made once a session."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sketched_figures
from proven_networks import proved_once

from meninx.core import machine
from meninx.synthetic import AnswerKey, PhantomConfig, dataset, write_archives
from meninx.synthetic.chest import Radiograph

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reads this when it is loaded


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the stories first where several processes share the files: theirs are the longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name != "stories")


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
    """All modules are loaded when the first test begins; no later collection of garbage looks at them.

    Collections are rare: at the usual threshold they take 7 % of the time of the tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk() -> Iterator[None]:
    """``os.fsync`` returns at once in the process of the tests, which no test ends by a power failure.

    Tests of a full disk replace it by their own. Started processes have the real one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_process_unless_a_test_asks_for_more() -> Iterator[None]:
    """Stages whose number of workers nobody states run in the process of the tests.

    Starting two costs two seconds of imports. Tests of what several processes do state the number.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "processors", lambda: 1)
        yield


_draw = lru_cache(maxsize=2048)(dataset.render)


@pytest.fixture(autouse=True, scope="module")
def images_are_drawn_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Synthetic images are kept: most datasets of the tests are of the same cohort.

    An image depends on its patient, number, size and seed alone, which tests of ``synthetic`` prove: they
    draw every image.
    """

    def drawn(*given: Any, **named: Any) -> Radiograph:
        image = _draw(*given, **named)
        return Radiograph(image.array.copy(), image.mask.copy(), dict(image.findings))

    with pytest.MonkeyPatch.context() as patch:
        if "synthetic" not in request.node.name:
            patch.setattr(dataset, "render", drawn)
        yield


@pytest.fixture(autouse=True, scope="module")
def figures_are_sketches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are sketched where slow tests are left out, but not in tests of ``report/``."""
    quick = request.config.option.markexpr == "not slow" and request.path.parent.name != "report"
    with sketched_figures.sketched() if quick else nullcontext():
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
