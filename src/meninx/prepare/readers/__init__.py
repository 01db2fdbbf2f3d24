"""Readers are functions from a folder to a :class:`ReaderOutput`; most layouts are data of one reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from meninx.core import plugins
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import (
    bids,
    brats,
    class_folder,
    clean_dicom,
    custom_table,
    msd,
    nnunet,
    npz,
    pairs,
    siim,
    totalsegmentator,
)
from meninx.prepare.readers.published_layouts import PUBLISHED
from meninx.prepare.source_cases import ReaderOutput

Reader = Callable[[Path, PrepareConfig, str], ReaderOutput]

READERS: dict[str, Reader] = {
    "dicom": clean_dicom.read,
    "folder": class_folder.read,
    "pairs": pairs.read,
    "csv": custom_table.read,
    "npz": npz.read,
    "siim": siim.read,
    "msd": msd.read,
    "nnunet": nnunet.read,
    "brats": brats.read,
    "bids": bids.read,
    "totalsegmentator": totalsegmentator.read,
    **PUBLISHED,
}


def reader_of(name: str) -> Reader:
    """Return a built-in reader or a reader of another package (:mod:`meninx.core.plugins`) by its name.

    Raises:
        ConfigError: the package that offers it cannot be imported, or uses the name of a built-in reader.
    """
    if name in READERS:
        plugins.refuse_own(plugins.READERS, name)
        return READERS[name]
    reader: Reader = plugins.load(plugins.READERS, name)
    return reader
