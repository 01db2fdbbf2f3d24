"""Tiny released models, images of other patients, and programs that use them without meninx."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import clean_dicoms
import monai.bundle
import numpy as np
from prepare_fixtures import write_picture, write_table, write_volume

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = "raise ImportError('this machine has no meninx')\n"
FIRE = """
import sys
import __main__
def Fire():
    function, *words = sys.argv[1:]
    getattr(__main__, function)(**dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2])))
"""
"""Stands for the package fire, the command line of MONAI, where that is not installed."""


def radiograph(seed: int, *, bits: int, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    """A smooth picture of so many bits, with a bright spot whose place depends on the seed."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    spot = np.exp(-((rows - draws.uniform(5, 35)) ** 2 + (columns - draws.uniform(5, 45)) ** 2) / 60)
    picture = 0.2 + 0.6 * spot + draws.normal(0, 0.05, size)
    values = np.clip(picture, 0, 1) * (2**bits - 1)
    return values.round().astype(np.uint8 if bits <= 8 else np.uint16)


def dicoms(folder: Path, seeds: range) -> Path:
    """Radiographs as hospitals have them: 8 bits, 12 bits with a window, MONOCHROME1 with a window, a LUT."""
    for seed in seeds:
        more: dict[str, object] = {"series": f"s{seed}", "patient": f"P{seed}", "number": seed}
        kind = seed % 4
        if kind == 0:
            dataset = clean_dicoms.image(radiograph(seed, bits=8), **more)
        else:
            dataset = clean_dicoms.image(radiograph(seed, bits=12), BitsStored=12, HighBit=11, **more)
        if kind in (1, 2):
            dataset.WindowCenter, dataset.WindowWidth = [1800 + seed, 50], [2500 + 10 * seed, 100]
        if kind == 2:
            dataset.PhotometricInterpretation = "MONOCHROME1"
            dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-10"
        clean_dicoms.write(folder / f"patient {seed}" / f"image{seed}.dcm", dataset)
    return folder


def labels(path: Path, seeds: range) -> Path:
    """Label table of :func:`dicoms`."""
    rows = [[f"P{seed}", seed % 2, seed % 3 == 0] for seed in seeds]
    write_table(path, ["PatientID", "effusion", "nodule"], [[a, b, int(c)] for a, b, c in rows])
    return path


def volumes(folder: Path, seeds: range, *, masks: bool = True) -> Path:
    """An MSD folder of CT-like volumes in other orientations than RAS, with an organ."""
    for seed in seeds:
        draws = np.random.default_rng(seed)
        shape = (22, 20, 14)
        place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        centre = draws.uniform(7, 12, 3)
        organ = np.linalg.norm(place - centre, axis=-1) < 5
        voxels = (draws.normal(-50, 30, shape) + 150 * organ).astype(np.int16)
        affine = np.diag([-1.5, 1.2, 2.0, 1.0]) if seed % 2 else np.diag([1.5, -1.2, -2.0, 1.0])
        name = f"case_{seed}.nii.gz"
        write_volume(folder / ("imagesTr" if masks else ".") / name, voxels, affine)
        if masks:
            write_volume(folder / "labelsTr" / name, organ.astype(np.uint8), affine)
    if masks:
        pairs = [
            {"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in seeds
        ]
        table = {"labels": {"0": "background", "1": "organ"}, "training": pairs}
        (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def pictures(folder: Path, seeds: range) -> Path:
    """The radiographs as PNG files of 8 bits."""
    for seed in seeds:
        write_picture(folder / f"picture{seed}.png", radiograph(seed, bits=8))
    return folder


def without_meninx(folder: Path, program: str, *arguments: str) -> str:
    """Run a program where ``import meninx`` fails, in a folder, and return what it printed."""
    blocked = folder.parent / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "meninx.py").write_text(BLOCKED)
    if importlib.util.find_spec("fire") is None:
        (blocked / "fire.py").write_text(FIRE)
    environment = {
        **os.environ,
        "PYTHONPATH": str(blocked),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_monai(bundle: Path, images: Path, out: Path) -> str:
    """Run ``python -m monai.bundle run`` in a bundle."""
    words = {
        "config_file": "configs/inference.json",
        "bundle_root": ".",
        "dataset_dir": images,
        "output_dir": out,
    }
    options = [text for name, value in words.items() for text in (f"--{name}", value)]
    return without_meninx(bundle, sys.executable, "-m", "monai.bundle", "run", *options)


def call_monai(bundle: Path, verb: str, **arguments: object) -> None:
    """Call a verb of ``monai.bundle`` in this process, as its command line would in the folder of the bundle.

    It takes a second in place of ten.
    """
    before = list(sys.path)
    sys.path.insert(0, str(bundle))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of MONAI
            config = str(bundle / "configs" / "inference.json")
            getattr(monai.bundle, verb)(config_file=config, **arguments)
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
            del sys.modules[name]  # another bundle has a package of the same name


def copied(release: Path, folder: Path) -> Path:
    """The bundle of a release on another machine: a copy, and nothing of the run beside it."""
    shutil.copytree(release / "bundle", folder)
    return folder


def table(path: Path) -> dict[str, np.ndarray]:
    """Image -> probabilities of a table of predictions."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    first = 2 if rows[0][1] == "file" else 1
    last = sum(not name.startswith("positive:") and name != "most_probable" for name in rows[0])
    return {row[0]: np.array([float(cell) for cell in row[first:last]]) for row in rows[1:]}
