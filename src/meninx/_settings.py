"""Settings of the stages as keyword arguments, for completion and type checkers. Written by `make docs`.

Every setting is described in docs/reference/settings.md, and in the ``Attributes:`` of its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class DeidSettings(TypedDict, total=False):
    """Settings of ``meninx.deid.config.DeidConfig``."""

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
    lookup_out: bool
    rename: bool
    workers: int
    max_age: int
    burned_in: Literal["quarantine", "keep"]
    dry_run: bool
    resume: bool
    overwrite: bool


class PrepareSettings(TypedDict, total=False):
    """Settings of ``meninx.prepare.config.PrepareConfig``."""

    reader: (
        Literal[
            "dicom",
            "folder",
            "pairs",
            "csv",
            "npz",
            "nih",
            "chexpert",
            "mimic",
            "siim",
            "ham10000",
            "radimagenet",
            "msd",
            "brset",
            "pad-ufes",
        ]
        | str
    )
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
    modalities: Sequence[str]
    trusted: bool
    label_columns: Sequence[str]
    class_column: str
    classes: Sequence[str]
    positive: Sequence[str]
    positive_name: str
    positive_from: float | None
    uncertain: Literal["unknown", "zero", "one"]
    blank: Literal["unknown", "zero", "auto"]
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
    spatial_dims: Literal[0, 2, 3]
    size: Sequence[int]
    aspect: Literal["stretch", "pad"]
    spacing_mm: Sequence[float]
    window: Sequence[float]
    bits: Literal[8, 16]
    color: Literal["grey", "rgb"]
    intensity: Literal["auto", "format", "window", "image", "train"]
    split: Literal["stable", "exact", "published"]
    fractions: Sequence[float]
    split_from: str
    split_column: str
    sites: Sequence[str]
    site_mode: Literal["source", "iid", "label-skew", "attribute-skew", "column"]
    site_fractions: Sequence[float]
    site_alpha: float
    site_column: str
    dry_run: bool
    overwrite: bool
    resume: bool
    strict: bool
    workers: int
    labels: Mapping[str, Any]
    masks: Mapping[str, Any]
    images: Mapping[str, Any]
    work: Mapping[str, Any]


class TrainSettings(TypedDict, total=False):
    """Settings of ``meninx.train.config.TrainConfig``."""

    model_options: Mapping[str, Any]
    image_size: Sequence[int]
    patch_size: Sequence[int]
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
    milestones: Sequence[int]
    rates: Sequence[float]
    gamma: float
    plateau_patience: int
    warmup: int
    ema: float
    augment: Sequence[Literal["flip", "vflip", "zflip", "shift", "rotate", "crop", "intensity"]]
    flip_probability: float
    shift_voxels: int
    rotate_degrees: float
    crop_scale: float
    intensity_strength: float
    sampling: Literal["shuffle", "poisson"]
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
    precision: Literal["fp32", "bf16"]
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
    task: Mapping[str, Any]
    optim: Mapping[str, Any]
    validation: Mapping[str, Any]
    runtime: Mapping[str, Any]
    privacy: Mapping[str, Any]


class EvaluateSettings(TypedDict, total=False):
    """Settings of ``meninx.train.config.EvaluateConfig``."""

    split: Literal["train", "valid", "test"]
    threshold: str
    draws: int
    baseline: str | Path | None
    predictions: Sequence[Literal["csv", "nifti", "dicom-seg"]]
    dicom: str | Path | None
    seed: int
    device: str


class ReportSettings(TypedDict, total=False):
    """Settings of ``meninx.report.config.ReportConfig``."""

    title: str
    epsilon_amber: float
    epsilon_red: float
    attack_amber: float
    attack_red: float
    gap_limit: float
    utility_floor: float | None
    utility_loss: float
    training_curves: bool
    card: bool
    license: str
    authors: str
    contact: str
    intended_use: str
    date: str
    overwrite: bool
