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

TYPOS = (
    "train datta",
    "train datta --dry-run",
    "train datta --resume runs/latest",
    "train data --recipe nosuch",
    "train data --device cdua",
    "train data --pretrained nosuch.pt",
    "train data --pretrained data/manifest.csv --standardize nosuch",
    "train data --out data/runs",
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


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what looks like a dataset, a bundle and a report."""
    bundle = f"bundle/{artifacts.place(BundleRecord)}"
    for name in ("data/manifest.csv", "data/dataset.toml", bundle, "taken.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
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
