"""Which settings have an effect where: what is set without one is refused, because the user meant something by it.

Every field of ``PrepareConfig`` stands in :data:`EFFECTS`. A field that is named there with readers has an
effect with these alone; one with a condition has an effect only where it holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import TaskKind

if TYPE_CHECKING:
    from meninx.prepare.config import PrepareConfig

SKEWED = ("label-skew", "attribute-skew")
ROWS = ("csv", "chexpert", "ham10000", "radimagenet", "brset", "pad-ufes")  # read by readers.rows
CLASS_COLUMN = ("csv", "npz", "dicom", "brset")
LABEL_COLUMNS = ("csv", "npz", "dicom", "brset", "nih", "chexpert", "mimic")
ONLY_CLASSES = ("folder", "ham10000", "radimagenet", "pad-ufes")
GRADED = ("csv", "dicom", "brset", "chexpert", "mimic")  # label cells are read by values.label
MERGED = ("ham10000", "pad-ufes")
MASKED = ("csv", "dicom", "pairs", "msd")


@dataclass(frozen=True)
class Effect:
    """Where a setting has an effect.

    Attributes:
        readers: the readers that look at it; empty for all.
        needs: whether the other settings give it an effect; None when they always do.
        fix: what would give it one.
    """

    readers: tuple[str, ...] = ()
    needs: Callable[[PrepareConfig], bool] | None = None
    fix: str = ""


def _masks_wanted(config: PrepareConfig) -> bool:
    """Return whether masks are what is learnt, for a reader that leaves it to the config."""
    if config.reader in ("pairs", "msd"):
        return True
    given = bool(config.mask_column or config.mask_folder or config.mask_labels)
    return config.task == TaskKind.SEGMENTATION or (config.task == "auto" and given)


def _has_classes(config: PrepareConfig) -> bool:
    by_column = bool(config.class_column) or (config.reader == "npz" and not config.label_columns)
    return (config.reader in ONLY_CLASSES or by_column) and not _masks_wanted(config)


def _has_labels(config: PrepareConfig) -> bool:
    return not config.class_column and not _masks_wanted(config)


_ANY = Effect()
_OF_CLASSES = Effect((*CLASS_COLUMN, *ONLY_CLASSES), _has_classes, "give class_column, and no masks")
_OF_LABELS = Effect(GRADED, _has_labels, "give label_columns in place of class_column and masks")
_OF_SITES = Effect(
    (), lambda c: c.site_mode in ("iid", *SKEWED), "give site_mode iid, label-skew or attribute-skew"
)
_OF_SEX = ("csv", "chexpert", "ham10000", "brset", "pad-ufes", "nih", "dicom")

EFFECTS: dict[str, Effect] = {
    "reader": _ANY,
    "name": _ANY,
    "task": _ANY,  # compared with what the source gives: refuse_after
    "table": Effect(("dicom", "csv", "npz", "nih", "siim", "ham10000", "brset", "pad-ufes")),
    "crosswalks": Effect(("dicom",)),
    "require": Effect((*ROWS, "mimic", "nih", "siim", "dicom")),
    "image_column": Effect(("csv",)),
    "image_folder": Effect(("csv", "pairs")),
    "patient_column": Effect(("csv", "npz")),
    "study_column": Effect(("csv",)),
    "site_column": Effect(
        (), lambda c: c.site_mode in ("column", "attribute-skew"), "give site_mode column or attribute-skew"
    ),
    "split_column": Effect(("csv",), lambda c: c.split == "published", "give split published"),
    "label_columns": Effect(LABEL_COLUMNS, _has_labels, "leave class_column and masks out"),
    "class_column": Effect(CLASS_COLUMN, lambda c: not _masks_wanted(c), "leave the masks out"),
    "classes": _OF_CLASSES,
    "positive": Effect(
        _OF_CLASSES.readers, lambda c: _has_classes(c) and not c.malignant, "give class_column, and no masks"
    ),
    "positive_name": Effect(
        _OF_CLASSES.readers, lambda c: bool(c.positive), "give positive: the classes to merge"
    ),
    "positive_from": _OF_LABELS,
    "uncertain": _OF_LABELS,
    "blank": _OF_LABELS,
    "sex_column": Effect(("csv", "npz")),
    "age_column": Effect(("csv", "npz")),
    "sex_codes": Effect(_OF_SEX),
    "attribute_columns": Effect((*ROWS, "nih", "mimic", "npz", "dicom")),
    "mask_column": Effect(("csv", "dicom"), _masks_wanted, "give task segmentation"),
    "mask_folder": Effect(
        ("csv", "pairs"),
        lambda c: _masks_wanted(c) and not c.mask_column,
        "give task segmentation, and no mask_column",
    ),
    "mask_labels": Effect(MASKED, _masks_wanted, "give task segmentation"),
    "mask_empty": Effect(("csv", "dicom"), _masks_wanted, "give task segmentation and masks"),
    "malignant": Effect(MERGED),
    "laterality": _ANY,  # its names are compared with the labels: refuse_after
    "modalities": Effect(("dicom",)),
    "trusted": Effect(("dicom",)),
    "synthetic": _ANY,
    "spatial_dims": _ANY,  # compared with the source: refuse_after
    "size": _ANY,
    "aspect": Effect((), lambda c: bool(c.size), "give size"),
    "spacing_mm": _ANY,  # of volumes alone: refuse_after
    "window": Effect((), lambda c: c.intensity not in ("format", "image"), "give intensity window"),
    "bits": _ANY,  # not of volumes in the units of a window: refuse_after
    "color": _ANY,
    "intensity": _ANY,
    "split": _ANY,
    "fractions": _ANY,
    "split_from": _ANY,
    "sites": _OF_SITES,
    "site_mode": _ANY,
    "site_fractions": _OF_SITES,
    "site_alpha": Effect((), lambda c: c.site_mode in SKEWED, "give site_mode label-skew or attribute-skew"),
    "seed": _ANY,
    "limit": _ANY,
    "duplicates": _ANY,
    "dry_run": _ANY,
    "overwrite": _ANY,
    "resume": _ANY,
    "strict": _ANY,
    "workers": _ANY,
}


def refuse(config: PrepareConfig) -> None:
    """Refuse every setting that is not at its default and has no effect beside the others.

    Raises:
        ConfigError: names the setting and what would give it an effect.
    """
    for item in dataclasses.fields(config):
        effect = EFFECTS[item.name]
        if getattr(config, item.name) == item.default:
            continue
        if effect.readers and config.reader not in effect.readers:
            raise _without_effect(
                item.name, f"reader {config.reader}", f"readers that use it: {', '.join(effect.readers)}"
            )
        if effect.needs is not None and not effect.needs(config):
            raise _without_effect(item.name, "these settings", effect.fix)


def refuse_after(
    config: PrepareConfig, *, task: TaskKind, spatial_dims: int, labels: tuple[str, ...]
) -> None:
    """Refuse settings that the source gives no effect, once it has been looked at.

    Raises:
        ConfigError: names the setting and what would give it an effect.
    """
    if config.task not in ("auto", str(task)):
        raise _without_effect("task", f"reader {config.reader}", f"this source gives the task {task}")
    if config.spacing_mm and spatial_dims == 2:
        raise _without_effect("spacing_mm", "pictures", "give size, or spatial_dims 3 for volumes")
    if config.aspect != "stretch" and spatial_dims == 3:
        raise _without_effect(
            "aspect", "volumes", "give spacing_mm with size: the result is then cropped or padded"
        )
    if config.bits != 8 and spatial_dims == 3 and config.window:
        raise _without_effect(
            "bits", "volumes with a window, which keep its units", "leave it out, or give intensity image"
        )
    for side in (side for pair in config.laterality for side in pair.split("=", 1)):
        if side not in labels:
            raise _without_effect("laterality", "this source", "name pairs of its labels, each left=right")


def _without_effect(name: str, where: str, fix: str) -> ConfigError:
    return ConfigError(
        expected(
            "settings that have an effect", got=f"{name}, which has none with {where}", where=name, fix=fix
        )
    )
