"""The public interface: lazy names, networks of one's own, and packages that extend the program.

Packages add networks, readers and tasks.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import meninx
from meninx.core.errors import ConfigError, DataError, UsageError

PACKAGES = ("meninx", "meninx.deid", "meninx.metrics", "meninx.models", "meninx.privacy")
PLUGIN = '''
import torch
from torch import nn

from meninx.core.manifest import TaskKind
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase


class TinyNet(nn.Module):
    def __init__(self, spatial_dims, in_channels, out_channels, width=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, out_channels),
        )

    def forward(self, images):
        return self.body(images)


def read(root, config, site=""):
    """Every file is named PATIENT-LABEL-NUMBER.png."""
    cases = []
    for number, path in enumerate(sorted(root.glob("*.png")), start=1):
        patient, label, _ = path.stem.split("-")
        cases.append(SourceCase(
            key=path.name, patient=patient, image=FileSource(path), where=f"file {number}",
            labels={"bright": int(label)},
        ))
    return ReaderOutput(cases=tuple(cases), labels=("bright",), task=TaskKind.MULTILABEL)


class Squared:
    metric = "minus_loss"

    def loss(self, outputs, targets):
        return (torch.sigmoid(outputs) - targets).square().flatten(1).mean(1)

    def metrics(self, results):
        losses = [float((torch.sigmoid(output) - target).square().mean()) for output, target in results]
        mean = sum(losses) / len(losses)
        return {"loss": mean, "minus_loss": -mean}


def squared(info, config):
    return Squared()
'''
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "meninx-example-plugin"
version = "1.0"

[tool.setuptools]
py-modules = ["example_plugin"]

[project.entry-points."meninx.networks"]
tinynet = "example_plugin:TinyNet"
broken = "example_plugin:Absent"

[project.entry-points."meninx.readers"]
ourlayout = "example_plugin:read"

[project.entry-points."meninx.tasks"]
squared = "example_plugin:squared"
"""


class OwnNet(nn.Module):
    """A network that no registry knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 30 patients, bright or dark."""
    folder = tmp_path_factory.mktemp("face") / "source"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for patient in range(30):
        label = patient % 2
        pixels = draw.integers(0, 90, (16, 16)) + 120 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"p{patient:02}-{label}-0.png")
    return folder


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with entry points, installed into a folder of its own."""
    project, target = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("installed")
    (project / "example_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (project / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    subprocess.run([sys.executable, "-m", "pip", *install, str(project)], check=True)
    return target


@pytest.fixture
def installed(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin))
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def data(source: Path, plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(plugin))
        importlib.invalidate_caches()
        meninx.prepare(source, out, reader="ourlayout", split="exact", fractions=(0.6, 0.2, 0.2), bits=8)
    return out


def test_importing_meninx_imports_nothing_heavy_and_knows_its_names() -> None:
    code = (
        "import sys, meninx; names = dir(meninx); version = meninx.__version__;"
        "heavy = [m for m in ('torch', 'numpy', 'monai', 'pydicom', 'scipy', 'matplotlib') if m in "
        "sys.modules];"
        "print(heavy, set(meninx.__all__) <= set(names), len(version) > 0)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["[]", "True", "True"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_no_other(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        module.anything_else  # noqa: B018


def test_a_stage_can_be_called_by_its_name_whatever_was_imported_before(data: Path, tmp_path: Path) -> None:
    for name in ("prepare", "train", "audit", "report", "verify"):
        assert callable(getattr(importlib.import_module("meninx"), name))
        assert callable(importlib.import_module(f"meninx.{name}"))
    assert meninx.verify(data).ok


def test_a_stage_shows_its_signature_and_help_before_and_after_its_package_is_imported() -> None:
    code = (
        "import inspect, meninx; before = inspect.signature(meninx.report), meninx.report.__doc__;"
        "import meninx.report.stage; after = inspect.signature(meninx.report), meninx.report.__doc__;"
        "print(before == after, callable(meninx.report))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize("privacy", [{}, {"epsilon": 8.0, "delta": 1e-2}])
def test_a_network_of_ones_own_is_trained_measured_and_loaded(
    data: Path, tmp_path: Path, privacy: dict
) -> None:
    torch.manual_seed(0)
    net = OwnNet()
    before = net.head.weight.detach().clone()
    run = meninx.train(data, model=net, out=tmp_path / "runs", steps=3, batch_size=6, **privacy)
    assert (run.privacy is not None) == bool(privacy)
    assert not torch.equal(before, net.head.weight)
    assert run.model == "own:OwnNet"
    measured = meninx.evaluate(run.out, model=OwnNet(), draws=50)
    assert 0 <= measured.metrics["auroc"].value <= 1
    loaded = meninx.load_model(run.out, model=OwnNet())
    assert loaded(torch.zeros(1, 1, 16, 16)).shape == (1, 1)
    assert meninx.verify(run.out).ok
    again = meninx.train(data, model=OwnNet(), resume=run.out)
    assert again.closed
    with pytest.raises(ConfigError, match="own"):
        meninx.evaluate(run.out)
    with pytest.raises(DataError, match="network"):
        meninx.load_model(run.out, model=nn.Linear(2, 1))


def test_a_network_whose_rows_see_each_other_is_refused_under_privacy(data: Path, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    with pytest.raises(Exception, match="replace_batch_norm"):
        meninx.train(data, model=net, out=tmp_path / "runs", steps=2, batch_size=6, epsilon=8.0, delta=1e-2)
    assert not (tmp_path / "runs").exists()


def test_a_reader_of_another_package_receives_the_settings_of_readers(
    installed: None, source: Path, tmp_path: Path
) -> None:
    settings = {"label_columns": ["bright"], "sex_column": "geschlecht", "require": ["a=1"]}
    made = meninx.prepare(source, tmp_path / "data", reader="ourlayout", split="exact", **settings)
    assert made.cases == 30


def test_settings_beside_resume_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lr"):
        meninx.train(data, resume=tmp_path, lr=0.1)


def test_a_package_adds_a_network_a_reader_and_a_task(installed: None, data: Path, tmp_path: Path) -> None:
    settings = {"model_options": {"width": 6}, "steps": 2, "batch_size": 6}
    run = meninx.train(data, model="tinynet", task_kind="squared", out=tmp_path / "runs", **settings)
    assert run.model == "tinynet"
    assert run.metric == "minus_loss"
    assert meninx.evaluate(run.out, draws=50).cases == 6
    with pytest.raises(ConfigError, match="width"):
        meninx.train(data, model="tinynet", out=tmp_path / "other", model_options={"widt": 6})


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"model": "tinynte"}, "tinynet"),
        ({"model": "broken"}, "cannot be imported"),
        ({"task_kind": "squard"}, "squared"),
    ],
)
def test_a_name_that_no_package_offers_gets_a_hint(
    installed: None, data: Path, tmp_path: Path, setting: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        meninx.train(data, out=tmp_path / "runs", steps=1, **setting)
    with pytest.raises(ConfigError, match="ourlayout"):
        meninx.prepare(data, tmp_path / "out", reader="ourlayuot")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": OwnNet}, "give an object"),
        ({"model": OwnNet(), "model_options": {"width": 3}}, "no effect"),
    ],
)
def test_a_class_and_options_of_a_network_of_ones_own_are_refused(
    data: Path, tmp_path: Path, settings: dict, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        meninx.train(data, out=tmp_path / "runs", **settings)
