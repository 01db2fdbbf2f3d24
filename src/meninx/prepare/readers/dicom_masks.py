"""Masks of DICOM images from the SEG and RTSTRUCT objects in the same archive.

An object belongs to the series (in 2-D: to the image) that it refers to by UID, if both have one PatientID.
The names of segments and regions (ROIs) are the labels: all of them in alphabetical order, or those that
``mask_labels`` chooses: ``liver``, ``tumour=GTV-1``, or ``liver=1`` by number where de-identification removed
the names and a number means the same in all objects. A label that the object of a case does not hold has no
voxels there, and segments without a name are left out; both are noted. Where an image has several
objects, ``mask_object`` chooses the kind and ``mask_series`` the SeriesDescription, ContentLabel or
StructureSetLabel. Without a choice they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.errors import ConfigError, DataError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.imaging import label_objects
from meninx.imaging.label_objects import LabelObject
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import mask_labels, values
from meninx.prepare.readers.mask_labels import MaskLabels
from meninx.prepare.setting_tables import AUTO
from meninx.prepare.source_cases import ObjectSource, Source

MASK_OBJECTS = "DICOM label objects"


def wanted(config: PrepareConfig) -> bool:
    """Return whether masks come from SEG and RTSTRUCT objects: for segmentations without a mask column."""
    return values.task_of(config) is TaskKind.SEGMENTATION and not config.masks.column


@dataclass
class DicomMasks:
    """The label objects of an archive.

    Attributes:
        objects: file to the description in its header.
        labels: the labels of the dataset.
        overlap: refuse, or last.
        unreadable: number of objects that are damaged.
        used: files that belong to an image.
    """

    objects: Mapping[Path, LabelObject]
    labels: MaskLabels
    overlap: str
    unreadable: int = 0
    used: set[Path] = field(default_factory=set)

    @classmethod
    def read(cls, paths: Sequence[Path], config: PrepareConfig) -> DicomMasks:
        """Return the label objects among files, as selected by the settings.

        Raises:
            LayoutError: there is no object, an object has two segments of one name, or no segment has a name.
            ConfigError: ``mask_labels`` names something that no object contains.
        """
        found: dict[Path, LabelObject] = {}
        for path in paths:
            try:
                found[path] = label_objects.read_object(path)
            except LayoutError:
                raise
            except DataError:  # a damaged object is counted like a damaged image
                continue
        kind, title = config.masks.object, config.masks.series
        chosen = {
            path: item
            for path, item in found.items()
            if kind in (AUTO, item.kind) and (not title or title in item.titles)
        }
        if not chosen:
            got = f"{len(found)} others" if found else "none"
            fix = "check mask_object and mask_series" if found else "give mask_column"
            raise LayoutError(expected("SEG or RTSTRUCT objects", got=got, where=MASK_OBJECTS, fix=fix))
        for number, item in enumerate(chosen.values(), start=1):
            named = [name for name in item.names.values() if name]
            if len(set(named)) != len(named):
                where = f"{MASK_OBJECTS}, {number} of {len(chosen)}"
                fix = "choose by number: mask_labels as name=number"
                if not _by_number(config.masks.labels):
                    raise LayoutError(problem("two segments have one name", where=where, fix=fix))
        return cls(chosen, _labels(chosen, config), config.masks.overlap, len(paths) - len(found))

    def find(
        self, paths: tuple[Path, ...], patient: str, series: str, instances: frozenset[str], *, where: str
    ) -> Source | None:
        """Return the mask of a series or of one image, or None if no object refers to it.

        Args:
            paths: files of the images.
            patient: their PatientID.
            series: their SeriesInstanceUID; empty for a single image.
            instances: their SOPInstanceUIDs.
            where: place for messages.

        Raises:
            LayoutError: several objects refer to it.
            ConfigError: a SEG and an RTSTRUCT refer to it.
        """
        fitting = [
            path
            for path, item in self.objects.items()
            if item.patient == patient and ((series and series in item.series) or item.instances & instances)
        ]
        if not fitting:
            return None
        if len({self.objects[path].kind for path in fitting}) > 1:
            fix = "choose with mask_object: seg or rtstruct"
            raise ConfigError(problem("a SEG and an RTSTRUCT refer to one image", where=where, fix=fix))
        if len(fitting) > 1:
            fix = "choose with mask_series: a SeriesDescription, ContentLabel or StructureSetLabel"
            raise LayoutError(expected("one label object per image", got=len(fitting), where=where, fix=fix))
        (path,) = fitting
        self.used.add(path)
        return ObjectSource(path, paths, bool(series), self._numbers(path), self.overlap, where)

    def left_over(self) -> list[tuple[str, str]]:
        """Return reason and place of the objects that refer to no image or are damaged."""
        damaged = [("unreadable label object", MASK_OBJECTS)] * self.unreadable
        return damaged + [
            ("label object without its images", f"{MASK_OBJECTS}, {number} of {len(self.objects)}")
            for number, path in enumerate(self.objects, start=1)
            if path not in self.used
        ]

    def notes(self) -> tuple[tuple[str, str], ...]:
        """Return notes on objects that lack a label, and on objects with segments without a name."""
        unnamed = 0
        if not self.labels.values:
            unnamed = sum("" in self.objects[path].names.values() for path in self.used)
        lacking = {
            name: sum(number not in self._numbers(path).values() for path in self.used)
            for number, name in enumerate(self.labels.names, start=1)
        }
        notes = [
            ("label that some objects do not hold", f"label {name!r}, {count} of {len(self.used)}")
            for name, count in lacking.items()
            if count
        ]
        if unnamed:
            reason = "segments without a name are left out (mask_labels takes them by number)"
            notes.append((reason, f"{unnamed} of {len(self.used)} objects"))
        return tuple(notes)

    def _numbers(self, path: Path) -> dict[int, int]:
        """Return a map from the segment or ROI numbers of an object to the numbers of the labels."""
        names = self.objects[path].names
        if self.labels.values:
            return {number: label for number, label in self.labels.values.items() if number in names}
        wanted_names = {name: label for label, name in enumerate(self.labels.sources, start=1)}
        return {number: wanted_names[name] for number, name in names.items() if name in wanted_names}


def _by_number(asked: tuple[str, ...]) -> bool:
    return bool(asked) and all(entry.rpartition("=")[2].isdigit() and "=" in entry for entry in asked)


def _labels(objects: Mapping[Path, LabelObject], config: PrepareConfig) -> MaskLabels:
    """Return the labels, chosen by number or by the names in the objects."""
    known = sorted({name for item in objects.values() for name in item.names.values()} - {""})
    asked = config.masks.labels
    if _by_number(asked) and not any(entry.rpartition("=")[2] in known for entry in asked):
        return mask_labels.of_values(asked)
    if not known:
        fix = "give mask_labels as name=number"
        raise LayoutError(problem("no segment or region has a name", where=MASK_OBJECTS, fix=fix))
    places = {name: number for number, name in enumerate(known, start=1)}
    labels = mask_labels.of_names(asked, places, where=MASK_OBJECTS)
    return MaskLabels(labels.names, sources=labels.sources)
