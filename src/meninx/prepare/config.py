"""Settings of `meninx prepare`, and the conditions under which each has an effect.

Every field of :class:`PrepareConfig` is listed in :data:`EFFECTS`. A field that is listed with readers has an
effect with these readers only. A field with a condition has an effect only if the condition holds. A setting
without an effect is refused, because the user expects one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from meninx.core import check, names, plugins, settings
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.core.setting_types import Count, CountOrZero, Positive, PositiveShare, Share
from meninx.core.settings import Settings, flat

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
    "nih",
    "chexpert",
    "mimic",
    "padchest",
    "rsna-pneumonia",
    "vindr-cxr",
    "radimagenet",
    "ham10000",
    "isic-2018",
    "isic-2019",
    "isic-2020",
    "pad-ufes",
    "brset",
    "odir",
)
AUTO: Literal["auto"] = "auto"
ReaderName = Annotated[str, Meta(examples=[AUTO, *READER_NAMES])]  # packages may offer more
# Fields that change what is written for one case; a change of any other field leaves finished images as they
# are.
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
# Fields that change how the work is done, not what comes out.
WORK_FIELDS = ("dry_run", "overwrite", "resume", "strict", "workers")


@dataclass(frozen=True, kw_only=True)
class InputConfig(Settings):
    """Where images and tables lie below the source, and which of them are taken.

    Attributes:
        table: label table (CSV, TSV or semicolons), relative to the working folder, else to the source; empty
            for the name published with the layout, or for the only table of the source (csv).
        crosswalks: CSV files with columns id_old,id_new that translate original identifiers of the table into
            clean ones (dicom).
        require: rows to use, each ``column=value`` or ``column=one|other``; all conditions must hold.
        image_column: column of the image's name or path (csv); empty for a column with a documented name.
        image_folder: folder of the images below the source; empty for images (csv, pairs) or the source.
        patient_column: column of the patient's identifier (csv), none if the table names no patients, or name
            of its array (npz); empty for a column with a documented name.
        study_column: column of the study (csv).
        entities: BIDS entities of the files to use where several fit, each ``key-value``, e.g. run-1 or
            desc-manual; ``key-`` for files without it; suffix-dseg or suffix-mask for a kind of masks (bids).
        modalities: DICOM modalities to use; empty for all single images in 2-D, and CT, MR, PT in 3-D.
        trusted: accept DICOM files without PatientIdentityRemoved YES.
        allow_missing: share of images or masks of the table that may be missing; more is an error.
    """

    table: str = ""
    crosswalks: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    image_column: str = ""
    image_folder: str = ""
    patient_column: str = ""
    study_column: str = ""
    entities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    trusted: bool = False
    allow_missing: Share = 0.05

    def check_rules(self) -> None:
        """Refuse conditions on rows that name no value."""
        _refuse_without_value(require=self.require)
        for entity in self.entities:
            if not re.fullmatch(r"[A-Za-z0-9]+-[A-Za-z0-9+]*", entity):
                raise ConfigError(expected("entities as key-value", got=repr(entity), where="entities"))


@dataclass(frozen=True, kw_only=True)
class LabelsConfig(Settings):
    """What is learnt from the table, and what is carried along.

    Attributes:
        label_columns: label columns to use, in output order; empty for all columns published with the layout.
        class_column: column with one class per row, instead of label columns.
        classes: the classes and their order; empty for all classes in the data, sorted.
        positive: classes that are merged into one yes-or-no label.
        positive_name: name of that label.
        positive_from: smallest grade that counts as positive, for graded labels (3 where 1-2 are negative and
            3-4 positive).
        uncertain: what a label of -1 becomes: unknown, zero or one.
        blank: what an empty label becomes: unknown, zero, or auto (zero for chexpert and mimic, else
            unknown).
        several_rows: how rows of one image become one: refuse, any (a label is 1 if one row says so),
            majority (of the rows with a value; unknown if they are even), or auto (any for rsna-pneumonia,
            majority for vindr-cxr, else refuse).
        malignant: merge the diagnoses into one label malignant (ham10000: akiec, bcc, mel; isic-2018: AKIEC,
            BCC, MEL; isic-2019 and pad-ufes: BCC, MEL, SCC).
        laterality: pairs of labels that a left-right flip exchanges, each ``left=right``.
        sex_column: column of the patient's sex; accepted values are F, M, female and male.
        age_column: column of the age in years; accepted forms are 57, 57.0 and 057Y.
        sex_codes: further codes of sex, each ``code=F`` or ``code=M``.
        attribute_columns: further columns to keep as attributes; they are never model input.
    """

    label_columns: tuple[str, ...] = ()
    class_column: str = ""
    classes: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    positive_name: str = "positive"
    positive_from: float | None = None
    uncertain: Literal["unknown", "zero", "one"] = "unknown"
    blank: Literal["unknown", "zero", "auto"] = AUTO
    several_rows: Literal["auto", "refuse", "any", "majority"] = AUTO
    malignant: bool = False
    laterality: tuple[str, ...] = ()
    sex_column: str = "sex"
    age_column: str = "age"
    sex_codes: tuple[str, ...] = ()
    attribute_columns: tuple[str, ...] = ()

    def check_rules(self) -> None:
        """Refuse entries that name no value, and names that are none."""
        _refuse_without_value(laterality=self.laterality, sex_codes=self.sex_codes)
        _refuse_names(self.positive_name, *self.classes, *self.label_columns, *self.attribute_columns)


@dataclass(frozen=True, kw_only=True)
class MasksConfig(Settings):
    """Where the masks of a segmentation are.

    Attributes:
        column: column with the mask's path (csv, dicom).
        folder: folder with masks named like the images (csv), of the label maps (pairs), or of the pipeline
            that made them, e.g. derivatives/manual (bids).
        labels: labels and their order. Where the source names its labels: some of these names, each also as
            ``new=old``; the others become background. Elsewhere: names of the mask values 1, 2, ..., or each
            ``name=value``; a mask of 0 and 255 counts as one label.
        empty: treatment of a case without a mask in segmentation: skip, or zero (an empty mask).
        object: kind of DICOM objects that hold the masks, where an image has both: seg, rtstruct, or auto
            (dicom).
        series: SeriesDescription, ContentLabel or StructureSetLabel of the objects that hold the masks, where
            an image has several (dicom).
        overlap: treatment of voxels that two labels claim, where each label has a mask of its own: refuse, or
            last (the later one in mask_labels counts).
    """

    column: str = field(default="", metadata=flat("mask_column"))
    folder: str = field(default="", metadata=flat("mask_folder"))
    labels: tuple[str, ...] = field(default=(), metadata=flat("mask_labels"))
    empty: Literal["skip", "zero"] = field(default="skip", metadata=flat("mask_empty"))
    object: Literal["auto", "seg", "rtstruct"] = field(default=AUTO, metadata=flat("mask_object"))
    series: str = field(default="", metadata=flat("mask_series"))
    overlap: Literal["refuse", "last"] = field(default="refuse", metadata=flat("mask_overlap"))

    def check_rules(self) -> None:
        """Refuse names of mask values that are none."""
        _refuse_names(*self.labels)


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Settings):
    """What is written for each image.

    Attributes:
        spatial_dims: 2, 3, or 0 to follow the source.
        size: output size along each spatial axis (rows, columns or x, y, z); one number for all axes; empty
            keeps the size.
        aspect: how an image is fitted to the size: stretch, or pad (keeps proportions, fills with the lowest
            value; 2-D).
        spacing_mm: voxel spacing after resampling volumes; with size, the result is then cropped or padded
            about its centre.
        window: lowest and highest value kept, e.g. -150 and 200 Hounsfield units, or these two for each
            channel; empty for none.
        bits: bit depth of the written images: 8 or 16.
        color: grey, rgb, or auto (rgb for pictures in colour, else grey; pictures of both kinds are refused).
        channels: channels that are images of their own, and their order: some of those that the source names
            (nnunet, msd, brats, bids), or names of the fourth axis of volumes (pairs, csv, folder). Each is
            scaled alone.
        intensity: source of the normalisation: auto, format (bit depth), window, image (0.5 and 99.5
            percentile of each image), or train (mean and deviation of the training split; refused by private
            training).
    """

    spatial_dims: Literal[0, 2, 3] = 0
    size: tuple[Count, ...] = ()
    aspect: Literal["stretch", "pad"] = "stretch"
    spacing_mm: tuple[Positive, ...] = ()
    window: tuple[float, ...] = ()
    bits: Literal[8, 16] = 8
    color: Literal["auto", "grey", "rgb"] = AUTO
    channels: tuple[str, ...] = ()
    intensity: Literal["auto", "format", "window", "image", "train"] = AUTO

    def check_rules(self) -> None:
        """Refuse sizes, windows and bit depths that do not go together."""
        if self.bits == 16 and self.color == "rgb":
            raise ConfigError(
                problem(
                    "colour images have 8 bits per channel, not 16",
                    where="bits",
                    fix="give color grey, or bits 8",
                )
            )
        for name, values in (("size", self.size), ("spacing_mm", self.spacing_mm)):
            if len(values) > 3:
                raise ConfigError(expected(f"{name} of one to three numbers > 0", got=values, where=name))
        pairs = list(zip(self.window[::2], self.window[1::2], strict=False))
        if len(self.window) % 2 or not all(low < high for low, high in pairs):
            raise ConfigError(expected("window as lowest and highest value", got=self.window, where="window"))
        _refuse_names(*self.channels)
        if len(set(self.channels)) != len(self.channels):
            raise ConfigError(expected("each channel once", got=self.channels, where="channels"))
        if self.intensity == "window" and not self.window:
            raise ConfigError(
                problem(
                    "intensity window needs a window", where="intensity", fix="give window, or intensity auto"
                )
            )


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Settings):
    """Which patients train, validate and test.

    Attributes:
        rule: stable (a patient's split never changes), exact (fractions exact to one patient), or published.
        fractions: shares of train, valid and test.
        from_dataset: dataset folder whose patients keep their split.
        column: column with the published split (csv).
    """

    rule: Literal["stable", "exact", "published"] = field(default="stable", metadata=flat("split"))
    fractions: tuple[Share, ...] = (0.7, 0.1, 0.2)
    from_dataset: str = field(default="", metadata=flat("split_from"))
    column: str = field(default="", metadata=flat("split_column"))

    def check_rules(self) -> None:
        """Refuse shares that are not of one whole, and two sources of the splits."""
        if len(self.fractions) != 3 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(
                expected("three shares >= 0 that sum to 1", got=self.fractions, where="fractions")
            )
        if self.from_dataset and self.rule == "published":
            raise ConfigError(
                problem(
                    "split_from and published splits exclude each other", where="split_from", fix="choose one"
                )
            )


@dataclass(frozen=True, kw_only=True)
class SitesConfig(Settings):
    """Which hospital each patient belongs to.

    Attributes:
        names: names of the sites to create; empty keeps those of the source.
        mode: source, iid, label-skew, attribute-skew, or column.
        fractions: share of each site; empty for equal shares.
        alpha: concentration of the Dirichlet distribution of the skewed modes; small values give strong skew.
        column: column or attribute with the site (site_mode column), or that skews the sites
            (attribute-skew).
    """

    names: tuple[str, ...] = field(default=(), metadata=flat("sites"))
    mode: Literal["source", "iid", "label-skew", "attribute-skew", "column"] = field(
        default="source", metadata=flat("site_mode")
    )
    fractions: tuple[PositiveShare, ...] = field(default=(), metadata=flat("site_fractions"))
    alpha: Positive = field(default=1.0, metadata=flat("site_alpha"))
    column: str = field(default="", metadata=flat("site_column"))

    def check_rules(self) -> None:
        """Refuse modes without the sites, column or shares that they need."""
        _refuse_names(*self.names)
        if self.mode in ("iid", "label-skew", "attribute-skew") and len(self.names) < 2:
            raise ConfigError(
                expected("two or more sites", got=self.names, where="sites", fix="name the sites to make")
            )
        if self.mode in ("attribute-skew", "column") and not self.column:
            raise ConfigError(
                problem(
                    "this site_mode needs a site_column",
                    where="site_column",
                    fix="name the column or attribute",
                )
            )
        shares = self.fractions
        if shares and (len(shares) != len(self.names) or abs(sum(shares) - 1) > 1e-6):
            raise ConfigError(expected("one share > 0 per site, sum 1", got=shares, where="site_fractions"))
        if len(set(self.names)) != len(self.names):
            raise ConfigError(expected("each site once", got=self.names, where="sites"))


@dataclass(frozen=True, kw_only=True)
class WorkConfig(Settings):
    """How the work is done, not what comes out.

    Attributes:
        dry_run: read tables and headers, count, write nothing.
        overwrite: replace the dataset in the output folder, once the new one is complete.
        resume: update the dataset in the output folder with the same settings; finished images are reused.
        strict: stop at the first unusable case, instead of counting it.
        workers: processes that prepare images; 0 for one per core.
    """

    dry_run: bool = False
    overwrite: bool = False
    resume: bool = False
    strict: bool = False
    workers: CountOrZero = 1

    def check_rules(self) -> None:
        """Refuse to go on and to begin anew at once."""
        if self.resume and self.overwrite:
            raise ConfigError(
                problem("resume and overwrite exclude each other", where="resume", fix="choose one")
            )


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
        """Refuse settings that have no effect beside the others."""
        check.one_of((AUTO, *READER_NAMES, *plugins.names(plugins.READERS)), reader=self.reader)
        _refuse_names(self.name)
        refuse_without_effect(self)


def _refuse_without_value(**settings_of: tuple[str, ...]) -> None:
    for name, items in settings_of.items():
        for item in items:
            if "=" not in item:
                raise ConfigError(expected(f"{name} as name=value", got=repr(item), where=name))


def _refuse_names(*written: str) -> None:
    for name in written:
        found = names.problem(name)
        if found:
            raise ConfigError(
                expected("plain names of dataset, labels, attributes and sites", got=found, where="names")
            )


SKEWED = ("label-skew", "attribute-skew")
BIDS = "bids"
_FINDINGS = ("nih", "padchest")  # one column with all findings
_ONE_HOT = ("isic-2018", "isic-2019")  # one column per class
_LABELLED = ("chexpert", "mimic", "rsna-pneumonia", "vindr-cxr", "isic-2020", "brset", "odir")
PUBLISHED = (*_FINDINGS, *_LABELLED, *_ONE_HOT, "ham10000", "radimagenet", "pad-ufes")
ROWS = ("csv", *PUBLISHED)  # read by readers.layout
ONE_TABLE = tuple(
    name for name in PUBLISHED if name not in ("chexpert", "vindr-cxr", "radimagenet", "isic-2018")
)
CLASS_COLUMN = ("csv", "npz", "dicom", "brset", "isic-2020", BIDS)
LABEL_COLUMNS = ("csv", "npz", "dicom", *_FINDINGS, *_LABELLED, BIDS)
ONLY_CLASSES = ("folder", "ham10000", "radimagenet", "pad-ufes", *_ONE_HOT)
GRADED = ("csv", "dicom", *_LABELLED, BIDS)  # label cells are read by values.label
MERGED = ("ham10000", "pad-ufes", *_ONE_HOT)
MASKED = ("csv", "dicom", "pairs", "msd", "nnunet", "brats", BIDS, "totalsegmentator")
MASK_PER_LABEL = ("dicom", BIDS, "totalsegmentator")  # each label may have a mask of its own
ONLY_MASKS = ("pairs", "msd", "nnunet", "brats", "totalsegmentator")  # layouts of segmentations
CHANNELS = ("msd", "nnunet", "brats", BIDS, "pairs", "csv", "folder")


@dataclass(frozen=True)
class Effect:
    """Where a setting has an effect.

    Attributes:
        readers: the readers that use it; empty for all.
        needs: whether the other settings give it an effect; None if it always has one.
        fix: the setting that would give it an effect.
    """

    readers: tuple[str, ...] = ()
    needs: Callable[[PrepareConfig], bool] | None = None
    fix: str = ""


def segments_of_bids(config: PrepareConfig) -> bool:
    """Return whether a BIDS dataset is read for its masks: unless columns of its table are asked for."""
    asked = bool(config.labels.class_column or config.labels.label_columns)
    return config.task == "segmentation" or (config.task == AUTO and not asked)


def _masks_wanted(config: PrepareConfig) -> bool:
    """Return whether masks are what is learnt, for a reader that leaves it to the config."""
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
    *("csv", "dicom", "nih", "chexpert", "mimic", "padchest", "ham10000", "isic-2019", "isic-2020"),
    *("pad-ufes", "brset", "odir", BIDS, "totalsegmentator"),
)

EFFECTS: dict[str, Effect] = {
    "reader": _ANY,
    "name": _ANY,
    "task": _ANY,  # compared with what the source gives: refuse_by_source
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
    "spacing_mm": _ANY,  # of volumes alone: refuse_by_source
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
    """Refuse every setting that is not at its default and has no effect beside the others.

    Raises:
        ConfigError: names the setting and what would give it an effect.
    """
    for name in settings.index(PrepareConfig):
        effect = EFFECTS[name]
        if settings.value_of(config, name) == settings.default_of(PrepareConfig, name):
            continue
        # What a reader of another package uses is not known. Auto becomes a reader once the source is seen.
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
    """Refuse settings that the source gives no effect, once it has been looked at.

    Args:
        config: the settings.
        task: what the source asks.
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
