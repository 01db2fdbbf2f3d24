"""A viewmaker is trained and releases a dataset from the command line, by a packaged recipe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import meninx
from meninx.cli.app import run
from meninx.core.manifest import Manifest
from meninx.core.source_names import under_source_names
from meninx.imaging import png
from meninx.synthetic import write_dataset

SENTENCE = "which does not stop a retrained attacker"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("source") / "data", patients=60, size=16).root


@pytest.fixture(scope="module")
def hidden(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("released") / "hidden"
    words = [
        "obfuscate",
        str(data),
        str(out),
        "--recipe",
        "obfuscate-tiny",
        "--steps",
        "2",
        "-q",
        "--no-audit",
    ]
    assert run([*words, "--attack-epochs", "15", "--permutations", "99"]) == 0
    return out


def pixels(root: Path) -> np.ndarray:
    """Return the images in the order of the source's names."""
    cases = sorted(under_source_names(Manifest.read(root)).cases, key=lambda case: case.case_id)
    return np.array([png.read(root / case.image).array for case in cases]) / 255


def test_every_image_stays_inside_the_budget_and_the_folder_verifies(data, hidden):
    change = np.abs(pixels(hidden) - pixels(data))
    assert 0.03 < change.mean() <= 0.05
    assert change.mean(axis=(1, 2, 3)).max() <= 0.05 + 1e-6
    assert change.max() <= 0.2 + 1e-6
    assert meninx.verify(hidden).ok
    assert (hidden / "private/viewmaker.pt").stat().st_mode & 0o077 == 0
    assert not list(hidden.glob("*.pt"))


@pytest.mark.slow
def test_what_a_viewmaker_does_not_do_is_said_with_the_number_that_was_measured(tmp_path, capsys):
    source = write_dataset(tmp_path / "data", patients=140, size=16).root
    words = ["obfuscate", str(source), str(tmp_path / "hidden"), "--recipe", "obfuscate-tiny", "--steps", "2"]
    assert run([*words, "-q"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"does not stop a retrained attacker; measured AUROC \d\.\d{3}", said)
    assert said.index("retrained on the release") < said.index("not a privacy measure")
    assert SENTENCE in (tmp_path / "hidden" / "dataset.toml").read_text()


def test_a_recipe_of_another_command_is_refused_by_name(data, tmp_path, capsys):
    assert run(["train", str(data), "--recipe", "obfuscate-tiny", "-q"]) == 2
    assert "method" in capsys.readouterr().err
    assert run(["recipes"]) == 0
    assert "obfuscate-chexpert" in capsys.readouterr().out
