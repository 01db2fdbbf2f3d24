"""Volumes of several channels, from a published layout to a measured model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import segmentation_fixtures as layouts

import meninx
from meninx.cli.app import run as command
from meninx.core.manifest import Manifest

pytestmark = pytest.mark.torch
TRAIN = ("--model", "unet-small", "--batch-size", "2", "--steps", "2", "--patch-size", "8", "8", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nnunet")
    layouts.make_nnunet(root / "Dataset005_Prostate", cases=12)
    out = root / "data"
    folder = str(root / "Dataset005_Prostate")
    assert command(["prepare", folder, str(out), "--reader", "nnunet", "--split", "exact"]) == 0
    return out


def test_an_nnunet_folder_of_two_channels_is_prepared_trained_on_and_measured(data, tmp_path):
    info = Manifest.read(data).info
    assert (info.channels, info.channel_names, info.labels) == (2, ("T2", "ADC"), ("PZ", "TZ"))
    runs = tmp_path / "runs"
    assert command(["train", str(data), "--out", str(runs), *TRAIN]) == 0
    run = runs / "latest"
    assert command(["evaluate", str(run)]) == 0
    measured = meninx.evaluate(run)
    assert measured.cases == sum(case.split == "test" for case in Manifest.read(data).cases)
    metadata = json.loads((run / "release" / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 2


def test_two_channels_are_trained_on_privately(data, tmp_path):
    result = meninx.train(
        data, out=tmp_path, model="unet-small", batch_size=2, steps=2, patch_size=(8, 8, 8), epsilon=8.0,
        delta=1e-2, export=(),
    )  # fmt: skip
    assert 0 < result.privacy.epsilon <= 8.0
