"""Starting from pretrained weights, and training only a part of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError, DataError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import checkpoint, finetune, pretrained
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.models import registry

TINY = LearnConfig.of(
    model="resnet9-small",
    model_options={"width": 4},
    batch_size=4,
    physical_batch=4,
    device="cpu",
    steps=4,
    attack_risk=False,
)


def network(outputs: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build("resnet9-small", spatial_dims=2, in_channels=1, out_channels=outputs, width=4)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_what_fits_is_loaded_and_the_head_starts_anew(tmp_path: Path) -> None:
    source, target = network(5, seed=1), network(2, seed=2)
    head = target.state_dict()["head.weight"].clone()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in source.state_dict().items()}},
        tmp_path / "w.pt",
    )
    told = pretrained.initialise(target, tmp_path / "w.pt", source="public radiographs")
    assert torch.equal(target.state_dict()["stem.0.weight"], source.state_dict()["stem.0.weight"])
    assert torch.equal(target.state_dict()["head.weight"], head)
    assert told.fresh == ("head.weight", "head.bias")
    assert told.unused == 2
    assert told.source == "public radiographs"


def test_the_head_is_kept_when_asked_and_of_the_same_shape(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert "head.weight" in pretrained.initialise(network(seed=3), tmp_path / "w.pt").fresh
    assert pretrained.initialise(target, tmp_path / "w.pt", keep_head=True).fresh == ()
    assert torch.equal(target.state_dict()["head.weight"], source.state_dict()["head.weight"])


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(3)}, tmp_path / "w.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a file of torch")
    for name, message in (
        ("w.pt", "matches the model"),
        ("broken.pt", "state dict"),
        ("none.pt", "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            pretrained.initialise(network(), tmp_path / name)


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
    with pytest.raises(DataError):
        pretrained.initialise(network(), tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


def test_frozen_parameters_and_buffers_really_stay(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run], tmp_path: Path
) -> None:
    options = {"features": (4, 4, 4, 4, 4, 4), "norm": "batch"}
    model = registry.build("monai:BasicUNet", spatial_dims=2, in_channels=1, out_channels=2, **options)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    run, data, notes = new_run(), dataset(TaskKind.SEGMENTATION, size=(32, 32)), Notes()
    config = TINY.replace(
        model="monai:BasicUNet", model_options=options, freeze="down_", lr=0.1, optimizer="adam"
    )
    config = config.replace(pretrained=str(tmp_path / "w.pt"), pretrained_source="made up", weight_decay=0.1)
    fit(config, data, run, progress=notes)
    after = checkpoint.load(run, "last")["players"]["model"]["weights"]
    for name, value in model.state_dict().items():
        assert torch.equal(after[name], value) == name.startswith("down_"), name
    assert "frozen" in notes.lines[0]
    assert run.read_json("privacy.json")["start"]["source"] == "made up"
    assert run.read_json("privacy.json")["start"]["origin"] == "unknown"


def test_a_linear_probe_trains_the_head_alone() -> None:
    model = network()
    frozen = finetune.frozen_names(model, TINY.replace(freeze="features").model, 0)
    assert {name for name, _ in model.named_parameters()} - frozen == {"head.weight", "head.bias"}


def test_blocks_are_freed_from_the_last_to_the_first() -> None:
    model = network()
    config = TINY.replace(freeze="features", unfreeze_every=2)
    held = [
        sorted(
            {
                name.split(".")[0] + name.split(".")[1]
                for name in finetune.frozen_names(model, config.model, epoch)
                if "stages" in name
            }
        )
        for epoch in range(0, 12, 2)
    ]
    assert [len(blocks) for blocks in held] == [4, 3, 2, 1, 0, 0]
    assert held[1] == ["stages0", "stages1", "stages2"]
    assert finetune.frozen_names(model, config.model, 12) == frozenset()


def test_every_parameter_is_in_exactly_one_block() -> None:
    for name in ("unet-small", "wrn-16-4", "resnet9"):
        model = registry.build(name, spatial_dims=2, in_channels=1, out_channels=2)
        blocks = finetune.blocks(model)
        assert all(sum(key.startswith(block) for block in blocks) == 1 for key, _ in model.named_parameters())
        assert blocks[-1] == "head."


def test_freezing_everything_or_nothing_real_is_refused() -> None:
    model = network()
    with pytest.raises(ConfigError, match="blocks: "):
        finetune.frozen_names(model, TINY.replace(freeze="backbone").model, 0)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        finetune.frozen_names(model, TINY.replace(freeze="").model, 0)
