"""Settings of `meninx prepare`, and the conditions under which each has an effect.

Every field of :class:`PrepareConfig` is listed in :data:`EFFECTS`. A field that is listed with readers has an
effect only with these readers, and a field with a condition only if the condition holds. A setting without
an effect is refused, because the user expects one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from meninx.core import check, plugins, settings
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.core.setting_types import CountOrZero
from meninx.core.settings import Settings
from meninx.prepare.setting_tables import (
    AUTO,
    SKEWED,
    ImagesConfig,
    InputConfig,
    LabelsConfig,
    MasksConfig,
    SitesConfig,
    SplitConfig,
    WorkConfig,
    refuse_names,
)

# The published tables in the order of readers/published_layouts.py; a test compares the two.
PUBLISHED = (
    "nih", "chexpert", "mimic", "padchest", "rsna-pneumonia", "vindr-cxr", "radimagenet", "ham10000",
    "isic-2018", "isic-2019", "isic-2020", "pad-ufes", "brset", "odir",
)  # fmt: skip
READER_NAMES = (
    "dicom",
    "folder",
    "pairs",
    "csv",
    "npz",
    "siim",
    "msd",
    "nnunet",
    "brats",
    "bids",
    "totalsegmentator",
    *PUBLISHED,
)
ReaderName = Annotated[str, Meta(examples=[AUTO, *READER_NAMES])]  # installed packages may offer more
# Fields that change what is written for one case. After a change of any other field, finished images are
# reused.
PIXEL_FIELDS = (
    "task",
    "spatial_dims",
    "size",
    "aspect",
    "spacing_mm",
    "window",
    "bits",
    "color",
    "intensity",
    "channels",
    "mask_labels",
    "mask_empty",
    "mask_overlap",
    "mask_object",
    "mask_series",
)
# Fields that change how the work is done, not its result.
WORK_FIELDS = ("dry_run", "overwrite", "resume", "strict", "workers")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """Settings of `meninx prepare`: from a published layout or de-identified DICOM to a dataset folder.

    Paths may hold ``{source}`` (the source folder) and ``{site}`` (its site name). Folders are relative to
    the source; tables are relative to the working folder, and to the source if they are not there.

    Attributes:
        reader: layout of the source, auto to recognise it, or the name of a reader that an installed package
            offers.
        name: short name of the dataset; pseudonyms of cases depend on it.
        task: auto, multiclass, multilabel or segmentation; auto follows from the columns and masks given.
        synthetic: record that the images belong to no real patients.
        seed: seed of splits and sites.
        limit: largest number of cases, in whole patients; 0 for all.
        duplicates: the same image of two patients: refuse (stop), or drop (leave out all copies).
    """

    reader: ReaderName = AUTO
    name: str = "dataset"
    task: Literal["auto", "multiclass", "multilabel", "segmentation"] = AUTO
    synthetic: bool = False
    seed: CountOrZero = 0
    limit: CountOrZero = 0
    duplicates: Literal["refuse", "drop"] = "refuse"
    input: InputConfig = field(default_factory=InputConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    sites: SitesConfig = field(default_factory=SitesConfig)
    work: WorkConfig = field(default_factory=WorkConfig)

    def check_rules(self) -> None:
        """Refuse settings that have no effect with the others."""
        check.one_of((AUTO, *READER_NAMES, *plugins.names(plugins.READERS)), reader=self.reader)
        refuse_names(self.name)
        refuse_without_effect(self)


BIDS = "bids"
_FINDINGS = ("nih", "padchest")  # one column with all findings
_ONE_HOT = ("isic-2018", "isic-2019")  # one column per class
_LABELLED = ("chexpert", "mimic", "rsna-pneumonia", "vindr-cxr", "isic-2020", "brset", "odir")
_CLASSES = ("ham10000", "radimagenet", "pad-ufes")  # one column with the class
ROWS = ("csv", *PUBLISHED)  # read by readers.layout
ONE_TABLE = tuple(
    name for name in PUBLISHED if name not in ("chexpert", "vindr-cxr", "radimagenet", "isic-2018")
)
CLASS_COLUMN = ("csv", "npz", "dicom", "brset", "isic-2020", BIDS)
LABEL_COLUMNS = ("csv", "npz", "dicom", *_FINDINGS, *_LABELLED, BIDS)
ONLY_CLASSES = ("folder", *_CLASSES, *_ONE_HOT)
GRADED = ("csv", "dicom", *_LABELLED, BIDS)  # label cells are read by values.label
MERGED = ("ham10000", "pad-ufes", *_ONE_HOT)
MASKED = ("csv", "dicom", "pairs", "msd", "nnunet", "brats", BIDS, "totalsegmentator")
MASK_PER_LABEL = ("dicom", BIDS, "totalsegmentator")  # each label may have a mask of its own
ONLY_MASKS = ("pairs", "msd", "nnunet", "brats", "totalsegmentator")  # layouts of segmentations
CHANNELS = ("msd", "nnunet", "brats", BIDS, "pairs", "csv", "folder")


@dataclass(frozen=True)
class Effect:
    """Conditions under which a setting has an effect.

    Attributes:
        readers: the readers that use it; empty for all.
        needs: whether the other settings give it an effect; None if it always has one.
        fix: the setting that would give it an effect.
    """

    readers: tuple[str, ...] = ()
    needs: Callable[[PrepareConfig], bool] | None = None
    fix: str = ""


def segments_of_bids(config: PrepareConfig) -> bool:
    """Return whether a BIDS dataset is read for its masks: True unless columns of its table are given."""
    asked = bool(config.labels.class_column or config.labels.label_columns)
    return config.task == "segmentation" or (config.task == AUTO and not asked)


def _masks_wanted(config: PrepareConfig) -> bool:
    """Return whether masks are learnt, for a reader that leaves this to the config."""
    if config.reader == BIDS:
        return segments_of_bids(config)
    if config.reader in ONLY_MASKS:
        return True
    by_object = config.masks.object != AUTO or bool(config.masks.series)
    given = by_object or bool(config.masks.column or config.masks.folder or config.masks.labels)
    return config.task == "segmentation" or (config.task == "auto" and given)


def _has_classes(config: PrepareConfig) -> bool:
    by_column = bool(config.labels.class_column) or (
        config.reader == "npz" and not config.labels.label_columns
    )
    return (config.reader in ONLY_CLASSES or by_column) and not _masks_wanted(config)


def _has_labels(config: PrepareConfig) -> bool:
    return not config.labels.class_column and not _masks_wanted(config)


def _masks_per_label(config: PrepareConfig) -> bool:
    return _masks_wanted(config) and not config.masks.column


_ANY = Effect()
_OF_OBJECTS = Effect(("dicom",), _masks_per_label, "give task segmentation, and no mask_column")
_OF_CLASSES = Effect((*CLASS_COLUMN, *ONLY_CLASSES), _has_classes, "give class_column, and no masks")
_OF_LABELS = Effect(GRADED, _has_labels, "give label_columns in place of class_column and masks")
_OF_SITES = Effect(
    (), lambda c: c.sites.mode in ("iid", *SKEWED), "give site_mode iid, label-skew or attribute-skew"
)
_OF_SEX = (
    *("csv", "dicom", BIDS, "totalsegmentator"),
    *(
        "nih",
        "chexpert",
        "mimic",
        "padchest",
        "ham10000",
        "isic-2019",
        "isic-2020",
        "pad-ufes",
        "brset",
        "odir",
    ),
)

EFFECTS: dict[str, Effect] = {
    "reader": _ANY,
    "name": _ANY,
    "task": _ANY,  # compared with the source's task: refuse_by_source
    "table": Effect(("dicom", "csv", "npz", "siim", *ONE_TABLE, BIDS, "totalsegmentator")),
    "crosswalks": Effect(("dicom",)),
    "require": Effect((*ROWS, "siim", "dicom", BIDS, "totalsegmentator")),
    "image_column": Effect(("csv",)),
    "image_folder": Effect((*ROWS, "siim", "pairs")),
    "patient_column": Effect(("csv", "npz")),
    "study_column": Effect(("csv",)),
    "site_column": Effect(
        (), lambda c: c.sites.mode in ("column", "attribute-skew"), "give site_mode column or attribute-skew"
    ),
    "split_column": Effect(("csv",), lambda c: c.split.rule == "published", "give split published"),
    "label_columns": Effect(LABEL_COLUMNS, _has_labels, "leave class_column and masks out"),
    "class_column": Effect(CLASS_COLUMN, lambda c: not _masks_wanted(c), "leave the masks out"),
    "classes": _OF_CLASSES,
    "positive": Effect(
        _OF_CLASSES.readers,
        lambda c: _has_classes(c) and not c.labels.malignant,
        "give class_column, and no masks",
    ),
    "positive_name": Effect(
        _OF_CLASSES.readers, lambda c: bool(c.labels.positive), "give positive: the classes to merge"
    ),
    "positive_from": _OF_LABELS,
    "uncertain": _OF_LABELS,
    "blank": _OF_LABELS,
    "several_rows": Effect(ROWS, lambda c: not _masks_wanted(c), "leave the masks out"),
    "sex_column": Effect(("csv", "npz", BIDS)),
    "age_column": Effect(("csv", "npz", BIDS)),
    "sex_codes": Effect(_OF_SEX),
    "attribute_columns": Effect((*ROWS, "npz", "dicom", BIDS, "totalsegmentator")),
    "mask_column": Effect(("csv", "dicom"), _masks_wanted, "give task segmentation"),
    "mask_folder": Effect(
        ("csv", "pairs", "bids"),
        lambda c: _masks_wanted(c) and not c.masks.column,
        "give task segmentation, and no mask_column",
    ),
    "mask_labels": Effect(MASKED, _masks_wanted, "give task segmentation"),
    "mask_empty": Effect(
        ("csv", "dicom", "bids", "totalsegmentator"), _masks_wanted, "give task segmentation and masks"
    ),
    "mask_object": _OF_OBJECTS,
    "mask_series": _OF_OBJECTS,
    "mask_overlap": Effect(MASK_PER_LABEL, _masks_per_label, "give task segmentation, and no mask_column"),
    "malignant": Effect(MERGED),
    "laterality": _ANY,  # its names are compared with the labels: refuse_by_source
    "entities": Effect(("bids",)),
    "modalities": Effect(("dicom",)),
    "trusted": Effect(("dicom",)),
    "allow_missing": _ANY,
    "synthetic": _ANY,
    "spatial_dims": _ANY,  # compared with the source: refuse_by_source
    "size": _ANY,
    "aspect": Effect((), lambda c: bool(c.images.size), "give size"),
    "spacing_mm": _ANY,  # of volumes only: refuse_by_source
    "window": Effect((), lambda c: c.images.intensity not in ("format", "image"), "give intensity window"),
    "bits": _ANY,  # not of volumes in the units of a window: refuse_by_source
    "color": _ANY,
    "channels": Effect(CHANNELS),
    "intensity": _ANY,
    "split": _ANY,
    "fractions": _ANY,
    "split_from": _ANY,
    "sites": _OF_SITES,
    "site_mode": _ANY,
    "site_fractions": _OF_SITES,
    "site_alpha": Effect((), lambda c: c.sites.mode in SKEWED, "give site_mode label-skew or attribute-skew"),
    "seed": _ANY,
    "limit": _ANY,
    "duplicates": _ANY,
    "dry_run": _ANY,
    "overwrite": _ANY,
    "resume": _ANY,
    "strict": _ANY,
    "workers": _ANY,
}


def refuse_without_effect(config: PrepareConfig) -> None:
    """Refuse every setting that differs from its default and has no effect with the other settings.

    Raises:
        ConfigError: names the setting and what would give it an effect.
    """
    for name in settings.index(PrepareConfig):
        effect = EFFECTS[name]
        if settings.value_of(config, name) == settings.default_of(PrepareConfig, name):
            continue
        # Settings that another package's reader uses are unknown; auto is resolved when the source is read.
        ours = config.reader in READER_NAMES
        if effect.readers and ours and config.reader not in effect.readers:
            raise _without_effect(
                name, f"reader {config.reader}", f"readers that use it: {', '.join(effect.readers)}"
            )
        if effect.needs is not None and not effect.needs(config):
            raise _without_effect(name, "these settings", effect.fix)


def refuse_by_source(
    config: PrepareConfig, *, task: TaskKind, spatial_dims: int, labels: tuple[str, ...], channels: int = 0
) -> None:
    """Refuse settings that have no effect for the source that was read.

    Args:
        config: the settings.
        task: task of the source.
        spatial_dims: 2 or 3.
        labels: label names.
        channels: number of channels that are images of their own; 0 for grey or colour images.

    Raises:
        ConfigError: names the setting and what would give it an effect.
    """
    if config.task not in ("auto", str(task)):
        raise _without_effect("task", f"reader {config.reader}", f"this source gives the task {task}")
    if config.images.spacing_mm and spatial_dims == 2:
        raise _without_effect("spacing_mm", "pictures", "give size, or spatial_dims 3 for volumes")
    if config.images.aspect != "stretch" and spatial_dims == 3:
        raise _without_effect(
            "aspect", "volumes", "give spacing_mm with size: the result is then cropped or padded"
        )
    window = config.images.window
    if len(window) > 2 and len(window) != 2 * channels:
        what = f"one window, or one for each of {channels or 1} channels"
        raise ConfigError(expected(what, got=f"{len(window)} numbers", where="window"))
    if config.images.channels and spatial_dims == 2:
        raise _without_effect("channels", "pictures", "give color grey or rgb")
    if config.images.color == "rgb" and channels > 1:
        raise _without_effect("color", "channels that are images of their own", "choose some with channels")
    if config.images.bits != 8 and spatial_dims == 3 and len(window) == 2:
        raise _without_effect(
            "bits", "volumes with a window, which keep its units", "leave it out, or give intensity image"
        )
    for side in (side for pair in config.labels.laterality for side in pair.split("=", 1)):
        if side not in labels:
            raise _without_effect("laterality", "this source", "name pairs of its labels, each left=right")


def _without_effect(name: str, where: str, fix: str) -> ConfigError:
    return ConfigError(problem(f"{name} has no effect with {where}", where=name, fix=fix))
