"""Small prepared datasets and finished runs that the tests of the train room share.

Nobody writes into them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from meninx.core.manifest import MANIFEST_NAME, Manifest, TaskKind
from meninx.core.run import Run
from meninx.synthetic import write_dataset
from meninx.train import stage
from meninx.train.config import PrivacyConfig, TrainConfig

SMALL = {"model": "resnet9-small", "epochs": 2, "batch_size": 6, "lr": 3e-3, "deterministic": True}
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)


def run_of(result: stage.TrainResult) -> Run:
    return Run(result.out)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 invented patients, three findings."""
    return write_dataset(tmp_path_factory.mktemp("train") / "data", patients=24, size=32)


@pytest.fixture(scope="session")
def plain(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without privacy, with ONNX."""
    config = TrainConfig.of(**SMALL, name="plain", export=("bundle", "onnx"))
    return run_of(stage.run(config, data.root, tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def private(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with differential privacy."""
    config = TrainConfig.of(**SMALL, name="private", privacy=TERMS)
    return run_of(stage.run(config, data.root, tmp_path_factory.mktemp("private")))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs with the mask of a pneumothorax."""
    root = tmp_path_factory.mktemp("pictures") / "data"
    return write_dataset(root, task=TaskKind.SEGMENTATION, patients=12, size=32, prevalence=0.9)


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """CT-like volumes with organ and lesion."""
    root = tmp_path_factory.mktemp("volumes") / "data"
    return write_dataset(root, task=TaskKind.SEGMENTATION, patients=10, size=24, spatial_dims=3)


def renamed(root: Path, *, letter: str = "Q") -> Manifest:
    """The dataset with other pseudonyms: other people."""
    path = root / MANIFEST_NAME
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["patient_id"] = letter + row["patient_id"][1:]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Manifest.read(root)


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of other people, of another size."""
    root = tmp_path_factory.mktemp("public") / "data"
    write_dataset(root, patients=14, size=24, seed=5)
    return renamed(root)
