"""Settings of the stages as keyword arguments, for completion and type checkers. Written by `make docs`.

Every setting is described in docs/reference/settings.md, and in the ``Attributes:`` of its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class InputTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.InputConfig``."""

    table: str
    crosswalks: Sequence[str]
    require: Sequence[str]
    image_column: str
    image_folder: str
    patient_column: str
    study_column: str
    entities: Sequence[str]
    modalities: Sequence[str]
    trusted: bool
    allow_missing: float


class LabelsTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.LabelsConfig``."""

    label_columns: Sequence[str]
    class_column: str
    classes: Sequence[str]
    positive: Sequence[str]
    positive_name: str
    positive_from: float | None
    uncertain: Literal["unknown", "zero", "one"]
    blank: Literal["unknown", "zero", "auto"]
    several_rows: Literal["auto", "refuse", "any", "majority"]
    malignant: bool
    laterality: Sequence[str]
    sex_column: str
    age_column: str
    sex_codes: Sequence[str]
    attribute_columns: Sequence[str]


class MasksTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.MasksConfig``."""

    column: str
    folder: str
    labels: Sequence[str]
    empty: Literal["skip", "zero"]
    object: Literal["auto", "seg", "rtstruct"]
    series: str
    overlap: Literal["refuse", "last"]


class ImagesTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.ImagesConfig``."""

    spatial_dims: Literal[0, 2, 3]
    size: int | Sequence[int]
    aspect: Literal["stretch", "pad"]
    spacing_mm: float | Sequence[float]
    window: float | Sequence[float]
    bits: Literal[8, 16]
    color: Literal["auto", "grey", "rgb"]
    channels: Sequence[str]
    intensity: Literal["auto", "format", "window", "image", "train"]


class SplitTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.SplitConfig``."""

    rule: Literal["stable", "exact", "published"]
    fractions: float | Sequence[float]
    from_dataset: str
    column: str


class SitesTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.SitesConfig``."""

    names: Sequence[str]
    mode: Literal["source", "iid", "label-skew", "attribute-skew", "column"]
    fractions: float | Sequence[float]
    alpha: float
    column: str


class WorkTable(TypedDict, total=False):
    """Settings of ``meninx.prepare.setting_tables.WorkConfig``."""

    dry_run: bool
    overwrite: bool
    resume: bool
    strict: bool
    workers: int


class ModelTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.ModelConfig``."""

    name: str
    options: Mapping[str, Any]
    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    pretrained: str
    pretrained_source: str
    standardize: str
    keep_head: bool
    freeze: str
    unfreeze_every: int
    lora_rank: int
    lora_alpha: float
    functional: Sequence[str]


class TaskTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.TaskConfig``."""

    kind: str
    loss: Literal["auto", "ce", "bce", "focal", "dice", "dice+ce", "dice+bce"]
    focal_gamma: float
    class_weights: Literal["none", "balanced"] | Sequence[float]
    label_smoothing: float


class OptimTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.OptimConfig``."""

    optimizer: Literal["sgd", "momentum", "adam", "adamw", "nadam"]
    lr: float
    head_lr: float
    bias_correction: Literal["auto", "on", "off"]
    bias_floor: float
    weight_decay: float
    momentum: float
    schedule: Literal["constant", "cosine", "plateau", "step", "manual"]
    milestones: int | Sequence[int]
    rates: float | Sequence[float]
    gamma: float
    plateau_patience: int
    warmup: int
    ema: float


class AugmentTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.AugmentConfig``."""

    transforms: Sequence[Literal["flip", "vflip", "zflip", "shift", "rotate", "crop", "intensity"]]
    flip_probability: float
    shift_voxels: int
    rotate_degrees: float
    crop_scale: float
    intensity_strength: float


class SamplingTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.SamplingConfig``."""

    method: Literal["shuffle", "poisson"]
    batch_size: int
    physical_batch: int
    epochs: int
    steps: int
    cases_per_patient: int
    views: int
    foreground: float


class ValidationTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.ValidationConfig``."""

    eval_every: int
    monitor: Literal["metric", "loss"]
    select: Literal["auto", "last", "best"]
    early_stopping: int


class RuntimeTable(TypedDict, total=False):
    """Settings of ``meninx.learn.config.RuntimeConfig``."""

    seed: int
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    memory_format: Literal["auto", "contiguous", "channels_last"]
    deterministic: bool
    threads: int
    workers: Literal["auto"] | int
    cache: str
    attack_risk: bool
    tensorboard: bool


class PrivacyTable(TypedDict, total=False):
    """Settings of ``meninx.train.config.PrivacyConfig``."""

    epsilon: float | None
    noise_multiplier: float | None
    delta: float
    unit: Literal["patient", "case"]
    max_grad_norm: float
    clipping: Literal["flat", "auto-s", "per-layer", "adaptive"]
    clip_quantile: float
    clip_rate: float
    count_noise_multiplier: float
    noise_bands: int
    units_declared: int | None


class PixelNoiseTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.PixelNoise``."""

    pixels: int
    pixel_epsilon: float | None
    block: int | None


class CodeSettingsTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.CodeSettings``."""

    most_codes: int
    levels: int | Sequence[int]
    patients_per_code: int
    folds: int
    utility: Literal["auto", "linear", "network"]
    unknown_attribute: Literal["refuse", "draw"]
    balance: Literal["class", "class-and-labels", "none"]


class ErasureSettingsTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.ErasureSettings``."""

    quadratic: bool
    kernel_features: int
    kernel_width: float | None
    quantise: bool


class ViewmakerSettingsTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.ViewmakerSettings``."""

    network: Literal["slim", "full"]
    residual_blocks: int
    dct: bool
    loss: Literal["adversarial", "entropy", "contrastive"] | None
    task_weight: float | None
    attack_weight: float
    temperature: float
    steps: int
    viewmaker_batch: int
    attackers: int | None
    attacker_steps: int | None
    reset_every: int | None
    viewmaker_rate: float
    attacker_rate: float
    task_rate: float


class ReleaseAuditSettingsTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.ReleaseAuditSettings``."""

    target: float
    attack_epochs: int
    permutations: int
    draws: int
    audit: bool


class AttackSettingsTable(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.AttackSettings``."""

    target: float
    attack_epochs: int
    permutations: int
    draws: int


class PlannedBoundsTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedBounds``."""

    candidates: int | Sequence[int]
    eps_min: float
    eps_max: float
    n_eps: int
    precision: float
    minutes: float


class PlannedOneRunTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedOneRun``."""

    canaries: int
    significance: float
    minutes: float


class PlannedMembershipTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedMembership``."""

    references: int
    control_steps: int
    significance: float
    minutes: float


class PlannedReconstructionTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedReconstruction``."""

    attacks: Sequence[str]
    trials: int
    eps_last: int
    significance: float
    minutes: float


class PlannedAttributesTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedAttributes``."""

    attributes: Sequence[str]
    significance: float
    minutes: float


class PlannedIdentityTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedIdentity``."""

    attacks: Sequence[Literal["pixels", "hog", "siamese"]]
    most_images: int
    significance: float
    minutes: float


class PlannedLimitsTable(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.PlannedLimits``."""

    bound_green: float
    bound_amber: float
    fail_conditions: Sequence[str]


class TermsTable(TypedDict, total=False):
    """Settings of ``meninx.federated.config.TermsConfig``."""

    name: str | None
    recipe: str
    rounds: int
    local_epochs: int
    local_steps: int
    algorithm: str
    mu: float | None
    turns: Literal["site", "batch"]
    local_layers: Sequence[str]
    round_minutes: float
    address: str


class AggregationTable(TypedDict, total=False):
    """Settings of ``meninx.federated.config.AggregationConfig``."""

    method: Literal["masks", "shares", "ckks", "plain"]
    clip: float
    bits: Literal[0, 32, 64]
    max_units: int


class InvitedTable(TypedDict, total=False):
    """Settings of ``meninx.federated.config.InvitedConfig``."""

    names: Sequence[str]


class DataTable(TypedDict, total=False):
    """Settings of ``meninx.federated.config.DataConfig``."""

    task: Literal["multiclass", "multilabel", "segmentation"] | None
    labels: Sequence[str]
    channels: int
    spatial_dims: Literal[2, 3]
    size: int | Sequence[int]
    window: float | Sequence[float]
    shift: float
    scale: float


class DeidSettings(TypedDict, total=False):
    """Settings of ``meninx.deid.config.DeidConfig``.

    Attributes:
        site: name of the hospital; part of a patient's identity and of the key derivation. Use a different
            name for each hospital.
        profile: preset of options: ``research`` (dates shifted, descriptors and structured content cleaned,
            patient characteristics and safe private elements kept) or ``basic`` (the Basic Profile alone).
        options: options of the profile to add to the preset, e.g. ``retain-device``.
        overrides: TOML file of ``Keyword = "action letter"`` lines that take precedence over the profile.
        lookup: CSV file with the hospital's own new patient IDs (and accession numbers); a column ``issuer``
            says whose patient a row means.
        missing_lookup: action for a patient who is not in the lookup file: ``pseudonym`` or ``quarantine``.
        issuers: meaning of an IssuerOfPatientID that ``issuer_domains`` does not list: ``site`` (the site
            numbers its patients together; an ID that two such issuers use is quarantined for the second),
            ``separate`` (every issuer numbers its own patients), or ``listed`` (its files are quarantined).
        issuer_domains: TOML file with the issuers that number their patients together, e.g. ``site =
            ["NORTH-PACS"]`` and ``east = ["EAST", "EAST LAB"]``.
        missing_issuer: action for a file without an issuer: ``site`` (it is the site's own) or
            ``quarantine``.
        registry: file in which the site's identities are registered, shared by all deliveries; beside the key
            by default.
        lookup_out: write ``private/lookup.csv`` in the format that ``lookup`` reads.
        escrow: write ``private/escrow.meninx``, which `meninx reidentify` opens: ``key`` for the holder of
            the site key, or the file of a broker's public key for that broker alone.
        escrow_only: once the escrow is complete, remove everything else that holds originals from
            ``private/``. A later run reads every file again, and must seal the folder again.
        rename: name output files after their new UIDs; otherwise keep the folder structure and replace each
            name by a keyed one.
        workers: processes; 0 chooses by the number of cores and files, 1 uses this process only.
        scheduler: address of a Dask scheduler whose workers take the files, ``tls://host:port``; all machines
            share the file system of source and output (extra ``cluster``).
        scheduler_ca: PEM file of the authority of the cluster's certificates; by default Dask's configuration
            names the files.
        scheduler_cert: PEM file of this client's certificate.
        scheduler_key: PEM file of the key of that certificate.
        max_age: highest age that is kept, in years; older patients get ``max_age + 1`` and no birth date.
        pixels: action for an image that may hold text in its pixels, e.g. an ultrasound, a secondary capture
            or a localizer. ``redact`` searches it, fills every line that is not technical and searches the
            result (needs the extra ``ocr``; without it such images are quarantined). ``quarantine`` keeps
            such images out. ``keep`` writes them unread, marks them PatientIdentityRemoved NO and reports a
            departure.
        search_all: search the pixels of every image, not only of those that may hold text.
        keep_measurements: keep lines that show a measurement, e.g. ``Dist 3.4 cm``; otherwise only settings
            of the device, scales and side markers stay.
        decisions: CSV file with decisions of reviewers, a row per layout of ``private/layouts.jsonl``, as
            ``meninx review`` writes it. Text in the boxes that a row keeps stays in all images of the layout,
            unless it resembles an identifier of the header or cannot be read.
        defacing: ``head`` removes a mask of the face from CT and MR series of the head. A series that may
            show a head and cannot be defaced is quarantined. One that shows none, by its header and its
            pixels, stays as it is. The rest of a head, or the brain itself, may still identify a person.
        dry_run: read and check everything, write nothing.
        resume: continue an interrupted run in the output folder, or add what is new in its source.
        overwrite: replace an earlier result in the output folder, once the new one is complete.
    """

    site: str
    profile: Literal["research", "basic"]
    options: Sequence[
        Literal[
            "retain-uids",
            "retain-device",
            "retain-institution",
            "retain-patient-characteristics",
            "retain-full-dates",
            "retain-modified-dates",
            "clean-descriptors",
            "clean-structured-content",
            "clean-graphics",
            "retain-safe-private",
        ]
    ]
    overrides: str | Path | None
    lookup: str | Path | None
    missing_lookup: Literal["pseudonym", "quarantine"]
    issuers: Literal["site", "separate", "listed"]
    issuer_domains: str | Path | None
    missing_issuer: Literal["site", "quarantine"]
    registry: str | Path | None
    lookup_out: bool
    escrow: str
    escrow_only: bool
    rename: bool
    workers: int
    scheduler: str
    scheduler_ca: str | Path | None
    scheduler_cert: str | Path | None
    scheduler_key: str | Path | None
    max_age: int
    pixels: Literal["redact", "quarantine", "keep"]
    search_all: bool
    keep_measurements: bool
    decisions: str | Path | None
    defacing: Literal["off", "head"]
    dry_run: bool
    resume: bool
    overwrite: bool


class PrepareSettings(TypedDict, total=False):
    """Settings of ``meninx.prepare.config.PrepareConfig``.

    Attributes:
        reader: layout of the source, auto to recognise it, or the name of a reader that an installed package
            offers.
        name: short name of the dataset; pseudonyms of cases depend on it.
        task: auto, multiclass, multilabel or segmentation; auto follows from the columns and masks given.
        synthetic: record that the images belong to no real patients.
        seed: seed of splits and sites.
        limit: largest number of cases, in whole patients; 0 for all.
        duplicates: the same image of two patients: refuse (stop), or drop (leave out all copies).
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
        mask_column: column with the mask's path (csv, dicom).
        mask_folder: folder with masks named like the images (csv), of the label maps (pairs), or of the
            pipeline that made them, e.g. derivatives/manual (bids).
        mask_labels: labels and their order. Where the source names its labels: some of these names, each also
            as ``new=old``; the others become background. Elsewhere: names of the mask values 1, 2, ..., or
            each ``name=value``; a mask of 0 and 255 counts as one label.
        mask_empty: treatment of a case without a mask in segmentation: skip, or zero (an empty mask).
        mask_object: kind of DICOM objects that hold the masks, where an image has both: seg, rtstruct, or
            auto (dicom).
        mask_series: SeriesDescription, ContentLabel or StructureSetLabel of the objects that hold the masks,
            where an image has several (dicom).
        mask_overlap: treatment of voxels that two labels claim, where each label has a mask of its own:
            refuse, or last (the later one in mask_labels counts).
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
        split: stable (a patient's split never changes), exact (fractions exact to one patient), or published.
        fractions: shares of train, valid and test.
        split_from: dataset folder whose patients keep their split.
        split_column: column with the published split (csv).
        sites: names of the sites to create; empty keeps those of the source.
        site_mode: source, iid, label-skew, attribute-skew, or column.
        site_fractions: share of each site; empty for equal shares.
        site_alpha: concentration of the Dirichlet distribution of the skewed modes; small values give strong
            skew.
        site_column: column or attribute with the site (site_mode column), or that skews the sites
            (attribute-skew).
        dry_run: read tables, headers and the first pictures, count, write nothing.
        overwrite: replace the dataset in the output folder, once the new one is complete.
        resume: update the dataset in the output folder with the same settings; finished images are reused.
        strict: stop at the first unusable case, instead of counting it.
        workers: processes that prepare images; 0 for one per core.
        input: the table of that name.
        labels: the table of that name.
        masks: the table of that name.
        images: the table of that name.
        work: the table of that name.
    """

    reader: str
    name: str
    task: Literal["auto", "multiclass", "multilabel", "segmentation"]
    synthetic: bool
    seed: int
    limit: int
    duplicates: Literal["refuse", "drop"]
    table: str
    crosswalks: Sequence[str]
    require: Sequence[str]
    image_column: str
    image_folder: str
    patient_column: str
    study_column: str
    entities: Sequence[str]
    modalities: Sequence[str]
    trusted: bool
    allow_missing: float
    label_columns: Sequence[str]
    class_column: str
    classes: Sequence[str]
    positive: Sequence[str]
    positive_name: str
    positive_from: float | None
    uncertain: Literal["unknown", "zero", "one"]
    blank: Literal["unknown", "zero", "auto"]
    several_rows: Literal["auto", "refuse", "any", "majority"]
    malignant: bool
    laterality: Sequence[str]
    sex_column: str
    age_column: str
    sex_codes: Sequence[str]
    attribute_columns: Sequence[str]
    mask_column: str
    mask_folder: str
    mask_labels: Sequence[str]
    mask_empty: Literal["skip", "zero"]
    mask_object: Literal["auto", "seg", "rtstruct"]
    mask_series: str
    mask_overlap: Literal["refuse", "last"]
    spatial_dims: Literal[0, 2, 3]
    size: int | Sequence[int]
    aspect: Literal["stretch", "pad"]
    spacing_mm: float | Sequence[float]
    window: float | Sequence[float]
    bits: Literal[8, 16]
    color: Literal["auto", "grey", "rgb"]
    channels: Sequence[str]
    intensity: Literal["auto", "format", "window", "image", "train"]
    split: Literal["stable", "exact", "published"] | SplitTable | Mapping[str, Any]
    fractions: float | Sequence[float]
    split_from: str
    split_column: str
    sites: Sequence[str] | SitesTable | Mapping[str, Any]
    site_mode: Literal["source", "iid", "label-skew", "attribute-skew", "column"]
    site_fractions: float | Sequence[float]
    site_alpha: float
    site_column: str
    dry_run: bool
    overwrite: bool
    resume: bool
    strict: bool
    workers: int
    input: InputTable | Mapping[str, Any]
    labels: LabelsTable | Mapping[str, Any]
    masks: MasksTable | Mapping[str, Any]
    images: ImagesTable | Mapping[str, Any]
    work: WorkTable | Mapping[str, Any]


class TrainSettings(TypedDict, total=False):
    """Settings of ``meninx.train.config.TrainConfig``.

    Attributes:
        model_options: further arguments of the network: `options = { base = 16 }` in a recipe,
            `--model-options.base 16` as a flag.
        image_size: spatial size to which smaller images are padded; empty when all images share one size.
        patch_size: spatial size of random training patches (segmentation); prediction then uses a sliding
            window of this size.
        pretrained: file of weights to start from (`.pt`, `.pth`, `.safetensors`), in the names of the
            network, torchvision, timm or MONAI, or `package:NAME` for the file of an installed package; empty
            starts from random weights. Nothing is downloaded.
        pretrained_source: what the pretrained weights were trained on; recorded in privacy.json.
        standardize: prepared public dataset whose training images standardise the features of the pretrained
            network (mean 0, deviation 1 of what the head receives). They are written into its last norm
            layer. Empty leaves the features as they are. Images of another size are resized.
        keep_head: also load the last layer of the pretrained weights.
        freeze: `none`, `features` (trains the head only: a linear probe), `bitfit` (trains biases, norm
            layers and the head) or the prefix of the parameters to freeze.
        unfreeze_every: epochs after which one more frozen block is trained, from the last to the first; 0 for
            never.
        lora_rank: rank of low-rank adapters beside the frozen linear and convolution layers, trained with the
            head (and, with `freeze = "bitfit"`, biases and norm layers), merged before release; needs
            pretrained weights; 0 for none.
        lora_alpha: the output of the adapters is scaled by lora_alpha / lora_rank.
        functional: paths of modules that have no rule for private gradients and are run image by image; slow
            and exact.
        task_kind: `auto` is the task of the dataset; any other name is a task of an installed package.
        loss: loss function; `auto` chooses ce, bce or dice+ce by the task.
        focal_gamma: exponent of the focal loss.
        class_weights: `none`, public numbers (one per label; for softmax segmentation background first), or
            `balanced` (computed from the training labels; refused under DP).
        label_smoothing: share of each target given to the other classes.
        optimizer: the optimiser; `momentum` is SGD with Nesterov momentum.
        lr: learning rate.
        head_lr: factor of the learning rate for the last layer.
        bias_correction: subtract the variance of the privacy noise from the second moment of adam, adamw and
            nadam, which otherwise behave like SGD: `auto` (in private runs), `on` (refused if there is
            nothing to correct) or `off`.
        bias_floor: lower bound of the corrected second moment, as a multiple of the variance that the noise
            leaves in the step's numerator (for adam 0.053 of the noise's own); larger values are more
            cautious.
        weight_decay: L2 penalty (decoupled for adamw).
        momentum: momentum of the optimiser `momentum`.
        schedule: learning rate over time.
        milestones: epochs at which `step` multiplies by gamma and `manual` changes to the next rate.
        rates: learning rates of `manual`, one more than milestones.
        gamma: factor of `step` and `plateau`.
        plateau_patience: evaluations without improvement before `plateau` lowers the rate.
        warmup: steps over which the rate rises linearly from 0.
        ema: decay of the averaged evaluation weights; 0 switches them off.
        augment: any of `flip` (left-right), `vflip`, `zflip` (3-D), `shift`, `rotate`, `crop` (zoom),
            `intensity`.
        flip_probability: probability of each flip.
        shift_voxels: largest translation along each axis.
        rotate_degrees: largest rotation in the image plane.
        crop_scale: smallest share of each axis that `crop` keeps.
        intensity_strength: largest change of gain and offset, in units of the normalised intensity.
        sampling: `shuffle` or `poisson` for training without DP; with DP always Poisson.
        batch_size: cases per step; in a private run the expected number of privacy units (patients) per step.
        physical_batch: images in memory at once; affects speed, not the meaning of the result.
        epochs: passes over the training split; in a private run expected passes over the units.
        steps: optimiser steps; 0 derives them from the epochs.
        cases_per_patient: largest number of cases of a patient in one step, if patients are the unit; 0 uses
            all.
        views: augmented copies of each case in a step, averaged (under DP before clipping).
        foreground: share of training patches centred on a labelled voxel; patches are uniform under DP.
        eval_every: steps between evaluations and checkpoints; 0 means once per epoch.
        monitor: quantity of the validation split for early stopping and `best`: `metric` (AUROC or Dice) or
            `loss`.
        select: weights to keep: `best` on validation, `last`, or `auto` (best without DP, last with DP).
        early_stopping: evaluations without improvement before training stops; 0 never stops early.
        seed: seed of initialisation, order and augmentation; never of randomness that protects privacy.
        device: where the network runs; `auto` takes CUDA, then MPS, then the CPU.
        precision: `fp32`, or products in 16 bits (weights stay float32): faster on hardware that supports
            them; repeatable on the same machine only. `bf16` is bfloat16; under DP its rounding is charged to
            max_grad_norm. `fp16` is float16 with a scaled loss, for GPUs without bfloat16; steps that
            overflow are skipped and counted. It is refused under DP. Evaluation is in float32.
        memory_format: memory layout of 2-D images and weights, which affects speed and rounding: `auto` is
            channels_last for supervised training on a GPU, and contiguous otherwise.
        deterministic: repeatable bit for bit, including the privacy noise; stamps the run NOT FOR RELEASE.
        threads: number of torch threads; 0 keeps torch's default.
        workers: threads that prepare the next batches during a step; affects speed, not the result. `auto` is
            none on the CPU, and beside a GPU the number of processors minus one, at most 8.
        cache: decoded images on disk, in `private/` of the dataset, for runs that read them more than once:
            `auto` (up to half of the free disk space), `off` (none; an existing cache is removed) or a limit,
            e.g. `20 GB`.
        attack_risk: compute bounds on what any attack can gain at the end of a private run; takes some
            seconds.
        tensorboard: write TensorBoard events into private/tensorboard.
        name: Name of the run folder; the recipe's name by default.
        epsilon: Largest epsilon of the whole run; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation divided by max_grad_norm, instead of epsilon.
        delta: Probability outside the guarantee; keep it well below 1 / number of patients.
        unit: What is protected: all cases of a patient together, or each case.
        max_grad_norm: Clipping threshold: the largest contribution of one unit to the gradient sum (L2 norm).
        clipping: flat scales a gradient down to max_grad_norm only if it is longer; auto-s normalises every
            gradient; per-layer clips each layer to its share of max_grad_norm; adaptive is flat with a
            threshold that follows the gradients.
        clip_quantile: Adaptive: share of units whose gradient should be shorter than the threshold, in (0,
            1).
        clip_rate: Adaptive: rate at which the threshold changes, > 0.
        count_noise_multiplier: Adaptive: noise of the count of short gradients, compensated by slightly more
            noise on the gradient; 0 chooses it.
        noise_bands: Number of steps over which the noise is correlated, so that later steps cancel part of
            it; units then take turns (cyclic sampling). 1 is independent noise.
        units_declared: Publicly declared number of units, at least the true one; by default the true number,
            which then counts as public.
        export: Content of release/: bundle (MONAI bundle with the state dict), onnx (also the network as
            ONNX).
        task: the table of that name.
        optim: the table of that name.
        validation: the table of that name.
        runtime: the table of that name.
        privacy: the table of that name.
    """

    model_options: Mapping[str, Any]
    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    pretrained: str
    pretrained_source: str
    standardize: str
    keep_head: bool
    freeze: str
    unfreeze_every: int
    lora_rank: int
    lora_alpha: float
    functional: Sequence[str]
    task_kind: str
    loss: Literal["auto", "ce", "bce", "focal", "dice", "dice+ce", "dice+bce"]
    focal_gamma: float
    class_weights: Literal["none", "balanced"] | Sequence[float]
    label_smoothing: float
    optimizer: Literal["sgd", "momentum", "adam", "adamw", "nadam"]
    lr: float
    head_lr: float
    bias_correction: Literal["auto", "on", "off"]
    bias_floor: float
    weight_decay: float
    momentum: float
    schedule: Literal["constant", "cosine", "plateau", "step", "manual"]
    milestones: int | Sequence[int]
    rates: float | Sequence[float]
    gamma: float
    plateau_patience: int
    warmup: int
    ema: float
    augment: (
        Sequence[Literal["flip", "vflip", "zflip", "shift", "rotate", "crop", "intensity"]]
        | AugmentTable
        | Mapping[str, Any]
    )
    flip_probability: float
    shift_voxels: int
    rotate_degrees: float
    crop_scale: float
    intensity_strength: float
    sampling: Literal["shuffle", "poisson"] | SamplingTable | Mapping[str, Any]
    batch_size: int
    physical_batch: int
    epochs: int
    steps: int
    cases_per_patient: int
    views: int
    foreground: float
    eval_every: int
    monitor: Literal["metric", "loss"]
    select: Literal["auto", "last", "best"]
    early_stopping: int
    seed: int
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    memory_format: Literal["auto", "contiguous", "channels_last"]
    deterministic: bool
    threads: int
    workers: Literal["auto"] | int
    cache: str
    attack_risk: bool
    tensorboard: bool
    name: str
    epsilon: float | None
    noise_multiplier: float | None
    delta: float
    unit: Literal["patient", "case"]
    max_grad_norm: float
    clipping: Literal["flat", "auto-s", "per-layer", "adaptive"]
    clip_quantile: float
    clip_rate: float
    count_noise_multiplier: float
    noise_bands: int
    units_declared: int | None
    export: Sequence[Literal["bundle", "onnx"]]
    task: TaskTable | Mapping[str, Any]
    optim: OptimTable | Mapping[str, Any]
    validation: ValidationTable | Mapping[str, Any]
    runtime: RuntimeTable | Mapping[str, Any]
    privacy: PrivacyTable | Mapping[str, Any] | None


class EvaluateSettings(TypedDict, total=False):
    """Settings of ``meninx.train.config.EvaluateConfig``.

    Attributes:
        split: Split to measure on; all takes every case of another dataset.
        rename_labels: Labels of another dataset that have another name there, each as theirs=ours; several
            may stand for one, each with an entry.
        allow_other_intensity: Measure another dataset although its images are far darker or brighter than
            those of the training, or use a small part of the range of values; the numbers go to the notes.
        other_patients: State that patients of another dataset whose identifiers in the source are those of
            training patients are other people, as when both sites number their patients.
        threshold: How thresholds are chosen on the validation split: youden, or a condition such as
            sensitivity>=0.9.
        surface_tolerance: Segmentation: distance within which two surfaces agree, in mm (in voxels where the
            dataset records no spacing), for the surface Dice.
        draws: Number of resamples of patients for the intervals.
        baseline: Another run on the same data; the difference is measured on the same resamples.
        repeats: Further pairs with other seeds, each as run=baseline; every difference is then the mean over
            all pairs in each resample of patients. Privacy alone may differ within a pair, the seed alone
            between pairs.
        predictions: What to write to private/predictions: csv, nifti (label maps), dicom-seg (label maps;
            needs dicom).
        dicom: Folder of the de-identified DICOM from which the dataset was prepared, for dicom-seg.
        seed: Seed of the resamples.
        device: where the network runs; auto takes CUDA, then MPS, then the CPU.
    """

    split: Literal["train", "valid", "test", "all"]
    rename_labels: Sequence[str]
    allow_other_intensity: bool
    other_patients: bool
    threshold: str
    surface_tolerance: float
    draws: int
    baseline: str | Path | None
    repeats: Sequence[str]
    predictions: Sequence[Literal["csv", "nifti", "dicom-seg"]]
    dicom: str | Path | None
    seed: int
    device: str


class ObfuscateSettings(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.ObfuscateConfig``.

    Attributes:
        attribute: Attribute of the patient to hide, e.g. sex, age, or several at once as sex+age.
        age_bins: Ages at which a new group begins, e.g. 60, or 47 61 71; by default 60.
        labels: Labels that the release keeps (in an audit: whose utility is measured); by default all of the
            dataset. A release publishes no other labels.
        seed: Seed of initialisation, halves, folds and attackers; never of what hides the attribute.
        device: Where networks run; auto takes CUDA, then MPS, then the CPU.
        method: How images are changed.
        budget: Mean absolute change of the training images, of the range 0 to 1; by default 0.05 for a method
            that has a budget.
        keep_columns: Attribute columns that the released table keeps, e.g. age or site; by default none. What
            they tell of the hidden attribute counts in the label floor and in the attacks.
        keep_attribute: Keep the attribute's column in the table of the released dataset.
        deterministic: Take the randomness of the method from the seed too, to repeat a release bit for bit;
            the release is then marked NOT FOR RELEASE.
        pixels: Number m of pixels that one person's part of an image may change (the m-neighbourhood).
        pixel_epsilon: Epsilon of the released image for any m pixels; by default solved from the budget.
        block: Side of a block of pixels that becomes one value; by default the largest one whose means alone
            use half of the budget.
        most_codes: Largest number of codes; fewer are used where more would not keep the labels better. A
            certificate needs fewer patients for fewer codes.
        levels: Number of equal parts into which the scores of each label are cut, in the order of the labels;
            by default the cuts are chosen on the training patients.
        patients_per_code: Fewest training patients of every class in each code, at least 16 in all.
        folds: Folds of training patients; each is scored by models of the others.
        utility: Models that score the labels: linear, network, or auto for the better one out of fold.
        unknown_attribute: What happens to an image whose class is not known: refuse, or draw its code at
            random, which tells nothing about the image.
        balance: Where every code is equally frequent in all classes: over all images; within every
            combination of the labels, so that codes and published labels together tell no more than the
            labels; or nowhere, which only shows what balancing is for.
        quadratic: Make the covariances of the classes equal, too, not only their means; the class of every
            vector has to be known, and every class needs more training rows than there are features.
        kernel_features: Number of random Fourier features of the kernel; by default half of the training
            rows, between 16 and 512.
        kernel_width: Mean squared distance, in deviations of the features, at which the kernel falls to 1/e;
            by default the median one of pairs of training rows.
        quantise: Release the prototypes of codes of the erased vectors, which a certificate can be about.
        network: `slim` computes the change on an image of at most 32 pixels a side and enlarges it; `full` is
            the published network, which works at the size of the image.
        residual_blocks: Residual blocks at the coarsest size; 3 and 5 are published for retina and
            radiographs.
        dct: Compute the change from and in the coefficients of the discrete cosine transform.
        loss: What the method `viewmaker` maximises: `adversarial` the loss of the attackers, `entropy` the
            entropy of their guesses, `contrastive` that of an encoder, without any attribute; by default
            `adversarial`. The other methods fix it: `viewmaker-seed` adversarial, `maxent` entropy.
        task_weight: Weight of the loss of a network of the labels, which was trained on original images and
            is frozen; 0 leaves it out, as the X-ray variant of DP-Viewmaker does.
        attack_weight: Weight of the loss or entropy of the attackers.
        temperature: Of the contrastive loss.
        steps: Steps of the viewmaker.
        viewmaker_batch: Images per step.
        attackers: Attackers in the game, of different architectures in turn; by default 3, and always 1 for
            `viewmaker-seed`.
        attacker_steps: Steps of the attackers (or the encoder) before each step of the viewmaker; by default
            2, and always 1 for `viewmaker-seed`.
        reset_every: Steps of the viewmaker after which one attacker in turn starts from random weights; 0 for
            never; by default 50, and never for `viewmaker-seed`.
        viewmaker_rate: Learning rate of the viewmaker (Adam).
        attacker_rate: Learning rate of the attackers, or of the encoder.
        task_rate: Learning rate of the network of the labels.
        target: Highest AUROC of any retrained attacker that is accepted, by the upper end of its interval; 0
            measures without a verdict. The first one that is given for a release decides.
        attack_epochs: Epochs of every network that attacks, each with a fresh release of the images.
        permutations: Permuted attributes that show what the attackers find by chance; 0 leaves them out.
        draws: Independent releases of each image that an attacker may average.
        audit: Attack the release with retrained attackers, and measure what it costs.
        dry_run: Read the dataset, show the label floor and what would be done; write nothing.
        resume: Go on with a release of the same settings; a complete one is attacked if it was not.
        overwrite: Replace the release in the output folder, once the new one is complete.
        dp_pix: the table of that name.
        codes: the table of that name.
        erasure: the table of that name.
        viewmaker: the table of that name.
        release_audit: the table of that name.
    """

    attribute: str
    age_bins: float | Sequence[float]
    labels: Sequence[str]
    seed: int
    device: str
    method: Literal[
        "noise",
        "blur",
        "pixelation",
        "dp-pix",
        "viewmaker",
        "viewmaker-seed",
        "maxent",
        "codes",
        "leace",
        "kernel-erasure",
    ]
    budget: float | None
    keep_columns: Sequence[str]
    keep_attribute: bool
    deterministic: bool
    pixels: int
    pixel_epsilon: float | None
    block: int | None
    most_codes: int
    levels: int | Sequence[int]
    patients_per_code: int
    folds: int
    utility: Literal["auto", "linear", "network"]
    unknown_attribute: Literal["refuse", "draw"]
    balance: Literal["class", "class-and-labels", "none"]
    quadratic: bool
    kernel_features: int
    kernel_width: float | None
    quantise: bool
    network: Literal["slim", "full"]
    residual_blocks: int
    dct: bool
    loss: Literal["adversarial", "entropy", "contrastive"] | None
    task_weight: float | None
    attack_weight: float
    temperature: float
    steps: int
    viewmaker_batch: int
    attackers: int | None
    attacker_steps: int | None
    reset_every: int | None
    viewmaker_rate: float
    attacker_rate: float
    task_rate: float
    target: float
    attack_epochs: int
    permutations: int
    draws: int
    audit: bool
    dry_run: bool
    resume: bool
    overwrite: bool
    dp_pix: PixelNoiseTable | Mapping[str, Any]
    codes: CodeSettingsTable | Mapping[str, Any]
    erasure: ErasureSettingsTable | Mapping[str, Any]
    viewmaker: ViewmakerSettingsTable | Mapping[str, Any]
    release_audit: ReleaseAuditSettingsTable | Mapping[str, Any]


class AuditReleaseSettings(TypedDict, total=False):
    """Settings of ``meninx.obfuscate.config.ReleaseAuditConfig``.

    Attributes:
        attribute: Attribute of the patient to hide, e.g. sex, age, or several at once as sex+age.
        age_bins: Ages at which a new group begins, e.g. 60, or 47 61 71; by default 60.
        labels: Labels that the release keeps (in an audit: whose utility is measured); by default all of the
            dataset. A release publishes no other labels.
        seed: Seed of initialisation, halves, folds and attackers; never of what hides the attribute.
        device: Where networks run; auto takes CUDA, then MPS, then the CPU.
        target: Highest AUROC of any retrained attacker that is accepted, by the upper end of its interval; 0
            measures without a verdict. The first one that is given for a release decides.
        attack_epochs: Epochs of every network that attacks, each with a fresh release of the images.
        permutations: Permuted attributes that show what the attackers find by chance; 0 leaves them out.
        draws: Independent releases of each image that an attacker may average.
        deterministic: Write no time, so that the record depends on data and seed alone.
        overwrite: Replace an earlier record.
        attacks: the table of that name.
    """

    attribute: str
    age_bins: float | Sequence[float]
    labels: Sequence[str]
    seed: int
    device: str
    target: float
    attack_epochs: int
    permutations: int
    draws: int
    deterministic: bool
    overwrite: bool
    attacks: AttackSettingsTable | Mapping[str, Any]


class PredictSettings(TypedDict, total=False):
    """Settings of ``meninx.predict.config.PredictConfig``.

    Attributes:
        format: files of a predicted label map: nifti (.nii.gz, or .png for 2-D images), dicom-seg (for DICOM
            input); by default nifti.
        identified: also write DICOM SEG for files that are not marked as de-identified; it repeats the name
            and number of the patient from the source.
        probabilities: also write the probability of each label of a segmentation, as NIfTI on the grid of the
            image, with one label after the other along the fourth axis.
        batch: images that are run at once; 0 for 32 images, or 1 volume.
        device: where the network runs; auto takes CUDA, then MPS, then the CPU.
        strict: stop at the first image that cannot be predicted, instead of counting it.
        dry_run: load the model, look at the input and count, write nothing.
        resume: go on with a complete result of the same model and settings; predicted images are reused.
        overwrite: replace the result in the output folder, once the new one is complete.
    """

    format: Sequence[Literal["nifti", "dicom-seg"]]
    identified: bool
    probabilities: bool
    batch: int
    device: str
    strict: bool
    dry_run: bool
    resume: bool
    overwrite: bool


class VerifySettings(TypedDict, total=False):
    """Settings of ``meninx.verify.config.DicomCheckConfig``.

    Attributes:
        dicom: Check the DICOM files of a clean archive of meninx instead of its digests and records. Refused
            for a folder that meninx did not write, whose DICOM files are checked without it.
        originals: Archive from which the files were made. Its identifiers are searched in every file and
            path.
        identifiers: File with names, IDs and dates to search for: one per line, or a table with a header.
        crosswalks: File crosswalk_uids.csv of meninx, which says from which original each file was made.
        conformance: Run dciodvfy on every file (needs the extra `conformance`). With originals, only errors
            that the original does not have count.
        pixels: Search the pixels for text that is not technical (needs the extra `ocr`).
        page: HTML page to write.
        show_paths: Show the paths of the files. Without it each file has a number, because paths may hold
            names.
        workers: Processes; 0 chooses by the number of cores, 1 uses this process only.
        overwrite: Replace an existing page.
    """

    dicom: bool
    originals: str | Path | None
    identifiers: str | Path | None
    crosswalks: str | Path | None
    conformance: bool
    pixels: bool
    page: str | Path | None
    show_paths: bool
    workers: int
    overwrite: bool


class ReportSettings(TypedDict, total=False):
    """Settings of ``meninx.report.config.ReportConfig``.

    Attributes:
        title: Heading of the page.
        epsilon_amber: Largest epsilon whose card is green.
        epsilon_red: Largest epsilon whose card is amber; above it the card is red.
        attack_amber: Largest bound on TPR at 1 % FPR (membership) whose card is green.
        attack_red: Largest bound of this kind whose card is amber.
        gap_limit: Largest gap of a group (AUROC or Dice) that does not count as a difference.
        utility_floor: Value that the whole interval of every label's metric must exceed. Without it, utility
            is judged against a run without privacy that was measured on the same cases, if there is one.
        utility_loss: Largest loss against that run that does not count as a loss.
        training_curves: Show training curves; under DP they are outside the guarantee, as the page states.
        case_plots: Show the Dice of each test case of a segmentation, without names, from the private folder.
        contact_sheet: Number of training images to show, at most 64. Only of synthetic datasets, or with
            contact_sheet_permission of datasets that no private run given here was trained on.
        contact_sheet_permission: Licence or approval by which real images are shown; printed below them.
        card: Also write MODEL_CARD.md into the release folder of every run.
        license: Licence of the model, for the card (an SPDX identifier in lower case, or other).
        authors: Person or group responsible for the model card; required for it.
        contact: Contact of the authors; required for the card.
        intended_use: Intended use of the model in one sentence, for the card.
        date: Date printed on the page, e.g. 2026-11-20; today by default.
        overwrite: Replace existing files.
    """

    title: str
    epsilon_amber: float
    epsilon_red: float
    attack_amber: float
    attack_red: float
    gap_limit: float
    utility_floor: float | None
    utility_loss: float
    training_curves: bool
    case_plots: bool
    contact_sheet: int
    contact_sheet_permission: str
    card: bool
    license: str
    authors: str
    contact: str
    intended_use: str
    date: str
    overwrite: bool


class DossierSettings(TypedDict, total=False):
    """Settings of ``meninx.dossier.config.DossierConfig``.

    Attributes:
        title: Heading of the dossier.
        release: Identity of the run whose model is to be released, or the first digits of it, or name or path
            of its folder; needed where several finished runs are given.
        chosen_by: Number by which this run was chosen among several, e.g. auroc. It is stated, not verified.
        chosen_on: Split on which that number was measured, e.g. valid.
        date: Date of the dossier, e.g. 2026-11-20; today by default.
        overwrite: Replace an earlier dossier, once the new one is complete.
        dry_run: Say what the dossier would hold, and write nothing.
    """

    title: str
    release: str
    chosen_by: str
    chosen_on: str
    date: str
    overwrite: bool
    dry_run: bool


class AuditSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.plan_config.AuditConfig``.

    Attributes:
        parts: Parts of the audit, in this order.
        seed: Seed of halves, resamples and permutations; never of privacy noise, unless deterministic.
        deterministic: Take all randomness of the audit from the seed and write no time, so that the audit can
            be repeated bit for bit.
        candidates: Adversaries that know that a patient's data is one of so many.
        eps_min: Lowest epsilon of the risk profile.
        eps_max: Highest epsilon of the risk profile.
        n_eps: Number of epsilons, evenly spaced on a logarithmic scale.
        precision: Largest relative distance of lower and upper bound.
        bounds_minutes: Budget; the part is left out when it is used up.
        canaries: Number of made-up patients, of whom about half take part; at least 100.
        one_run_significance: Largest probability of accusing a correct run.
        one_run_minutes: Budget; what is trained when it is used up is kept for the next call.
        references: Number of reference models, each trained like the run on half of the patients; even.
        control_steps: Steps of the positive control.
        membership_significance: Largest probability of a verdict against a model that tells nothing, or keeps
            its bound.
        membership_minutes: Budget; what is trained when it is used up is kept for the next call.
        reconstruction_attacks: Names of attacks, `quick` for the strongest few, or `all`.
        trials: Largest number of simulated identifications per point.
        reconstruction_eps_last: Exponent of ten of the highest epsilon at which attacks are run beside the
            run's own noise.
        reconstruction_significance: Largest probability of an unjust verdict.
        reconstruction_minutes: Budget; what is computed when it is used up is kept for the next call.
        attributes: Attributes of the dataset to attack; by default all, and the site where there are several.
        attribute_significance: Largest probability of a verdict against a model that tells nothing, or keeps
            its bound.
        attribute_minutes: Budget; the part is left out when it is used up.
        identity_attacks: How images are compared: whitened pixels, whitened edge directions, or a network
            trained on pairs.
        most_images: Larger datasets are represented by patients drawn at random with about so many images.
        identity_significance: Largest probability of the verdict that images are linked where they tell
            nothing.
        identity_minutes: Budget; the part is left out when it is used up.
        bound_green: Largest proven TPR at 1 % FPR (membership) for green.
        bound_amber: Largest one for amber; above it the line is red.
        fail_conditions: Conditions that end the audit with exit code 5, as `key > number`.
        device: Where to train the models of the audit.
        overwrite: Replace results of another plan, and results that were made without one.
        dry_run: Show the plan, its hash and how long it takes; write nothing.
        bounds: the table of that name.
        one_run: the table of that name.
        membership: the table of that name.
        reconstruction: the table of that name.
        attribute: the table of that name.
        identity: the table of that name.
        limits: the table of that name.
    """

    parts: Sequence[Literal["bounds", "one-run", "membership", "reconstruction", "attributes", "identity"]]
    seed: int
    deterministic: bool
    candidates: int | Sequence[int]
    eps_min: float
    eps_max: float
    n_eps: int
    precision: float
    bounds_minutes: float
    canaries: int
    one_run_significance: float
    one_run_minutes: float
    references: int
    control_steps: int
    membership_significance: float
    membership_minutes: float
    reconstruction_attacks: Sequence[str]
    trials: int
    reconstruction_eps_last: int
    reconstruction_significance: float
    reconstruction_minutes: float
    attributes: Sequence[str]
    attribute_significance: float
    attribute_minutes: float
    identity_attacks: Sequence[Literal["pixels", "hog", "siamese"]]
    most_images: int
    identity_significance: float
    identity_minutes: float
    bound_green: float
    bound_amber: float
    fail_conditions: Sequence[str]
    device: str
    overwrite: bool
    dry_run: bool
    bounds: PlannedBoundsTable | Mapping[str, Any]
    one_run: PlannedOneRunTable | Mapping[str, Any]
    membership: PlannedMembershipTable | Mapping[str, Any]
    reconstruction: PlannedReconstructionTable | Mapping[str, Any]
    attribute: PlannedAttributesTable | Mapping[str, Any]
    identity: PlannedIdentityTable | Mapping[str, Any]
    limits: PlannedLimitsTable | Mapping[str, Any]


class BoundsSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.BoundsConfig``.

    Attributes:
        units: Number of patients (or cases, if they are the unit) in the training; as public as declared.
        epsilon: Epsilon of the operating point; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation divided by max_grad_norm at the operating point, instead of
            epsilon.
        sample_rate: Probability that a unit takes part in a step; by default batch_size / units.
        steps: Number of optimiser steps; by default from epochs.
        batch_size: Expected number of units per step.
        epochs: Expected passes over the units.
        delta: Delta of every epsilon.
        unit: What is protected.
        noise_bands: Number of steps over which the noise is correlated.
        eps_min: Lowest epsilon of the axis.
        eps_max: Highest epsilon of the axis.
        n_eps: Number of epsilons, evenly spaced on a logarithmic scale.
        candidates: Adversaries that know that a patient's data is one of so many.
        class_share: Share of the most frequent value of an attribute, for the adversary that guesses it.
        metric_hits: Reference images that are close enough to the best single guess by an image metric.
        metric_images: Number of these reference images, none of them from the training.
        precision: Largest relative distance of lower and upper bound.
        deterministic: Write no time, so that the files are the same when the bounds are computed again.
        overwrite: Replace earlier bounds.
        dry_run: Show mechanism and adversaries; compute and write nothing.
    """

    units: int | None
    epsilon: float | None
    noise_multiplier: float | None
    sample_rate: float | None
    steps: int
    batch_size: int | None
    epochs: float | None
    delta: float
    unit: Literal["patient", "case"]
    noise_bands: int
    eps_min: float
    eps_max: float
    n_eps: int
    candidates: int | Sequence[int]
    class_share: float | None
    metric_hits: int | None
    metric_images: int | None
    precision: float
    deterministic: bool
    overwrite: bool
    dry_run: bool


class ScoresSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.ScoresConfig``.

    Attributes:
        claimed_eps: Claimed epsilon.
        claimed_delta: Delta of the claim.
        noise_multiplier: Noise standard deviation over sensitivity; with sample_rate and steps it states the
            mechanism, which is tested instead of epsilon alone.
        sample_rate: Probability that a unit takes part in a step.
        steps: Number of steps.
        significance: Largest probability of accusing a run whose claim is true.
    """

    claimed_eps: float | None
    claimed_delta: float
    noise_multiplier: float | None
    sample_rate: float | None
    steps: int | None
    significance: float


class OneRunSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.OneRunConfig``.

    Attributes:
        canaries: Number of made-up patients, of whom about half take part; at least 100.
        significance: Largest probability of accusing a correct run.
        deterministic: Take coins, noise and sampling from the seed and write no time, so that the audit can
            be repeated bit for bit.
        seed: Seed of a deterministic audit.
        device: Where to train the audited twin.
        overwrite: Audit again although the run was audited before.
        dry_run: Show what would be trained and how long it takes; train and write nothing.
    """

    canaries: int
    significance: float
    deterministic: bool
    seed: int
    device: str
    overwrite: bool
    dry_run: bool


class MembershipSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.MembershipConfig``.

    Attributes:
        references: Number of reference models, each trained like the run on half of the patients; even.
        control_steps: Steps of the positive control: a model trained on few patients until it knows them.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        seed: Seed of the halves, resamples and permutations.
        deterministic: Take the noise of the reference models from the seed as well and write no time, so that
            the audit can be repeated bit for bit.
        device: Where to train the reference models.
        overwrite: Audit again although the run was audited before; reference models are kept.
        dry_run: Show members, reference models and how long it takes; train and write nothing.
    """

    references: int
    control_steps: int
    significance: float
    seed: int
    deterministic: bool
    device: str
    overwrite: bool
    dry_run: bool


class AttributesSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.AttributesConfig``.

    Attributes:
        attributes: Attributes of the dataset to attack; by default all, and the site where there are several.
        age_edges: Ages, in ascending order, at which groups of age begin.
        folds: Parts of the patients; each is judged by an attack fitted on the others.
        permutations: Permutations of each attribute, which show what chance gives.
        most_patients: Most members, and most others; more are represented by a random draw.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        seed: Seed of draws, folds, coins and permutations, and of the noise that is added to single gradients
            to show what it hides.
        deterministic: Write no time, so that the audit can be repeated bit for bit.
        device: Where to run the model.
        overwrite: Audit again although the run was audited before.
        dry_run: Show who would be attacked; compute and write nothing.
    """

    attributes: Sequence[str]
    age_edges: float | Sequence[float]
    folds: int
    permutations: int
    most_patients: int
    significance: float
    seed: int
    deterministic: bool
    device: str
    overwrite: bool
    dry_run: bool


class ReconstructionSettings(TypedDict, total=False):
    """Settings of ``meninx.audit.reconstruction.config.ReconstructionConfig``.

    Attributes:
        attacks: Names of attacks, also of installed packages, `quick` for the strongest few of meninx, or
            `all` of meninx.
        eps_first: Exponent of ten of the lowest epsilon of the axis.
        eps_last: Exponent of ten of the highest epsilon of the axis.
        eps_step: Distance of two exponents.
        noise_multipliers: Further levels: noise standard deviation divided by max_grad_norm.
        one_step: The epsilons of the axis are those of one step instead of the whole training.
        batches: Number of steps that are attacked at each level.
        batch_size: Number of images in an attacked step; 0 for as many as the run expects, at most 16.
        bins: Number of rows of a malicious first layer; 0 for eight per image.
        components: Number of principal components of the attacker's public images.
        participations: Number of steps with the same images whose gradients the attacker averages.
        sites: Numbers of sites in a federated round whose sum is attacked; none for a single client.
        colluders: Number of these sites that help the attacker.
        candidates: Numbers of images among which an attacker picks a patient's.
        trials: Largest number of simulated identifications per point.
        metrics: Similarities of images; the first one decides what is matched and what counts as success.
        threshold: Similarity from which on an image counts as close to its reconstruction; by default above
            what nulls and public images reach. The ranking among members has no threshold.
        best_images: Number of images in a picture, from the best to the worst.
        pictures: What is drawn outside `private/`: reconstructions of synthetic patients, none, or those of
            the run's own patients.
        delta: Delta of the epsilons for a run without privacy.
        significance: Largest probability of an unjust verdict.
        seed: Seed of draws and noise.
        device: Where to compute the attacked steps.
        deterministic: Write no time, so that the files are the same when the audit is repeated.
        overwrite: Attack again although the run was attacked before.
        dry_run: Show attacks and levels; compute and write nothing.
    """

    attacks: Sequence[str]
    eps_first: int
    eps_last: int
    eps_step: int
    noise_multipliers: float | Sequence[float]
    one_step: bool
    batches: int
    batch_size: int
    bins: int
    components: int
    participations: int
    sites: int | Sequence[int]
    colluders: int
    candidates: int | Sequence[int]
    trials: int
    metrics: Sequence[Literal["ncc", "ssim", "psnr", "mse"]]
    threshold: float | None
    best_images: int
    pictures: Literal["synthetic", "none", "patients-may-leave"]
    delta: float
    significance: float
    seed: int
    device: str
    deterministic: bool
    overwrite: bool
    dry_run: bool


class IdentitySettings(TypedDict, total=False):
    """Settings of ``meninx.audit.config.IdentityConfig``.

    Attributes:
        attacks: How images are compared: whitened pixels, whitened edge directions, or a network trained on
            pairs.
        fit_share: Share of the patients that the attacks are fitted on; the others are evaluated.
        components: Directions that are kept of pixels and edge directions.
        side: Pixels along each axis that images are brought to; 64 in 2-D and 32 in 3-D by default.
        siamese_steps: Optimiser steps of the network that is trained on pairs.
        most_images: Larger datasets are represented by patients drawn at random with about so many images.
        significance: Largest probability of the verdict that images are linked where they tell nothing.
        seed: Seed of the division of the patients, the controls and the permutations.
        deterministic: Write no time, so that the audit can be repeated bit for bit.
        device: Where to train the network on pairs.
        overwrite: Audit again although a record is there.
        dry_run: Show who would be compared; compute and write nothing.
    """

    attacks: Sequence[Literal["pixels", "hog", "siamese"]]
    fit_share: float
    components: int
    side: int | None
    siamese_steps: int
    most_images: int
    significance: float
    seed: int
    deterministic: bool
    device: str
    overwrite: bool
    dry_run: bool


class StudySettings(TypedDict, total=False):
    """Settings of ``meninx.federated.config.StudyConfig``.

    Attributes:
        name: Name of the study: lower-case letters, digits and dashes; by default that of the folder.
        recipe_name: Recipe of `meninx train` that the training settings came from; for people and for the
            policies of sites.
        rounds: Rounds: each site trains, the updates are added up, the sum becomes the next model.
        local_epochs: Passes over its training split that each site makes per round; under differential
            privacy expected passes.
        local_steps: Optimiser steps of each site per round; 0 derives them from local_epochs.
        algorithm: fedavg averages the updates weighted by units; fedprox also pulls each site to the common
            model; cyclic passes the model from site to site, without secure aggregation. Another name is an
            algorithm of an installed package.
        mu: fedprox: weight of the pull; 0.01 if not given.
        turns: cyclic: the model moves on after each site's whole turn, or after each batch (a baseline that
            leaks more).
        local_layers: Prefixes of parameters that stay at each site; `norms` stands for all norm layers
            (FedBN).
        round_minutes: Time after which a site stops training in a round and uploads what it has; 0 for no
            limit.
        address: Host and port at which the sites reach the coordinator by https.
        aggregation: masks adds pairwise masks that cancel in the sum (the default); shares splits each update
            among the sites as independent aggregators; ckks encrypts it under a key that the sites share;
            plain shows every update to the coordinator.
        clip: Largest value of a weight's change in one round; larger changes are cut.
        bits: Size of the numbers in which masks and shares add updates up; 64 needs twice the bandwidth. 0
            takes 64 where max_units is above 4,096, and 32 otherwise.
        max_units: Most units (patients) that a site may have, with secure aggregation; a site with more is
            refused before the first round. 0 stands for 4,096, or with 64 bits for 2^30. A number close to
            the largest site gives the most precise sums; a simulation takes it from the datasets.
        data_task: What is learned.
        labels: Label columns or names of the label values, in output order.
        channels: Image channels.
        spatial_dims: 2 or 3.
        size: Spatial size of the images; empty where sizes differ and patches are used.
        window: Lowest and highest stored value.
        shift: Subtracted from the values.
        scale: Divides the values after that.
        train: Settings of `meninx train`, e.g. `--train.epsilon 8`; they come on top of the recipe. The
            length follows from the rounds.
        study: the table of that name.
        data: the table of that name.
    """

    name: str | None
    recipe_name: str
    rounds: int
    local_epochs: int
    local_steps: int
    algorithm: str
    mu: float | None
    turns: Literal["site", "batch"]
    local_layers: Sequence[str]
    round_minutes: float
    address: str
    aggregation: Literal["masks", "shares", "ckks", "plain"] | AggregationTable | Mapping[str, Any]
    clip: float
    bits: Literal[0, 32, 64]
    max_units: int
    data_task: Literal["multiclass", "multilabel", "segmentation"] | None
    labels: Sequence[str]
    channels: int
    spatial_dims: Literal[2, 3]
    size: int | Sequence[int]
    window: float | Sequence[float]
    shift: float
    scale: float
    train: Mapping[str, Any]
    study: TermsTable | Mapping[str, Any]
    data: DataTable | Mapping[str, Any]
