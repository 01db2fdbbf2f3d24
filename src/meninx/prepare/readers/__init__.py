"""Readers: one small file a published layout, each a function from a folder to a :class:`~meninx.prepare.found.Reading`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import Reading
from meninx.prepare.readers import (
    brset,
    chexpert,
    csv,
    dicom,
    folder,
    ham10000,
    mimic,
    msd,
    nih,
    npz,
    pad_ufes,
    pairs,
    radimagenet,
    siim,
)

Reader = Callable[[Path, PrepareConfig, str], Reading]

READERS: dict[str, Reader] = {
    "dicom": dicom.read,
    "folder": folder.read,
    "pairs": pairs.read,
    "csv": csv.read,
    "npz": npz.read,
    "nih": nih.read,
    "chexpert": chexpert.read,
    "mimic": mimic.read,
    "siim": siim.read,
    "ham10000": ham10000.read,
    "radimagenet": radimagenet.read,
    "msd": msd.read,
    "brset": brset.read,
    "pad-ufes": pad_ufes.read,
}
