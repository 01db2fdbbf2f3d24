"""The tables of the settings of `meninx prepare`, one class for each table of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from meninx.core import names
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import Count, CountOrZero, Positive, PositiveShare, Share
from meninx.core.settings import Settings, flat

AUTO: Literal["auto"] = "auto"
SKEWED = ("label-skew", "attribute-skew")


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
        refuse_names(self.positive_name, *self.classes, *self.label_columns, *self.attribute_columns)


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
        refuse_names(*self.labels)


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
        refuse_names(*self.channels)
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
        refuse_names(*self.names)
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
        dry_run: read tables, headers and the first pictures, count, write nothing.
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


def _refuse_without_value(**settings_of: tuple[str, ...]) -> None:
    for name, items in settings_of.items():
        for item in items:
            if "=" not in item:
                raise ConfigError(expected(f"{name} as name=value", got=repr(item), where=name))


def refuse_names(*written: str) -> None:
    """Refuse names of a dataset, label, attribute or site that another program would take for something else.

    Raises:
        ConfigError: a name is not plain.
    """
    for name in written:
        found = names.problem(name)
        if found:
            raise ConfigError(
                expected("plain names of dataset, labels, attributes and sites", got=found, where="names")
            )
