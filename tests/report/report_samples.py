"""Small folders as deid, prepare and train write them, with planted strings wherever the report must not look."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from meninx.core.manifest import Case, DatasetInfo, Manifest, Task
from meninx.metrics.evaluation import compare, evaluate_classification
from meninx.metrics.thresholds import fit

PLANTED = "MUSTERMANN^ERIKA"
LABELS = ("effusion", "pneumothorax", "nodule")


def write_deid(folder: Path, site: str, *, residual: int = 0) -> Path:
    """Return a de-identified archive's folder."""
    keywords = ("PatientName", "PatientID", "StudyDate", "SOPInstanceUID", "StudyDescription", "DeviceSerialNumber")
    actions = {word: {action: 40 + index} for index, (word, action) in enumerate(zip(keywords, "ZZXUCX", strict=True))}
    actions |= {f"Attribute{index}": {"X": index, "K": 1} for index in range(1, 30)}
    table = {
        "version": "0.1.0",
        "profile": "basic",
        "options": ["retain-modified-dates", "clean-descriptors"],
        "codes": ["113100"],
        "site": site,
        "files_read": 96,
        "files_written": 92,
        "quarantined": {"unreadable": 3, "not-dicom": 1},
        "patients": 20,
        "studies": 25,
        "series": 30,
        "actions": actions,
        "residual_findings": residual,
        "burned_in_unknown": 12,
    }
    (folder / "private").mkdir(parents=True)
    (folder / "deid.json").write_text(json.dumps(table))
    (folder / "audit.jsonl").write_text(json.dumps({"file": PLANTED}) + "\n")
    (folder / "private" / "crosswalk_patients.csv").write_text(f"id_old,id_new\n{PLANTED},p1\n")
    return folder


def cohort(cases: int = 400, seed: int = 0):
    """Return (truth, private scores, other scores, patients, attributes) of a made-up test split."""
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, cases // 2, cases))
    truth = (rng.random((cases, len(LABELS))) < [0.35, 0.2, 0.06]).astype(float)
    logit = 1.6 * truth - 1.2 + rng.normal(size=truth.shape)
    squash = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    sex, age = rng.choice(["F", "M"], patients.max() + 1), rng.integers(22, 92, patients.max() + 1)
    attributes = {"sex": [str(sex[p]) for p in patients], "age": [str(age[p]) for p in patients]}
    return truth, squash(logit + 0.9 * rng.normal(size=truth.shape)), squash(logit), patients, attributes


def write_dataset(folder: Path) -> Path:
    """Return a prepared dataset's folder."""
    rng = np.random.default_rng(1)
    info = DatasetInfo(
        name="cohort", task=Task.MULTILABEL, labels=LABELS, attributes=("sex", "age"), size=(128, 128), synthetic=True
    )
    cases = [
        Case(
            case_id=f"{PLANTED}-{number}",
            patient_id=f"patient-{PLANTED}-{number // 2}",
            image=f"images/{number}.png",
            site=("north", "south", "east")[number // 2 % 3],
            split=("train", "train", "train", "valid", "test")[number // 2 % 5],
            labels={name: float(rng.random() < 0.3) for name in LABELS},
            attributes={"sex": "F", "age": "60"},
        )
        for number in range(120)
    ]
    Manifest(folder, info, tuple(cases)).write()
    return folder


@cache
def evaluation_text(private: bool) -> str:
    """Return the content of evaluation.json."""
    truth, first, second, patients, attributes = cohort()
    scores = first if private else second
    thresholds = fit(truth[:200], scores[:200], LABELS)
    evaluation = evaluate_classification(
        truth, scores, patients, LABELS, attributes, thresholds, task="multilabel", seed=0, draws=200
    )
    return json.dumps(evaluation.to_table(), allow_nan=False)


def write_run(folder: Path, *, private: bool, deterministic: bool = False, epsilon: float = 7.98) -> Path:
    """Return a run folder."""
    (folder / "release").mkdir(parents=True)
    (folder / "private").mkdir()
    (folder / "release" / "evaluation.json").write_text(evaluation_text(private))
    text = 'model = "resnet9"\nloss = "bce"\noptimizer = "nadam"\nlr = 0.0005\nbatch_size = 64\nepochs = 12\nseed = 0\n'
    text += 'pretrained = "/home/erika/weights.pt"\n' + ("[privacy]\nepsilon = 8.0\ndelta = 0.0001\n" if private else "")
    (folder / "config.toml").write_text(text)
    environment = {
        "python": "3.11.9",
        "system": "Linux",
        "machine": "x86_64",
        "cpus": 2,
        "packages": {"meninx": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "source": "0123456789abcdef0123456789abcdef01234567",
        "command": ["meninx", "train", "dataset", "--recipe", "cxr-dp"],
        "data_digest": "ab" * 32,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "privacy.json").write_text(json.dumps(privacy_table(epsilon, deterministic) if private else None))
    log = [{"kind": "train", "step": s, "loss": 0.7 * 0.99**s + 0.1, "note": PLANTED} for s in range(1, 301)]
    log += [{"kind": "valid", "step": s, "loss": 0.72 * 0.992**s + 0.12, f"loss_{PLANTED}": 1.0} for s in range(25, 301, 25)]
    (folder / "private" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / "private" / "predictions.csv").write_text(f"case_id,score\n{PLANTED},0.5\n")
    if deterministic:
        (folder / "NOT_FOR_RELEASE").write_text("NOT FOR RELEASE\n")
    return folder


def privacy_table(epsilon: float, deterministic: bool) -> dict:
    """Return the content of privacy.json."""
    return {
        "epsilon": epsilon,
        "delta": 1e-4,
        "unit": "patient",
        "relation": "add-or-remove-one",
        "noise_multiplier": 0.91,
        "max_grad_norm": 1.5,
        "sample_rate": 0.053,
        "steps": 300,
        "sampler": "poisson",
        "accountant": "pld",
        "expected_batch_size": 64.0,
        "sentence": f"epsilon = {epsilon} at delta = 1e-4 per patient (add-or-remove-one), 300 steps.",
        "risk": {"advantage": 0.61, "tpr_at_fpr": {"0.001": 0.062, "0.01": 0.213}},
        "outside_guarantee": ["the choice of the learning rate", "thresholds fitted on the validation split"],
        "curve": [[step, epsilon * (step / 300) ** 0.5] for step in range(0, 301, 10)],
        "deterministic": deterministic,
    }


def write_comparison(folder: Path, private: str, other: str) -> Path:
    """Return a folder that holds the paired differences of two runs."""
    truth, first, second, patients, attributes = cohort()
    rows = compare(first, second, truth, patients, LABELS, attributes, task="multilabel", seed=0, draws=200)
    table = {"run": private, "baseline": other, "differences": [row.to_table() for row in rows]}
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(table, allow_nan=False))
    return folder


def write_all(root: Path, **private_run: object) -> list[Path]:
    """Return the folders of a whole project below ``root``."""
    return [
        *(write_deid(root / f"deid-{site}", site) for site in ("north", "south", "east")),
        write_dataset(root / "dataset"),
        write_run(root / "runs" / "cxr-dp_s0", private=True, **private_run),
        write_run(root / "runs" / "cxr_s0", private=False),
        write_comparison(root / "comparison", "cxr-dp_s0", "cxr_s0"),
    ]
