"""Labels written into a standard attribute of DICOM copies; pixels and everything else stay as they are."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from meninx.core.errors import ConfigError, DataError, StorageError, expected
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.dicom import copies, label_rules
from meninx.imaging import decode, tags

_STRUCTURE = {
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "PatientIdentityRemoved",
    "NumberOfFrames",
}
_META, _IMAGE = 0x0002, 0x0028


@dataclass(frozen=True, kw_only=True)
class LabelResult(Result):
    """Counts of :func:`write_labels`.

    Attributes:
        tag: keyword of the attribute that was written.
        labels: number of files with each label.
        unlabelled: DICOM files for which the rule gives no label.
        written: files written in this run.
        unchanged: files that were in the output already with the same bytes.
        passed_over: files that are not DICOM.
        failed: position in the sorted listing of the source, and reason, of every file that could not be
            read.
    """

    tag: str
    labels: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    written: int = 0
    unchanged: int = 0
    passed_over: int = 0
    failed: tuple[tuple[int, str], ...] = ()


def write_labels(
    source: Path,
    out: Path,
    tag: str,
    rule: label_rules.Rule,
    *,
    keep_unlabelled: bool = True,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> LabelResult:
    """Copy the DICOM files of a folder to the same relative paths in another, with a label in one attribute.

    The value representation comes from the DICOM dictionary. A second call skips existing copies. The
    copies appear when all of them are complete.
    Guarantee: the source is only read; transfer syntax and pixel bytes of a copy are those of its source.

    Args:
        source: folder of DICOM files, searched recursively.
        out: folder of the copies, outside the source.
        tag: keyword, ``(gggg,eeee)`` or eight hexadecimal digits of a standard attribute.
        rule: source of the label.
        keep_unlabelled: also copy files without a label; they are rewritten without changes.
        overwrite: replace other files at the output.
        progress: advanced by every file.

    Raises:
        ConfigError: the attribute does not exist, or belongs to the structure of the file.
        UsageError: one folder is inside the other, or the output contains another file of that name.
        LayoutError: the label table is missing or contradicts itself.
        DataError: a label does not fit the attribute; the message names the keyword.
        StorageError: the disk refused.
    """
    keyword = _writable(tag)
    copies.refuse_inside(source, out)
    label_of = label_rules.labeller(rule)
    counts, labels, failed = Counter[str](), Counter[str](), list[tuple[int, str]]()
    paths = decode.find_files(source)
    with (
        copies.building(source, out, keyword, rule, keep_unlabelled) as build,
        task(progress, "write labels", len(paths)),
        decode.quiet(),
    ):
        for number, path in enumerate(paths, start=1):
            progress.advance()
            if not decode.is_dicom(path):
                counts["passed_over"] += 1
                continue
            relative = PurePosixPath(path.relative_to(source).as_posix())
            try:
                dataset = decode.open_dataset(path)
                label = label_of(relative, dataset)
            except DataError as error:
                failed.append((number, str(error)))
                continue
            labels[label] += 1
            if not label and not keep_unlabelled:
                continue
            where = f"file {number} of the sorted source"
            content = _labelled(dataset, keyword, label, where)
            is_new = copies.place_bytes(content, build, relative, where, overwrite=overwrite)
            counts["written" if is_new else "unchanged"] += 1
    unlabelled = labels.pop("", 0)
    return LabelResult(
        out=out,
        tag=keyword,
        labels=dict(sorted(labels.items())),
        unlabelled=unlabelled,
        failed=tuple(failed),
        **counts,
    )


def _writable(tag: str) -> str:
    keyword = tags.keyword_of(tag)
    group = Tag(keyword).group
    if keyword in _STRUCTURE or group in (_META, _IMAGE) or group >= 0x6000:
        fix = "choose a descriptive one, e.g. ImageComments or ClinicalTrialTimePointID"
        raise ConfigError(
            expected(
                "an attribute that may carry a label",
                got="one of the file's structure",
                where=keyword,
                fix=fix,
            )
        )
    tags.vr_of(keyword)
    return keyword


def _labelled(dataset: Dataset, keyword: str, label: str, where: str) -> bytes:
    """Return the bytes of the data set with the label, or raise DataError if it does not fit."""
    if label:
        value = tags.typed(label, keyword)
        with decode.guarded():
            charsets = dataset.get("SpecificCharacterSet")
        if not tags.can_spell(label, charsets):
            fix = "spell the label in ASCII"
            got = "letters that SpecificCharacterSet lacks"
            raise DataError(
                expected("a label in the file's characters", got=got, where=f"{keyword}, {where}", fix=fix)
            )
        dataset[keyword] = DataElement(Tag(keyword), tags.vr_of(keyword), value)
    stream = io.BytesIO()
    try:
        with decode.quiet():
            dataset.save_as(stream, enforce_file_format=True)
    except StorageError:
        raise
    except Exception as error:
        got = f"one that cannot be written again ({type(error).__name__})"
        raise DataError(expected("a DICOM file", got=got, where=where)) from None
    return stream.getvalue()
