"""Readers: one module per published layout, each a function from a folder to a :class:`ReaderOutput`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meninx.core import plugins
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import (
    bids,
    brats,
    chexpert,
    class_folder,
    clean_dicom,
    custom_table,
    mimic,
    msd,
    nih,
    nnunet,
    npz,
    pairs,
    radimagenet,
    siim,
    totalsegmentator,
)
from meninx.prepare.readers.published_table import BRSET, HAM10000, PAD_UFES
from meninx.prepare.source_cases import ReaderOutput

Reader = Callable[[Path, PrepareConfig, str], ReaderOutput]

READERS: dict[str, Reader] = {
    "dicom": clean_dicom.read,
    "folder": class_folder.read,
    "pairs": pairs.read,
    "csv": custom_table.read,
    "npz": npz.read,
    "nih": nih.read,
    "chexpert": chexpert.read,
    "mimic": mimic.read,
    "siim": siim.read,
    "ham10000": HAM10000,
    "radimagenet": radimagenet.read,
    "msd": msd.read,
    "brset": BRSET,
    "pad-ufes": PAD_UFES,
    "nnunet": nnunet.read,
    "brats": brats.read,
    "bids": bids.read,
    "totalsegmentator": totalsegmentator.read,
}


def reader_of(name: str) -> Reader:
    """Return a reader by its name: one of ours, or of another package (:mod:`meninx.core.plugins`).

    Raises:
        ConfigError: the package that offers it cannot be imported, or offers one of our names.
    """
    if name in READERS:
        plugins.refuse_own(plugins.READERS, name)
        return READERS[name]
    reader: Reader = plugins.load(plugins.READERS, name)
    return reader
