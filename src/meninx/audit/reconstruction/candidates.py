"""What an attack made of one or several training steps, beside the images that took part: private files.

A candidate is an image that a decoder read out of a noisy gradient. Two further sets show what the decoder
makes of a gradient that holds nothing of the originals: noise alone, and a step of other patients. A success
counts only against them. All files lie in ``private/audit/reconstruction/`` of a run: one array for each
attack, view and noise level, and ``index.json`` with their records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meninx.core import files, plain
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.reconstruction_records import attack_name

INDEX = "index.json"
FORMAT = 1
_MOST_BYTES = 2**33
_MOST_RECORD = 1 << 22
_LARGEST = 6e4
"""Of a value in a file, which holds half-precision numbers."""


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """How much noise an attacked step has.

    Attributes:
        name: in words, such as ``non-private`` or ``epsilon 1e+09``.
        noise_multiplier: standard deviation of the noise over the clipping threshold, at least 0.
        epsilon: of the training that uses this noise; None where none is meant.
        one_step: epsilon is that of a single step rather than of the whole training.
    """

    name: str
    noise_multiplier: float
    epsilon: float | None = None
    one_step: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            rule, got = "a noise multiplier of at least 0", self.noise_multiplier
            raise UsageError(expected(rule, got=got, where="noise level"))


NO_NOISE = NoiseLevel(name="non-private", noise_multiplier=0.0)


@dataclass(frozen=True, kw_only=True)
class CandidateRecord:
    """How a set of candidates came about.

    Attributes:
        attack: name of the attack.
        encoder: linear map in front of the attacked rows; empty where there is none.
        view: what the attacker sees: ``step`` for one client's steps, or sums and differences over sites.
        sites: that take part in a round.
        view_noise: standard deviation of the noise that is seen over that of one site.
        level: noise of the steps.
        max_grad_norm: clipping threshold C.
        clipping: how the run clips.
        batch: images in a step of one client.
        participations: steps whose noisy gradients the attacker averages.
        network: what was attacked, in words.
        server: ``malicious`` (chooses the network) or ``honest but curious``.
        knowledge: what the attacker knows, in sentences.
        seed: of draws and noise.
        shape: of one image, (channels, height, width) or (channels, depth, height, width).
        trials: attacked steps.
        originals: images of a trial.
        candidates: of a trial.
        works: without noise the attack reconstructs more than its null does, from gradients that hold a fair
            share of the clipping threshold. If not, nothing follows from its failure under noise.
        signal: norm of the gradients that are read, for each image, over the clipping threshold.
        self_test: share of images that the attack reconstructs without noise better than its null ever does.
        cases: of the dataset, one name for each original of each trial.
        seconds: that the attack took at this level.
        digest: SHA-256 of the array.
        package: name and version of the package that the attack is external code of; empty for one of
            meninx's own.
    """

    attack: str
    encoder: str
    view: str
    sites: int
    view_noise: float
    level: NoiseLevel
    max_grad_norm: float
    clipping: str
    batch: int
    participations: int
    network: str
    server: str
    knowledge: tuple[str, ...]
    seed: int
    shape: tuple[int, ...]
    trials: int
    originals: int
    candidates: int
    works: bool
    self_test: float
    signal: float
    cases: tuple[tuple[str, ...], ...]
    seconds: float
    digest: str = ""
    package: str = ""

    @property
    def name(self) -> str:
        """Name of the attack for people."""
        return attack_name(self.attack, self.package)

    @property
    def stem(self) -> str:
        """Name of the files of the set, without suffix."""
        words = f"{self.attack} {self.view} {self.level.name}"
        short = hashlib.sha256(words.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', words).strip('-')[:80]}-{short}"


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateSet:
    """Originals and candidates of one attack at one noise level.

    Images are float32 in units of the dataset's intensity window: 0 is its lower end and 1 its upper end.
    Candidates of a trial belong to the originals of the same trial alone. A row that carries nothing gives
    a candidate of zeros.

    Attributes:
        about: how the set came about.
        originals: images of members that took part, (trials, originals, *shape).
        heldout: images of patients that took part in nothing, of the same shape. Compared with ``candidates``
            they are the negative control.
        candidates: what the decoder made of the steps, (trials, candidates, *shape).
        noise_null: what it makes of noise alone, of the same shape; at a level without noise, of noise with a
            multiplier of 1.
        heldout_null: what it makes of steps of ``heldout``, of the same shape.
    """

    about: CandidateRecord
    originals: Tensor
    heldout: Tensor
    candidates: Tensor
    noise_null: Tensor
    heldout_null: Tensor


@dataclass(frozen=True, kw_only=True)
class CandidateIndex:
    """The complete sets of a folder.

    Attributes:
        made_for: digest of the run, its data and the settings that all sets share.
        sets: in the order in which they were made.
        not_attacked: attack, or attack and view -> why it cannot be run here.
        format: of the files.
    """

    made_for: str
    sets: tuple[CandidateRecord, ...] = ()
    not_attacked: dict[str, str] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def find(self, attack: str, view: str, level: str) -> CandidateRecord | None:
        """Return the record of a set; None where it was not made."""
        return next(
            (one for one in self.sets if (one.attack, one.view, one.level.name) == (attack, view, level)),
            None,
        )


def write_candidates(room: Path, found: CandidateSet) -> CandidateRecord:
    """Write a set and return its record with the digest of the array; the index is the caller's.

    Args:
        room: the folder, readable by the owner alone.
        found: the set.
    """
    parts = (found.originals, found.heldout, found.candidates, found.noise_null, found.heldout_null)
    together = torch.cat(parts, dim=1).clamp(-_LARGEST, _LARGEST).half().numpy()
    buffer = io.BytesIO()
    np.save(buffer, together, allow_pickle=False)
    content = buffer.getvalue()
    record = dataclasses.replace(found.about, digest=hashlib.sha256(content).hexdigest())
    files.write_bytes(room / f"{record.stem}.npy", content, mode=files.PRIVATE_MODE)
    return record


def read_candidates(room: Path, record: CandidateRecord) -> CandidateSet:
    """Return a set that was written.

    Args:
        room: the folder.
        record: of the set, from the index.

    Raises:
        DataError: the file is missing, is not the one of the record, or has another shape.
    """
    name = f"{record.stem}.npy"
    path = files.below(room, name, where="candidates")
    content = files.read_bytes(path, limit=_MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != record.digest:
        fix = "make the candidates again with --overwrite"
        raise DataError(problem("the candidates are not those of the index", where=name, fix=fix))
    sizes = (record.originals, record.originals, *(record.candidates,) * 3)
    values = _array(content, (record.trials, sum(sizes), *record.shape), name)
    found = torch.split(torch.from_numpy(values.astype(np.float32)), list(sizes), dim=1)
    return CandidateSet(
        about=record,
        originals=found[0],
        heldout=found[1],
        candidates=found[2],
        noise_null=found[3],
        heldout_null=found[4],
    )


def read_index(room: Path) -> CandidateIndex | None:
    """Return the index of a folder; None where there is none.

    Raises:
        DataError: it is damaged, or another version wrote it.
    """
    path = room / INDEX
    if not path.is_file():
        return None
    found = plain.from_json(files.read_bytes(path, limit=_MOST_RECORD), CandidateIndex, where=INDEX)
    if found.format != FORMAT:
        fix = "make the candidates again with --overwrite"
        raise DataError(expected(f"format {FORMAT}", got=found.format, where=INDEX, fix=fix))
    return found


def write_index(room: Path, index: CandidateIndex) -> Path:
    """Write the index of a folder and return its path."""
    path = room / INDEX
    files.write_text(path, plain.to_json(index), mode=files.PRIVATE_MODE)
    return path


def _array(content: bytes, shape: tuple[int, ...], where: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Return the array in a file; refuse another shape or type, and values that are not finite."""
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(problem("the candidates are damaged", where=where)) from error
    if values.shape != shape or values.dtype != np.float16 or not np.isfinite(values).all():
        wanted = " x ".join(map(str, shape))
        raise DataError(
            expected(
                f"{wanted} finite half-precision values", got="values of a wrong number or size", where=where
            )
        )
    found: np.ndarray[Any, np.dtype[np.float16]] = values
    return found
