"""Checks of the data, and what follows from each finding.

============================== ==========================================================
missing file                   the case is left out, counted, listed with its row; stop if more than the
                               share of ``allow_missing`` is missing
unreadable file                the case is left out, counted, listed with its row
NaN or infinite pixels         the same
one value in the whole image   the same
another image of the dataset   same patient: the copy is left out and counted; two patients: stop
mask of another shape          stop
mask value without a name      stop
no training case               stop, if the settings give training a share
another empty split            named in the result
few of 16 bits are used        named in the result, where the type of the file is the range of values
label that never occurs        named in the result
no label known in any case     stop
============================== ==========================================================

With ``strict``, every finding of the table stops the work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import names
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import SPLITS, Case, TaskKind

MISSING, UNREADABLE = "missing file", "unreadable image"
MISSING_MASK, UNREADABLE_MASK = "missing mask file", "unreadable mask"
NOT_FINITE, CONSTANT, DUPLICATE = "NaN or infinite pixels", "one value in the whole image", "duplicate image"
UNFIT = "values or size that cannot be converted"
NO_MASK, OTHER_AXES = "no mask", "other number of axes"
ROWS_LISTED = 20
_VALUES_LISTED = 20
_FILE_BITS, _UNUSED = 16, 2  # with two bits unused, an image has a quarter of its brightness
_NO_NAME = -1  # of a mask value in a table of label numbers


class Unusable(Exception):  # internal to prepare: it becomes a counted reason
    """Raised for a case that cannot be used, with the reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass
class Findings:
    """Counts and places of all findings; a place is a table row or file, never a value.

    Attributes:
        strict: whether the first finding stops the work.
        places: reason for leaving something out, to the places where it occurred.
        notes: other observations, to their places; they never stop the work.
    """

    strict: bool = False
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, where: str, detail: str = "") -> None:
        """Count one finding.

        Raises:
            DataError: ``strict`` is set.
        """
        where = names.encodable(where)
        self.places[reason].append(where)
        if self.strict:
            got = f"{reason}: {detail}" if detail else reason
            raise DataError(
                expected(
                    "usable data", got=got, where=where, fix="mend it, or run without strict to leave it out"
                )
            )

    def note(self, reason: str, where: str) -> None:
        """Record an observation that does not stop the work."""
        self.notes[reason].append(names.encodable(where))

    def noted(self) -> dict[str, str]:
        """Return each note with its places, or with their number and the first one if there are many."""
        return {
            reason: ", ".join(places) if len(places) < 4 else f"{len(places):,}, first {places[0]}"
            for reason, places in sorted(self.notes.items())
            if places
        }

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each reason, sorted by reason."""
        return {reason: len(places) for reason, places in sorted(self.places.items())}

    def to_table(self) -> dict[str, Any]:
        """Return counts and the first places of each reason and note."""
        return {
            reason: {"count": len(places), "rows": sorted(places)[:ROWS_LISTED]}
            for reason, places in sorted([*self.places.items(), *self.notes.items()])
        }


def refuse_missing(missing: Sequence[str], total: int, allowed: float) -> None:
    """Raise DataError if the share of missing images and masks is larger than allowed.

    Args:
        missing: place of each case whose image or mask is missing.
        total: number of all cases, including those with missing files.
        allowed: share that may be missing.
    """
    share = len(missing) / total if total else 0.0
    if share > allowed:
        got = f"{len(missing):,} missing ({100 * share:.1f} %)"
        fix = "check that the download is complete and image_folder is right, or give a larger allow_missing"
        what = f"at most {100 * allowed:g} % of {total:,} images and masks to be missing"
        raise DataError(expected(what, got=got, where=f"first {missing[0]}", fix=fix))


def refuse_no_training(sizes: Mapping[str, int], share: float, published: bool) -> None:
    """Raise DataError if the training split is empty although the settings give it a share."""
    if not sizes.get("train") and share > 0 and not published:
        got = ", ".join(f"{split}: {size}" for split, size in sizes.items())
        fix = "add patients, give split exact, or other fractions"
        raise DataError(expected("cases for training", got=got, where="splits", fix=fix))


def check_pixels(array: npt.NDArray[Any]) -> None:
    """Raise Unusable if an image contains NaN or infinity, or only a single value."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unusable(NOT_FINITE)
    if array.size == 0 or array.min() == array.max():
        raise Unusable(CONSTANT)


def note_unused_bits(used: Sequence[int], stored: int, findings: Findings) -> None:
    """Note 16-bit files whose values use fewer bits: scaled by their type, they become dark, with few levels.

    Args:
        used: bits that the values of each image use; 0 for images that are not scaled by a 16-bit type.
        stored: bits of a stored grey level, 8 or 16.
        findings: receives a note with the numbers and the settings that would keep the grey levels.
    """
    dark = [bits for bits in used if 0 < bits <= _FILE_BITS - _UNUSED]
    if not dark:
        return
    most = max(dark)
    levels = 2 ** max(0, min(most, stored + most - _FILE_BITS))
    fix = "give `--intensity image`"
    if len(dark) == sum(bits > 0 for bits in used):
        fix = f"give `--window 0 {2**most - 1}` or `--intensity image`"
    findings.note(
        f"warning: at most {most} of {_FILE_BITS} bits are used, the stored images are nearly black",
        f"{len(dark):,} of {len(used):,} images, at most {levels:,} of {2**stored:,} grey levels; {fix}",
    )


def check_shape(mask: Sequence[int], image: Sequence[int], where: str) -> None:
    """Raise DataError if the spatial shapes of a mask and its image differ."""
    if tuple(mask) != tuple(image):
        sizes = f"{'x'.join(map(str, mask))} for {'x'.join(map(str, image))}"
        raise DataError(
            expected(
                "a mask of the image's shape", got=sizes, where=where, fix="check which mask belongs to it"
            )
        )


def label_map(
    values: npt.NDArray[Any], labels: Sequence[str], where: str, table: Mapping[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Return a mask as whole numbers from 0 to the number of labels, in the same shape.

    Args:
        values: the mask as it is stored.
        labels: names of the numbers 1, 2, ...
        where: place for the error message.
        table: value in the mask to label number, 0 for background. Without a table the values are the
            numbers; for a single label, a grey mask with values up to 255 then counts as the label from 128.

    Raises:
        DataError: a value has no name, or is not a whole number.
    """
    found = values if values.dtype.kind in "iub" else np.round(values)
    if not np.isfinite(found).all() or (found != values).any():
        raise DataError(
            expected(
                "whole label values",
                got="fractions",
                where=where,
                fix="give the label map, not probabilities",
            )
        )
    if found.dtype.kind in "fb":  # floats and booleans cannot index the table below
        found = found.astype(np.int64)
    top, low = int(found.max(initial=0)), int(found.min(initial=0))
    # Masks saved as JPEG have values close to 0 and 255 instead of exactly these.
    if not table and len(labels) == 1 and 128 <= top <= 255 and low >= 0:
        return (found >= 128).astype(np.uint8)
    known = {0: 0, **(table or {number: number for number in range(1, len(labels) + 1)})}
    # Before the table is indexed: a negative value would count from its end, a large one would be out of
    # bounds.
    if low < 0 or top > max(known):
        raise _unnamed(known, f"values from {low} to {top}", where)
    numbers = np.full(max(known) + 1, _NO_NAME, dtype=np.int16)
    numbers[list(known)] = list(known.values())
    mapped = numbers[found]
    if (mapped == _NO_NAME).any():
        raise _unnamed(known, "others between them", where)
    return mapped.astype(np.uint8)


def _unnamed(known: Mapping[int, int], got: str, where: str) -> DataError:
    values = sorted(known)
    consecutive = values == list(range(len(values)))
    what = f"0 to {values[-1]}" if consecutive else ", ".join(map(str, values[:_VALUES_LISTED]))
    named = f"1 to {values[-1]}" if consecutive else "these"
    return DataError(expected(f"mask values {what}", got=got, where=where, fix=f"mask_labels names {named}"))


def without_duplicates(
    content: Mapping[str, str],
    patient: Mapping[str, str],
    where: Mapping[str, str],
    findings: Findings,
    *,
    drop: bool,
    patients_known: bool = True,
) -> set[str]:
    """Return the cases to keep; of equal images of one patient only the first by pseudonym is kept.

    Args:
        content: case to the digest of its pixels.
        patient: case to its patient.
        where: case to its place.
        findings: receives every copy that is left out.
        drop: leave out every copy of an image that two patients have, instead of stopping.
        patients_known: the source names its patients; otherwise it is unknown whose images the copies are.

    Raises:
        DataError: two patients have the same image, or two images are equal in a source without patients;
            names both rows.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for case in sorted(content):
        groups[content[case]].append(case)
    kept: set[str] = set()
    for cases in groups.values():
        people = {patient[case] for case in cases}
        if len(people) > 1 and not drop:
            other = next(case for case in cases if patient[case] != patient[cases[0]])
            what, got = ("each image of one patient", "one image for two patients")
            if not patients_known:
                what, got = "each image once", "it again"
            fix = "correct the source, or set duplicates to drop"
            places = f"{where[cases[0]]} and {where[other]}"
            raise DataError(expected(what, got=f"{got}: {places}", where="images", fix=fix))
        kept.update(cases[:1] if len(people) == 1 else [])
        for case in cases[1 if len(people) == 1 else 0 :]:
            of_one = len(people) == 1 or not patients_known
            findings.add(DUPLICATE if of_one else "image of two patients", where[case])
    return kept


def refuse_nothing(cases: Sequence[object], findings: Findings) -> None:
    """Raise DataError if no case is left; the message names the reasons."""
    if not cases:
        got = ", ".join(f"{reason}: {count}" for reason, count in findings.counts().items()) or "none"
        raise DataError(
            expected(
                "at least one usable case", got=got, where="source", fix="check the source and the settings"
            )
        )


def check_classes(
    cases: Iterable[Case], present: Mapping[str, Sequence[str]], labels: Sequence[str], findings: Findings
) -> None:
    """Note labels that never occur in the dataset or in a split, and empty splits.

    Args:
        cases: the cases.
        present: case to the labels that occur in it.
        labels: all labels.
        findings: receives every finding.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    sizes: Counter[str] = Counter()
    for case in cases:
        counts[case.split].update(present[case.case_id])
        sizes[case.split] += 1
    for split in SPLITS:
        if not sizes[split]:
            findings.note("empty split", split)
    for label in labels:
        bare = [split for split in SPLITS if sizes[split] and not counts[split][label]]
        if len(bare) == sum(sizes[split] > 0 for split in SPLITS):
            findings.note("label that never occurs", f"label {label!r}")
        else:
            findings.notes["label that never occurs in a split"] += [
                f"label {label!r}, split {split}" for split in bare
            ]
    never = findings.notes.get("label that never occurs")
    if findings.strict and never:
        where = ", ".join(never)
        raise DataError(
            problem("a label occurs in no case", where=where, fix="leave the label out of label_columns")
        )


def present_labels(
    case: Case, voxels: Sequence[int], labels: Sequence[str], task: TaskKind
) -> tuple[str, ...]:
    """Return the labels that occur in a case: those with value 1, or those with voxels in the mask."""
    if task is TaskKind.SEGMENTATION:
        return tuple(name for name, count in zip(labels, voxels, strict=True) if count)
    return tuple(name for name in labels if case.labels.get(name) == 1)
