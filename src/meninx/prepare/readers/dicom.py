"""De-identified DICOM, as `meninx deid` writes it, with a label table.

Layout: any tree of DICOM files; folders that hold a ``deid.json`` are each a site of their own, named after
    the folder. In 2-D
every instance is a case, in 3-D every series. Labels come from ``table`` (class_column or label_columns),
whose rows name an image by the most specific identifier that they fill in: SOPInstanceUID, SeriesInstanceUID,
StudyInstanceUID, AccessionNumber, PatientID. A table with original identifiers is translated by
``crosswalks`` (columns id_old, id_new).

Guarantee: a file that does not say PatientIdentityRemoved YES stops the work with PrivacyRefusal, unless
    ``trusted``; one that
`meninx deid` marked because text may stand in its pixels is left out, unless ``trusted``.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import DataError, PrivacyRefusal, expected
from meninx.imaging import decode, tags
from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import FileSource, Found, Reading, SeriesSource, Source
from meninx.prepare.readers import values
from meninx.prepare.readers.join import LabelTable
from meninx.prepare.readers.rows import relative

Header = dict[str, str]
KEYWORDS = (
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "PatientSex", "PatientAge",
    "Modality", "ViewPosition", "Rows", "PatientIdentityRemoved", "DeidentificationMethod",
)  # fmt: skip
VOLUME_MODALITIES = ("CT", "MR", "PT", "NM")
SUMMARY = artifacts.place(DeidRecord)
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")
"""Suffixes that promise DICOM: such a file that is none is told of; others are passed over."""


def read(root: Path, config: PrepareConfig, site: str = "") -> Reading:
    """Return the cases of one folder of de-identified DICOM.

    Raises:
        PrivacyRefusal: a file is not marked as de-identified.
        LayoutError: the label table has a wrong column, cell or crosswalk; names file, column and row.
        DataError: no row of the label table fits any image.
    """
    headers, skipped = _headers(root)
    _refuse_identified(headers, trusted=config.trusted)
    if not config.trusted:
        headers, flagged = _reviewed(headers)
        skipped += flagged
    skipped += [("object without pixels", "DICOM source")] * sum(
        not header["Rows"] for header in headers.values()
    )
    wanted = {path: header for path, header in headers.items() if header["Rows"] and _wanted(header, config)}
    table = LabelTable.read(root, config, site)
    dims = config.spatial_dims or 2
    units = _series(wanted) if dims == 3 else [((path,), header) for path, header in wanted.items()]
    pseudonymous = not config.trusted or all(map(_is_clean, headers.values()))
    cases: list[Found] = []
    for number, (paths, header) in enumerate(units, start=1):
        labelled = table.find(header, whole_series=dims == 3)
        if labelled is None:
            skipped.append(("no label row", f"image {number} of {len(units)}"))
            continue
        if not labelled.wanted:
            skipped.append(("no class that was asked for", labelled.where))
            continue
        source: Source = SeriesSource(paths) if dims == 3 else FileSource(paths[0])
        identity = header["SeriesInstanceUID" if dims == 3 else "SOPInstanceUID"]
        cases.append(
            Found(
                key=identity or relative(paths[0], root),
                patient=header["PatientID"] or identity,
                study=header["StudyInstanceUID"],
                image=source,
                mask=labelled.mask,
                where=labelled.where,
                labels=labelled.labels,
                attributes=_attributes(header, labelled.attributes, config),
                pseudonymous=pseudonymous,
            )
        )
    skipped += table.unused(bool(units))
    return Reading(
        cases=tuple(cases), labels=table.labels, task=table.task, skipped=tuple(skipped), spatial_dims=dims,
        attributes=("sex", "age", "view", *table.attributes),
    )  # fmt: skip


def _headers(root: Path) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    folder = root / "images" if (root / SUMMARY).is_file() and (root / "images").is_dir() else root
    found: dict[Path, Header] = {}
    skipped: list[tuple[str, str]] = []
    paths = [
        path
        for path in decode.find_files(folder)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for number, path in enumerate(paths, start=1):
        if not decode.is_dicom(path):
            if path.suffix.lower() in DICOM_SUFFIXES:
                skipped.append(("not DICOM", f"file {number} of {len(paths)}"))
            continue
        try:
            header = decode.open_dataset(path, pixels=False, keywords=KEYWORDS)
            with decode.quiet():
                found[path] = {name: str(header.get(name) or "").strip() for name in KEYWORDS}
        except (DataError, ValueError):
            skipped.append(("unreadable image", f"file {number} of {len(paths)}"))
    found, copies = _once(found)
    skipped += copies
    if not found:
        raise DataError(
            expected(
                "DICOM files", got="none", where=f"folder {root.name}", fix="give the output of `meninx deid`"
            )
        )
    return found, skipped


def _once(headers: dict[Path, Header]) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    """Return one file an instance, and the copies: archives often hold an instance of a patient twice."""
    kept: dict[Path, Header] = {}
    seen: set[tuple[str, str]] = set()
    copies: list[tuple[str, str]] = []
    for number, (path, header) in enumerate(headers.items(), start=1):
        uid = header["SOPInstanceUID"]
        if uid and (header["PatientID"], uid) in seen:
            copies.append(("instance that is there twice", f"image {number} of {len(headers)}"))
        else:
            seen.add((header["PatientID"], uid))
            kept[path] = header
    return kept, copies


def _refuse_identified(headers: dict[Path, Header], *, trusted: bool) -> None:
    open_files = sum(not _is_clean(header) for header in headers.values())
    if open_files and not trusted:
        raise PrivacyRefusal(
            expected(
                "PatientIdentityRemoved YES in every file",
                got=f"{open_files} of {len(headers)} files without it",
                where="DICOM source",
                fix="run `meninx deid` first, or give trusted for images that hold no identity",
            )
        )


def _is_clean(header: Header) -> bool:
    """Return whether `meninx deid` or another program cleaned the header; the pixels are another matter."""
    return header["PatientIdentityRemoved"] == "YES" or tags.NOT_REVIEWED in header["DeidentificationMethod"]


def _reviewed(headers: dict[Path, Header]) -> tuple[dict[Path, Header], list[tuple[str, str]]]:
    """Return the files whose pixels need no look, and the others as left out.

    Raises:
        PrivacyRefusal: there is no other file.
    """
    kept = {path: header for path, header in headers.items() if header["PatientIdentityRemoved"] == "YES"}
    if headers and not kept:
        fix = "look at private/review.html of the clean archive, then give trusted"
        got = f"{len(headers)} files whose pixels may show text"
        raise PrivacyRefusal(
            expected("images whose pixels need no look", got=got, where="DICOM source", fix=fix)
        )
    left = [
        ("pixels that nobody has reviewed", f"image {number} of {len(headers)}")
        for number, path in enumerate(headers, start=1)
        if path not in kept
    ]
    return kept, left


def _wanted(header: Header, config: PrepareConfig) -> bool:
    modality = header["Modality"]
    if config.modalities:
        return modality in config.modalities
    return (modality in VOLUME_MODALITIES) == (config.spatial_dims == 3)


def _series(headers: dict[Path, Header]) -> list[tuple[tuple[Path, ...], Header]]:
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, header in headers.items():
        groups[tuple(header[name] for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))].append(
            path
        )
    return [(tuple(sorted(paths)), headers[paths[0]]) for _, paths in sorted(groups.items())]


def _attributes(header: Header, more: dict[str, str], config: PrepareConfig) -> dict[str, str]:
    own = {
        "sex": values.sex(header["PatientSex"], values.sex_codes(config)),
        "age": values.age(header["PatientAge"]),
        "view": header["ViewPosition"],
    }
    return {**own, **more}
