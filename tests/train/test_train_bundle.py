"""The bundle: MONAI's parser builds the same network, metadata are complete, ONNX agrees."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser

from meninx.core.artifacts import BundleRecord
from meninx.core.errors import ConfigError, DataError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.run import Run
from meninx.learn.inference import load_model
from meninx.models import registry
from meninx.train import stage
from meninx.train.bundle import Contents, write_bundle
from meninx.train.config import TrainConfig

# mandatory keys of MONAI's bundle specification, of the file and of each tensor
MANDATORY = {
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
}
TENSOR = {
    "type",
    "format",
    "modality",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
}


@pytest.fixture(autouse=True)
def scripts_of_each_bundle(monkeypatch):
    """Let every test import ``scripts`` anew: each bundle brings a package of this name."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # the run is shared with tests that list its files
    forget_scripts()
    yield
    forget_scripts()


def forget_scripts() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


def parsed(bundle: Path) -> torch.nn.Module:
    """Return the network as a program that knows MONAI alone would make it."""
    forget_scripts()
    sys.path.insert(0, str(bundle))  # as `python -m monai.bundle` finds scripts/
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"] = str(bundle)
    parser["device"] = "cpu"
    return parser.get_parsed_content("network")


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def written(folder, *, name, size, task, labels, outputs, channels=1, onnx=True) -> torch.nn.Module:
    torch.manual_seed(0)
    network = {"name": name, "spatial_dims": len(size), "in_channels": channels, "out_channels": outputs}
    model = registry.build(**network)
    info = DatasetInfo(
        name="small", task=task, labels=labels, spatial_dims=len(size), channels=channels, size=size
    )
    write_bundle(folder, model, contents(info, network, size), onnx=onnx)
    return model.eval()


def contents(info: DatasetInfo, network: dict, size: tuple[int, ...]) -> Contents:
    sigmoid = network["out_channels"] == len(info.labels) and info.task is not TaskKind.MULTICLASS
    record = BundleRecord(info=info, network=network, loss="")
    return Contents(record=record, sigmoid=sigmoid, size=size, privacy="not stated", card="# small\n")


def test_the_parser_gives_the_network_of_the_run(plain):
    model, _, info = load_model(plain)
    image = torch.randn(3, info.channels, *info.size)
    with torch.no_grad():
        assert torch.equal(parsed(plain.release / "bundle")(image), model(image))


def test_the_metadata_have_the_keys_of_the_specification(plain, data):
    table = metadata(plain.release / "bundle")
    assert table.keys() >= MANDATORY
    assert all(table[name] for name in MANDATORY)
    image, pred = (
        table["network_data_format"]["inputs"]["image"],
        table["network_data_format"]["outputs"]["pred"],
    )
    assert image.keys() == pred.keys() == TENSOR
    assert (image["num_channels"], image["spatial_shape"], image["value_range"]) == (1, [32, 32], [-1.0, 1.0])
    assert list(pred["channel_def"].values()) == list(data.info.labels)
    assert table["intensity"] == {"window": [0.0, 255.0], "shift": 127.5, "scale": 127.5}


def test_the_bundle_explains_itself(plain):
    bundle = plain.release / "bundle"
    assert "Privacy: Trained without differential privacy" in (bundle / "docs" / "README.md").read_text()
    assert "data" in (bundle / "LICENSE").read_text()


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_gives_probabilities_of_stored_images(plain, batch):
    model, _, info = load_model(plain)
    grey = torch.randint(0, 256, (batch, info.channels, *info.size)).float()
    with torch.no_grad():
        logits = model((grey - 127.5) / 127.5)
    session = onnxruntime.InferenceSession(str(plain.release / "bundle" / "models" / "model.onnx"))
    probabilities, own = session.run(["probabilities", "logits"], {"image": grey.numpy()})
    assert np.abs(own - logits.numpy()).max() <= 1e-4
    assert np.abs(probabilities - torch.sigmoid(logits).numpy()).max() <= 1e-5


def test_onnx_says_what_it_is_and_nothing_of_this_machine(plain):
    path = plain.release / "bundle" / "models" / "model.onnx"
    facts = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == list(load_model(plain)[2].labels)
    assert (facts["activation"], facts["task"]) == ("sigmoid", "multilabel")
    assert facts["privacy"].startswith("Trained without differential privacy")
    assert json.loads(facts["intensity"])["window"] == [0.0, 255.0]
    assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()
    assert b"meninx/train" not in path.read_bytes()


@pytest.mark.parametrize(
    ("size", "labels", "outputs", "names"),
    [
        ((32, 32), ("pneumothorax",), 1, ["pneumothorax"]),
        pytest.param(  # quickly, test_released_segmentation.py compares volumes in three programs
            (16, 16, 16), ("organ", "lesion"), 3, ["background", "organ", "lesion"], marks=pytest.mark.slow
        ),
    ],
)
def test_segmentation_networks_in_2d_and_3d(tmp_path, size, labels, outputs, names):
    model = written(
        tmp_path, name="unet-small", size=size, task=TaskKind.SEGMENTATION, labels=labels, outputs=outputs
    )
    grey = torch.randint(0, 256, (2, 1, *size)).float()
    image = (grey - 127.5) / 127.5
    with torch.no_grad():
        expected = model(image)
        assert torch.equal(parsed(tmp_path)(image), expected)
    session = onnxruntime.InferenceSession(str(tmp_path / "models" / "model.onnx"))
    (found,) = session.run(["logits"], {"image": grey.numpy()})
    assert np.abs(found - expected.numpy()).max() <= 1e-4
    pred = metadata(tmp_path)["network_data_format"]["outputs"]["pred"]
    assert (pred["num_channels"], list(pred["channel_def"].values()), pred["format"]) == (
        outputs,
        names,
        "labels",
    )
    assert pred["spatial_shape"] == list(size)


def test_a_network_of_monai_and_colour(tmp_path):
    shape = {"size": (32, 32), "channels": 3, "outputs": 2}
    model = written(
        tmp_path, name="monai:DenseNet121", task=TaskKind.MULTICLASS, labels=("a", "b"), onnx=False, **shape
    )
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(parsed(tmp_path)(image), model(image))
    assert list(metadata(tmp_path)["network_data_format"]["inputs"]["image"]["channel_def"].values()) == [
        "red",
        "green",
        "blue",
    ]


def test_a_bundle_of_patches_says_so(volumes, tmp_path):
    config = TrainConfig.of(model="unet-small", steps=1, batch_size=1, patch_size=(16, 16, 8), eval_every=5)
    run = Run(stage.run(config, volumes.root, tmp_path).out)
    image = metadata(run.release / "bundle")["network_data_format"]["inputs"]["image"]
    assert (image["spatial_shape"], image["is_patch_data"]) == ([16, 16, 8], True)


def test_averaged_weights_are_the_ones_released(data, tmp_path):
    config = TrainConfig.of(model="resnet9-small", steps=3, batch_size=6, ema=0.5, lr=1e-2, select="last")
    run = Run(stage.run(config, data.root, tmp_path).out)
    content = torch.load(run.private / "checkpoints" / "last.pt", weights_only=True)
    released = torch.load(run.release / "bundle" / "models" / "model.pt", weights_only=True)
    assert all(
        torch.equal(released[name], value)
        for name, value in content["players"]["model"]["average"]["shadow"].items()
    )
    assert not all(
        torch.equal(released[name], value) for name, value in content["players"]["model"]["weights"].items()
    )


# hostile names: MONAI runs text that begins with $, and resolves what begins with @ or %

CODE = "$__import__('pathlib').Path({place!r}).touch()"
NETWORK = {"name": "resnet9-small", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "width": 4}
PLAIN = {"name": "small", "task": TaskKind.MULTILABEL, "labels": ("a", "b"), "size": (32, 32)}
PLAIN |= {"preprocessing": {"size": [32, 32]}}


def bundle_of(folder: Path, **changes: object) -> None:
    """Write a bundle from a dataset's meaning that no reader has checked."""
    info = object.__new__(DatasetInfo)
    for item in dataclasses.fields(DatasetInfo):
        default = item.default_factory() if callable(item.default_factory) else item.default
        object.__setattr__(info, item.name, {**PLAIN, **changes}.get(item.name, default))
    network = NETWORK | changes.get("network", {})
    build = {name: value for name, value in NETWORK.items() if name != "nested"}
    write_bundle(folder, registry.build(**build), contents(info, network, (32, 32)))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ("a", CODE)},
        {"labels": ("@network", "b")},
        {"labels": ("a", "%metadata.json::name")},
        {"labels": ("a\nb", "b")},
        {"labels": ("#h", "a#b")},
        {"name": "a#b"},
        {"network": {"norm": "a#b"}},
        {"name": CODE},
        {"network": {"nested": CODE}},
        {"network": {"nested": {"deep": ["fine", CODE]}}},
        {"network": {"nested": {"_target_": "os.system", "command": "true"}}},
        {"network": {CODE: 1}},
        {"preprocessing": {"aspect": CODE}},
        {"preprocessing": {"_target_": "os.system"}},
    ],
)
def test_a_name_that_monai_would_run_is_refused_before_anything_is_written(tmp_path, changes):
    planted = json.loads(
        json.dumps(changes).replace(json.dumps(CODE)[1:-1], CODE.format(place=str(tmp_path / "sprung")))
    )
    with pytest.raises(DataError):
        bundle_of(tmp_path / "bundle", **planted)
    assert not (tmp_path / "bundle").exists()


def test_the_parser_does_run_such_names(tmp_path):
    """The danger is real: the same text in a bundle's metadata is run by MONAI's own reader."""
    (tmp_path / "metadata.json").write_text(
        json.dumps({"channel_def": {"0": CODE.format(place=str(tmp_path / "sprung"))}})
    )
    parser = ConfigParser()
    parser.read_meta(str(tmp_path / "metadata.json"))
    parser.get_parsed_content("_meta_")
    assert (tmp_path / "sprung").exists()


def test_the_parser_does_change_a_hash_sign(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps({"channel_def": {"0": "a#b"}}))
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "metadata.json"))
    assert parser.get_parsed_content("channel_def") == {"0": "a::b"}


def test_a_bundle_with_odd_names_is_read_as_it_was_written(tmp_path):
    labels = ("fluid [left] <b>", 'it\'s 50 % "odd" $5 @home')
    bundle_of(tmp_path / "bundle", labels=labels, name="a*b_c")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "bundle" / "configs" / "inference.json"))
    parser.read_meta(str(tmp_path / "bundle" / "configs" / "metadata.json"))
    meta = parser.get_parsed_content("_meta_")
    assert tuple(meta["network_data_format"]["outputs"]["pred"]["channel_def"].values()) == labels
    assert meta == metadata(tmp_path / "bundle")
    assert parser.get_parsed_content("writer#labels") == list(labels)


def test_network_options_of_a_run_are_checked_before_it_starts(data, tmp_path):
    config = TrainConfig.of(model="resnet9-small", model_options={"norm": "$1"}, steps=1)
    with pytest.raises(DataError, match="begins with one of"):
        stage.run(config, data.root, tmp_path / "runs", dry_run=True)


class Unsteady(torch.nn.Module):
    """A network whose path depends on its input, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(32 * 32, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        return self.head(flat if float(flat.sum()) > 0 else -flat)


def test_a_network_that_has_no_graph_is_refused_before_it_is_trained(data, tmp_path):
    config = TrainConfig.of(steps=1, export=("bundle", "onnx"))
    with pytest.raises(ConfigError, match="cannot be exported as ONNX"):
        stage.run(config, data.root, tmp_path / "runs", network=Unsteady())
    assert not (tmp_path / "runs").exists()
