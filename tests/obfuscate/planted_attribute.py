"""Tables of small images with an attribute whose place in them is known."""

from __future__ import annotations

import numpy as np

from meninx.core.origin import Origin
from meninx.obfuscate.config import AttackSettings
from meninx.obfuscate.obfuscator import ImageTable
from meninx.obfuscate.release_question import ReleaseQuestion

ORIGIN = Origin(run="release", data="digest")


def planted(patients=120, *, images=2, side=8, classes=2, strength=0.3, label=0.3, seed=0) -> ImageTable:
    """Return noise in which a bright corner tells the attribute and the centre tells a label."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), images)
    kinds = (np.arange(patients) % classes)[who]
    ill = rng.integers(0, 2, patients)[who]
    values = rng.normal(0.5, 0.1, (len(who), 1, side, side))
    values[:, :, : side // 4, : side // 4] += strength * (kinds / (classes - 1) - 0.5)[:, None, None, None]
    values[:, :, side // 2 :, side // 2 :] += label * (ill - 0.5)[:, None, None, None]
    values += 0.05 * rng.normal(size=(patients, 1, side, side))[who]  # what images of a patient share
    tenth = np.arange(patients) // classes % 10
    where = np.select([tenth < 5, tenth < 7], [0, 1], 2)
    return ImageTable(
        values=np.clip(values, 0, 1).astype(np.float32),
        cases=tuple(f"c{row}" for row in range(len(who))),
        patients=tuple(f"p{number}" for number in who),
        split=tuple(np.array(["train", "valid", "test"])[where[who]].tolist()),
        private={"sex": kinds.astype(np.int64)},
        classes={"sex": tuple("FMXYZ"[:classes])},
        labels={"ill": ill.astype(np.float64)},
    )


def without_corner(table: ImageTable, seed: int = 1) -> np.ndarray:
    """Return the images of :func:`planted` with other noise where the attribute was."""
    values = table.values.copy()
    corner = values.shape[-1] // 4
    other = np.random.default_rng(seed).normal(0.5, 0.1, values.shape).astype(np.float32)
    values[:, :, :corner, :corner] = other[:, :, :corner, :corner]
    return np.clip(values, 0, 1)


def question(table: ImageTable, draws, **more) -> ReleaseQuestion:
    """Return a question that is answered quickly."""
    asked = {
        name: more.pop(name) for name in ("target", "attack_epochs", "permutations", "draws") if name in more
    }
    attacks = AttackSettings(**{"attack_epochs": 3, "permutations": 19, **asked})
    given = {"attacks": attacks, "attribute": "sex", "source": ORIGIN, "released": ORIGIN}
    draw = draws if callable(draws) else lambda number: draws
    return ReleaseQuestion(original=table, draws=draw, **{**given, **more})


def one_pixel(table: ImageTable, seed: int = 2) -> np.ndarray:
    """Return the images of :func:`without_corner` with the attribute in one pixel."""
    values = without_corner(table, seed)
    values[:, 0, 3, 6] += 0.15 * (table.private["sex"] - 0.5)
    return np.clip(values, 0, 1)
