"""Cheap checks come first: a misspelt path, device or recipe is refused before anything slow is imported."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from meninx.cli import early
from meninx.core import artifacts
from meninx.core.artifacts import BundleRecord
from meninx.core.errors import ConfigError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.models import network_names

TYPOS = (
    "train datta",
    "train datta --dry-run",
    "train datta --resume runs/latest",
    "train data --recipe nosuch",
    "train data --device cdua",
    "train data --pretrained nosuch.pt",
    "train data --pretrained data/manifest.csv --standardize nosuch",
    "train data --out data/runs",
    "train data2d --model resnet99",
    "train data2d --model monai:DenseNett",
    "train data2d --model unet",
    "train data3d --model resnet9",
    "sweep data2d --epsilons 1 --model unett",
    "evaluate classifier --data data3d",
    "evaluate classifier --baseline segmenter",
    "evaluate runs/latst",
    "evaluate runs/latst --data datta",
    "sweep datta",
    "sweep data --epsilons 1 --device gpu",
    "sweep data --epsilons 1 --out data/sweep",
    "predict mdl data out",
    "predict bundle datta out",
    "predict bundle data data",
    "predict bundle data out --device cdua",
    "report",
    "report nowhere",
    "report data nowhere",
    "report data --out taken.html",
    "verify nowhere",
    "prepare imagse out",
    "prepare data data",
    "prepare data out --recipe nosuch",
    "deid nowhere out --key k",
    "deid data data/clean --key k",
    "deid data out --key k --overrides nosuch.toml",
    "deid data out --key k --lookup nosuch.csv",
    "dicom export nowhere out",
    "dicom restore nowhere out",
    "dicom label nowhere out --tag ImageComments --from-folder -1",
    "dicom folders nowhere out --from-folder -1",
    "dicom table nowhere out.csv",
    "recipes nosuch",
    "recipes --convert nosuch.toml",
)
SLOW = {"torch", "monai", "scipy", "nibabel", "matplotlib"}


CLASSES = DatasetInfo(name="d", task=TaskKind.MULTILABEL, labels=("effusion",))
ORGANS = DatasetInfo(name="d", task=TaskKind.SEGMENTATION, labels=("organ",), spatial_dims=3)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what looks like a dataset, a bundle and a report."""
    bundle = f"bundle/{artifacts.place(BundleRecord)}"
    for name in ("data/manifest.csv", "data/dataset.toml", bundle, "taken.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    for name, info in (("data2d", CLASSES), ("data3d", ORGANS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.csv").write_text("")
        (tmp_path / name / "dataset.toml").write_text(info.to_toml())
    for name, info in (("classifier", CLASSES), ("segmenter", ORGANS)):
        record = BundleRecord(info=info, network={"name": "x"}, loss="", weights="", run="", meninx="")
        artifacts.write(tmp_path / name / "release" / "bundle", record)
        (tmp_path / name / "config.toml").write_text("")
    return tmp_path


def test_a_typo_is_refused_in_every_verb_before_anything_slow_is_imported(desk):
    script = """
        import ast, sys
        from meninx.cli.app import run
        codes = {}
        for line in ast.literal_eval(sys.argv[1]):
            codes[line] = run(line.split()), sorted(ast.literal_eval(sys.argv[2]) & set(sys.modules))
        print(codes)
    """
    before = sorted(path.relative_to(desk) for path in desk.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), repr(TYPOS), repr(SLOW)],
        capture_output=True, text=True, check=True, cwd=desk,
    )  # fmt: skip
    codes = ast.literal_eval(done.stdout)
    wrong = {line: found for line, found in codes.items() if found[0] not in (2, 3) or found[1]}
    assert wrong == {}, done.stderr
    assert len(done.stderr.splitlines()) == len(TYPOS)  # one line each, and no progress
    assert sorted(path.relative_to(desk) for path in desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "name", "package"),
    [
        (("train", "data"), "train", "torch"),
        (("evaluate", "run"), "train", "monai"),
        (("sweep", "data", "--epsilons", "1"), "train", "torch"),
        (("predict", "bundle", "data", "out"), "train", "torch"),
        (("demo", "out"), "train", "torch"),
        (("train", "data", "--export", "onnx"), "export", "onnx"),
        (("predict", "bundle", "data", "out", "--format", "dicom-seg"), "export", "highdicom"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    invoke, desk, monkeypatch, words, name, package
):
    found = importlib.util.find_spec
    (desk / "run" / "private").mkdir(parents=True)
    (desk / "run" / "config.toml").write_text("")
    monkeypatch.chdir(desk)
    monkeypatch.setattr(early.importlib.util, "find_spec", lambda item: None if item == package else object())
    said = invoke(*words)
    monkeypatch.setattr(early.importlib.util, "find_spec", found)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"meninx: the extra {name} is not installed ({package} is missing) (verb); "
        f"pip install 'meninx[{name}]'\n"
    )
    assert not (desk / "out").exists()


@pytest.mark.parametrize("word", ["auto", "cpu"])
def test_a_usual_device_passes(word):
    early.device(word)


def test_cuda_is_refused_early_when_pytorch_was_built_without_it(invoke, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setattr(early.metadata, "version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(early, "extra", lambda *names: None)
    said = invoke("train", "data", "--device", "cuda:1")
    assert said.code == 2
    assert "the installed PyTorch has no CUDA (device cuda:1)" in said.err
    monkeypatch.setattr(early.metadata, "version", lambda name: "2.13.0+cu130")
    early.device("cuda:1")


def test_names_of_networks_are_those_that_can_be_built():
    from monai.networks import nets

    from meninx.models import registry

    assert (*network_names.CLASSIFIERS, *network_names.SEGMENTERS) == tuple(registry.MODELS)
    assert network_names.names_of_monai() <= set(vars(nets))
    assert {"DenseNet121", "SegResNet", "DynUNet"} <= network_names.names_of_monai()


def test_a_name_of_a_network_says_what_is_wrong_with_it(desk):
    for name in ("auto", "resnet9", "monai:DenseNet121"):
        early.network(name, desk / "data2d")
    for name, said in (
        ("resnet99", "did you mean 'resnet9'"),
        ("monai:DenseNett121", "did you mean 'DenseNet121'"),
        ("unet", "a network for multilabel"),
    ):
        with pytest.raises(ConfigError, match=said):
            early.network(name, desk / "data2d")
