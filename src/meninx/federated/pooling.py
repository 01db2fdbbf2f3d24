"""The datasets of all sites as one, for the baseline that no hospital could train: all data in one place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from meninx.core import files, integrity
from meninx.core.manifest import Case, Manifest


def pooled(sites: Mapping[str, Manifest], out: Path) -> Manifest:
    """Return a dataset in ``out`` with the cases of all sites; it is made unless it is there.

    Splits stay as they are. Pseudonyms get the name of their site, because two sites may use the same ones.
    Images are linked where the file system can, and copied otherwise.

    Args:
        sites: the datasets, by name of the site.
        out: folder of the new dataset.

    Raises:
        DataError: the datasets do not fit together.
        StorageError: the disk refused.
    """
    first = next(iter(sites.values()))
    info = replace(first.info, name="pooled", attributes=(), spacing_mm=(), observed=None)
    cases, digests = [], {}
    for name, data in sites.items():
        for case in data.cases:
            moved = _moved(case, name)
            for before, after in ((case.image, moved.image), (case.mask, moved.mask)):
                if before:
                    _linked(files.below(data.root, before, where="manifest.csv"), out / after)
                    digests[after] = data.checksums.get(before, "")
            cases.append(moved)
    whole = Manifest(out, info, tuple(cases))
    if all(digests.values()):
        integrity.write(out, digests)
    whole.write()
    return Manifest.read(out)


def _moved(case: Case, site: str) -> Case:
    """Return a case of a site as a case of the pooled dataset."""
    return replace(
        case,
        case_id=f"{site}-{case.case_id}",
        patient_id=f"{site}-{case.patient_id}",
        site=site,
        image=str(PurePosixPath(site) / case.image),
        mask=str(PurePosixPath(site) / case.mask) if case.mask else "",
        attributes={},
    )


def _linked(source: Path, place: Path) -> None:
    if place.exists():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
    except OSError as error:
        raise files.storage_error(error, place) from error
