"""Invented chest images whose private attribute and disease are known: the population of the criteria.

Every patient has a smooth field and 1 to 4 images. Sex moves a low-frequency shape, and disease adds a local
blob. ``rho`` is the correlation of sex and disease.
"""

from __future__ import annotations

import numpy as np

from meninx.obfuscate.obfuscator import ImageTable

SIDE = 32


def planted_table(patients, *, rho=0.0, seed=0, shares=(0.5, 0.2, 0.3), unknown=0, side=SIDE):
    """Return a table of images of so many patients, half of them of each sex on average."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 5, patients)
    patient = np.repeat(np.arange(patients), count)
    sex = rng.integers(0, 2, patients)
    ill = rng.random(patients) < 0.4 + rho * (sex - 0.5) * 0.98
    values = _fields(rng, patients, side)[patient] * 0.05
    values += _fields(rng, len(patient), side) * 0.02
    line = np.linspace(-1, 1, side)
    x, y = np.meshgrid(line, line)
    values += 0.12 * (np.exp(-((np.abs(x) - 0.5) ** 2 + 0.5 * y**2) / 0.15) - 0.3)  # what all chests share
    strength = (sex - 0.5) * 0.12 + rng.normal(0, 0.04, patients)
    values += strength[patient, None, None] * (np.exp(-(((y - 0.3) / 0.4) ** 2)) - 0.4)
    place = rng.uniform(-0.15, 0.15, (len(patient), 2))
    across, down = x[None] - 0.4 - place[:, :1, None], y[None] + 0.4 - place[:, 1:, None]
    blob = np.exp(-(across**2 + down**2) / 0.03)
    depth = (0.1 + rng.normal(0, 0.025, len(patient))) * ill[patient]
    values += depth[:, None, None] * blob
    values += rng.normal(0, 0.03, values.shape)
    values = np.clip(values + 0.45, 0, 1).astype(np.float32)[:, None]
    names = tuple(f"P{number:05d}" for number in patient)
    first, second = (np.array(shares[:2]).cumsum() * patients).astype(int)
    split = np.where(patient < first, "train", np.where(patient < second, "valid", "test"))
    classes = np.where(patient < patients - unknown, sex[patient], -1)
    return ImageTable(
        values=np.round(values * 255) / np.float32(255),
        cases=tuple(f"{name}-{row}" for row, name in enumerate(names)),
        patients=names,
        split=tuple(split.tolist()),
        private={"sex": classes},
        classes={"sex": ("F", "M")},
        labels={"nodule": ill[patient].astype(float)},
    )


def coarse(values, side=8):
    """Return images averaged to ``side`` x ``side`` pixels, one row each."""
    rows, _, height, width = values.shape
    blocks = values.reshape(rows, side, height // side, side, width // side)
    return blocks.mean(axis=(2, 4)).reshape(rows, -1)


def _fields(rng, count, side):
    """Return smooth random fields of deviation about 1, shape (count, side, side)."""
    waves = rng.normal(size=(count, 6, 6))
    frequency = np.pi * np.outer(np.arange(6), (np.arange(side) + 0.5) / side)
    basis = np.cos(frequency) / np.sqrt(1 + np.arange(6))[:, None]
    fields = np.einsum("nij,ix,jy->nxy", waves, basis, basis, optimize=True)
    return (fields / fields.std()).astype(np.float32)
