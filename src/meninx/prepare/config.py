"""Settings of `meninx prepare`, and which of them have an effect beside which others.

Every field of :class:`PrepareConfig` stands in :data:`EFFECTS`. A field that is named there with readers has an
effect with these alone; one with a condition has an effect only where it holds. A setting without an effect is
refused, because the user meant something by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from meninx.core import check, names, plugins
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.core.settings import Settings

pass

READER_NAMES = (
    "dicom", "folder", "pairs", "csv", "npz", "nih", "chexpert", "mimic", "siim", "ham10000", "radimagenet", "msd", "brset",
    "pad-ufes",
)  # fmt: skip
AUTO = "auto"
# Fields that change what is written for one case; a change of any other field leaves finished images as they
# are.
PIXEL_FIELDS = (
    "task", "spatial_dims", "size", "aspect", "spacing_mm", "window", "bits", "color", "intensity", "mask_labels", "mask_empty",
)  # fmt: skip
# Fields that change how the work is done, not what comes out.
WORK_FIELDS = ("dry_run", "overwrite", "resume", "strict", "workers")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """Settings of `meninx prepare`: from a published layout or de-identified DICOM to a dataset folder.

    Paths may hold ``{source}`` (the source folder) and ``{site}`` (its site name); relative ones start at the
    source.

    Attributes:
        reader: layout of the source: dicom, folder, pairs, csv, npz, nih, chexpert, mimic, siim, ham10000,
            radimagenet, msd, brset or pad-ufes.
        name: short name of the dataset; pseudonyms of cases depend on it.
        task: auto, multiclass, multilabel or segmentation; auto follows from the columns and masks given.
        table: label table (CSV); empty for the name that the layout publishes.
        crosswalks: CSV files with columns id_old,id_new that turn the table's original identifiers into clean
            ones (dicom).
        require: rows to keep, each ``column=value`` or ``column=one|other``; all must hold.
        image_column: column of the image's path or array name (csv).
        image_folder: folder of the images below the source (csv, pairs).
        patient_column: column of the patient's identifier (csv) or name of its array (npz).
        study_column: column of the study (csv).
        site_column: column or attribute with the site (site_mode column), or that skews the sites
            (attribute-skew).
        split_column: column with the published split (csv).
        label_columns: label columns to take, in output order; empty for all that the layout publishes.
        class_column: column with one class per row, in place of label columns (csv, npz, dicom, brset).
        classes: the classes and their order; empty for all that occur, sorted.
        positive: classes that together make one yes-or-no label.
        positive_name: name of that label.
        positive_from: smallest grade that counts as positive, for graded labels (3 where 1-2 are negative and
            3-4 positive).
        uncertain: what a label of -1 becomes: unknown, zero or one.
        blank: what an empty label becomes: unknown, zero, or auto (zero for chexpert and mimic, else
            unknown).
        sex_column: column of the patient's sex; F, M, female, male are understood.
        age_column: column of the age in years; 57, 57.0 and 057Y are understood.
        sex_codes: further codes of sex, each ``code=F`` or ``code=M``.
        attribute_columns: further columns to carry along as attributes, never model input.
        mask_column: column with the mask's path (csv, dicom).
        mask_folder: folder with masks named like the images (csv), or of the label maps (pairs).
        mask_labels: names of the mask values 1, 2, ...; a mask of 0 and 255 counts as one label.
        mask_empty: what a case without a mask becomes in segmentation: skip, or zero (nothing to see).
        malignant: merge the diagnoses into one label malignant (ham10000: akiec, bcc, mel; pad-ufes: BCC,
            MEL, SCC).
        laterality: pairs of labels that a left-right flip exchanges, each ``left=right``.
        modalities: DICOM modalities to take; empty for all single images in 2-D, and CT, MR, PT in 3-D.
        trusted: take DICOM files that do not say PatientIdentityRemoved YES.
        synthetic: the images are of no patients.
        spatial_dims: 2, 3, or 0 to follow the source.
        size: output size along each spatial axis (rows, columns or x, y, z); one number for all; empty keeps
            the size.
        aspect: how an image meets the size: stretch, or pad (keeps proportions, fills with the lowest value;
            2-D).
        spacing_mm: voxel spacing to resample volumes to; with size, the result is then cropped or padded
            about its centre.
        window: lowest and highest value kept, e.g. -150 and 200 Hounsfield units; empty for none.
        bits: bit depth of the written images: 8 or 16.
        color: grey or rgb.
        intensity: where normalisation comes from: auto, format (bit depth), window, image (0.5 and 99.5
            percentile of each image), or train (mean and deviation of the training split; refused by private
            training).
        split: stable (a patient's split never changes), exact (fractions within one patient), published.
        fractions: shares of train, valid and test.
        split_from: dataset folder whose patients keep their split there.
        sites: names of the sites to make; empty keeps those of the source.
        site_mode: source, iid, label-skew, attribute-skew, or column.
        site_fractions: share of each site; empty for equal shares.
        site_alpha: concentration of the Dirichlet draw of the skewed modes; small means strong skew.
        seed: drives splits and sites.
        limit: at most this many cases, whole patients; 0 for all.
        duplicates: the same image of two patients: refuse (stop), or drop (leave out every copy).
        dry_run: read tables and headers, count, write nothing.
        overwrite: replace the dataset in the output folder, once the new one is complete.
        resume: bring the dataset in the output folder up to date, with the same settings; finished images are
            taken over.
        strict: stop at the first case that cannot be used, instead of counting it.
        workers: processes that prepare images; 0 for one per core.
    """

    reader: str = "dicom"
    name: str = "dataset"
    task: str = AUTO
    table: str = ""
    crosswalks: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    image_column: str = "file"
    image_folder: str = "images"
    patient_column: str = "patient_id"
    study_column: str = ""
    site_column: str = ""
    split_column: str = ""
    label_columns: tuple[str, ...] = ()
    class_column: str = ""
    classes: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    positive_name: str = "positive"
    positive_from: float | None = None
    uncertain: str = "unknown"
    blank: str = AUTO
    sex_column: str = "sex"
    age_column: str = "age"
    sex_codes: tuple[str, ...] = ()
    attribute_columns: tuple[str, ...] = ()
    mask_column: str = ""
    mask_folder: str = ""
    mask_labels: tuple[str, ...] = ()
    mask_empty: str = "skip"
    malignant: bool = False
    laterality: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    trusted: bool = False
    synthetic: bool = False
    spatial_dims: int = 0
    size: tuple[int, ...] = ()
    aspect: str = "stretch"
    spacing_mm: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    bits: int = 8
    color: str = "grey"
    intensity: str = AUTO
    split: str = "stable"
    fractions: tuple[float, ...] = (0.7, 0.1, 0.2)
    split_from: str = ""
    sites: tuple[str, ...] = ()
    site_mode: str = "source"
    site_fractions: tuple[float, ...] = ()
    site_alpha: float = 1.0
    seed: int = 0
    limit: int = 0
    duplicates: str = "refuse"
    dry_run: bool = False
    overwrite: bool = False
    resume: bool = False
    strict: bool = False
    workers: int = 1

    def check_rules(self) -> None:
        """Refuse settings that contradict each other or have no effect."""
        self._check_words()
        self._check_pixels()
        self._check_shares()
        for name in ("require", "laterality", "sex_codes"):
            for item in getattr(self, name):
                if "=" not in item:
                    raise ConfigError(expected(f"{name} as name=value", got=repr(item), where=name))
        if self.resume and self.overwrite:
            raise ConfigError(
                problem("resume and overwrite exclude each other", where="resume", fix="choose one")
            )
        self._check_names()
        refuse_without_effect(self)

    def _check_names(self) -> None:
        written = (
            self.name,
            self.positive_name,
            *self.sites,
            *self.classes,
            *self.label_columns,
            *self.mask_labels,
        )
        for name in (*written, *self.attribute_columns):
            found = names.problem(name)
            if found:
                raise ConfigError(
                    expected("plain names of dataset, labels, attributes and sites", got=found, where="names")
                )

    def _check_words(self) -> None:
        check.one_of((*READER_NAMES, *plugins.names(plugins.READERS)), reader=self.reader)
        check.one_of((AUTO, *(str(task) for task in TaskKind)), task=self.task)
        check.one_of(("unknown", "zero", "one"), uncertain=self.uncertain)
        check.one_of(("unknown", "zero", AUTO), blank=self.blank)
        check.one_of(("skip", "zero"), mask_empty=self.mask_empty)
        check.one_of(("stretch", "pad"), aspect=self.aspect)
        check.one_of(("grey", "rgb"), color=self.color)
        check.one_of((AUTO, "format", "window", "image", "train"), intensity=self.intensity)
        check.one_of(("stable", "exact", "published"), split=self.split)
        check.one_of(("source", "iid", "label-skew", "attribute-skew", "column"), site_mode=self.site_mode)
        check.one_of(("refuse", "drop"), duplicates=self.duplicates)

    def _check_pixels(self) -> None:
        if self.bits not in (8, 16):
            raise ConfigError(expected("bits of 8 or 16", got=self.bits, where="bits"))
        if self.bits == 16 and self.color == "rgb":
            raise ConfigError(
                problem(
                    "colour images have 8 bits per channel, not 16",
                    where="bits",
                    fix="give color grey, or bits 8",
                )
            )
        if self.spatial_dims not in (0, 2, 3):
            raise ConfigError(
                expected("spatial_dims of 0, 2 or 3", got=self.spatial_dims, where="spatial_dims")
            )
        for name, values in (("size", self.size), ("spacing_mm", self.spacing_mm)):
            if len(values) not in (0, 1, 2, 3) or any(value <= 0 for value in values):
                raise ConfigError(expected(f"{name} of one to three numbers > 0", got=values, where=name))
        if self.window and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise ConfigError(expected("window as lowest and highest value", got=self.window, where="window"))
        if self.intensity == "window" and not self.window:
            raise ConfigError(
                problem(
                    "intensity window needs a window", where="intensity", fix="give window, or intensity auto"
                )
            )

    def _check_shares(self) -> None:
        check.non_negative(limit=self.limit, workers=self.workers)
        check.positive(site_alpha=self.site_alpha)
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(
                expected("three shares >= 0 that sum to 1", got=self.fractions, where="fractions")
            )
        if self.site_mode in ("iid", "label-skew", "attribute-skew") and len(self.sites) < 2:
            raise ConfigError(
                expected("two or more sites", got=self.sites, where="sites", fix="name the sites to make")
            )
        if self.site_mode in ("attribute-skew", "column") and not self.site_column:
            raise ConfigError(
                problem(
                    "this site_mode needs a site_column",
                    where="site_column",
                    fix="name the column or attribute",
                )
            )
        shares = self.site_fractions
        if shares and (len(shares) != len(self.sites) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
            raise ConfigError(expected("a share > 0 a site, sum 1", got=shares, where="site_fractions"))
        if self.split_from and self.split == "published":
            raise ConfigError(
                problem(
                    "split_from and published splits exclude each other", where="split_from", fix="choose one"
                )
            )
        if len(set(self.sites)) != len(self.sites):
            raise ConfigError(expected("each site once", got=self.sites, where="sites"))


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
    "task": _ANY,  # compared with what the source gives: refuse_by_source
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
    "laterality": _ANY,  # its names are compared with the labels: refuse_by_source
    "modalities": Effect(("dicom",)),
    "trusted": Effect(("dicom",)),
    "synthetic": _ANY,
    "spatial_dims": _ANY,  # compared with the source: refuse_by_source
    "size": _ANY,
    "aspect": Effect((), lambda c: bool(c.size), "give size"),
    "spacing_mm": _ANY,  # of volumes alone: refuse_by_source
    "window": Effect((), lambda c: c.intensity not in ("format", "image"), "give intensity window"),
    "bits": _ANY,  # not of volumes in the units of a window: refuse_by_source
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


def refuse_without_effect(config: PrepareConfig) -> None:
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


def refuse_by_source(
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
    return ConfigError(problem(f"{name} has no effect with {where}", where=name, fix=fix))
