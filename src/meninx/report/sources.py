"""What lies in the folders a report is made of: summaries in JSON, TOML and CSV, never an image or a model."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core.errors import DataError, UsageError, expected
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, DatasetInfo, Manifest
from meninx.metrics.tables import Estimate, Evaluation

Curve = tuple[tuple[float, float], ...]
_POINTS = 200
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_@.-]{0,30}")


@dataclass(frozen=True)
class Deid:
    """One de-identified archive: the content of its ``deid.json``."""

    name: str
    table: Mapping[str, Any]


@dataclass(frozen=True)
class Dataset:
    """One prepared dataset: its meaning and its counts.

    Attributes:
        name: folder name.
        info: meaning of the columns.
        counts: split -> (cases, patients); empty without a manifest.
        sites: site -> (cases, patients).
        positives: label -> (positive cases, known cases).
    """

    name: str
    info: DatasetInfo
    counts: Mapping[str, tuple[int, int]]
    sites: Mapping[str, tuple[int, int]]
    positives: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Comparison:
    """Paired differences of two runs on the same cases.

    Attributes:
        run: name of the run that was measured.
        baseline: name of the run it is compared with.
        differences: run minus baseline.
    """

    run: str
    baseline: str
    differences: tuple[Estimate, ...]


@dataclass(frozen=True)
class TrainedRun:
    """One run folder, without its private room except for the averaged training curves."""

    name: str
    root: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    privacy: Mapping[str, Any] | None
    evaluation: Evaluation | None
    not_for_release: bool
    digests: Mapping[str, str]
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether the run was trained with differential privacy."""
        return bool(self.privacy) and self.privacy is not None and self.privacy.get("epsilon") is not None


Source = Deid | Dataset | TrainedRun | Comparison


def read(paths: Sequence[Path]) -> list[Source]:
    """Return what the folders hold, in the order given; a folder of such folders is looked through, two levels deep.

    Raises:
        UsageError: a path is not there, or holds nothing that a stage wrote.
        DataError: a summary is not valid JSON or TOML; names the file.
    """
    found: list[Source] = []
    for path in paths:
        here = list(_read_tree(path, depth=2))
        if not here:
            what = "a folder that deid, prepare or train wrote (deid.json, dataset.toml, or config.toml with private/)"
            raise UsageError(expected(what, got="none" if path.exists() else "no such folder", where=str(path)))
        found += here
    return found


def read_json(path: Path) -> Any:
    """Return the JSON in a file, or None when there is no file.

    Raises:
        DataError: the file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(expected("valid JSON", got="something else", where=path.name, fix="write it again")) from error


def _read_tree(path: Path, depth: int) -> Iterator[Source]:
    here = list(_read_one(path))
    yield from here
    if here or not depth or not path.is_dir():
        return
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _read_tree(child, depth - 1)


def _read_one(path: Path) -> Iterator[Source]:
    if (path / "deid.json").is_file():
        yield Deid(path.name, read_json(path / "deid.json"))
    if (path / INFO_NAME).is_file():
        yield _dataset(path)
    if (path / "config.toml").is_file() and (path / "private").is_dir():
        yield _run(path.resolve())
    for name in ("comparison.json", "release/comparison.json"):
        table = read_json(path / name)
        if table is not None:
            yield _comparison(table, name)


def _dataset(path: Path) -> Dataset:
    if not (path / MANIFEST_NAME).is_file():
        info = DatasetInfo.from_toml((path / INFO_NAME).read_text(encoding="utf-8"), INFO_NAME)
        return Dataset(path.name, info, {}, {}, {})
    manifest = Manifest.read(path)
    targets = manifest.targets()
    positives = {
        label: (int((targets[:, column] == 1).sum()), int((targets[:, column] >= 0).sum()))
        for column, label in enumerate(manifest.info.labels)
        if manifest.info.task != "segmentation"
    }
    return Dataset(path.name, manifest.info, _tally(manifest, "split"), _tally(manifest, "site"), positives)


def _tally(manifest: Manifest, column: str) -> dict[str, tuple[int, int]]:
    """Return for each value of a column its cases and patients."""
    cases = Counter(str(getattr(case, column)) for case in manifest.cases)
    patients = Counter(value for value, _ in {(str(getattr(case, column)), case.patient_id) for case in manifest.cases})
    order = sorted(cases, key=lambda name: ({"train": 0, "valid": 1, "test": 2}.get(name, 3), name))
    return {name: (cases[name], patients[name]) for name in order if name}


def _run(root: Path) -> TrainedRun:
    table = read_json(root / "release" / "evaluation.json")
    privacy = read_json(root / "privacy.json")
    digested = [root / name for name in ("config.toml", "privacy.json", "release/evaluation.json")]
    digested += [path for path in sorted((root / "release").rglob("*")) if path.suffix in (".pt", ".onnx")]
    try:
        config = tomllib.loads((root / "config.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DataError(expected("valid TOML", got="something else", where="config.toml")) from error
    return TrainedRun(
        name=root.name,
        root=root,
        config=config,
        environment=read_json(root / "environment.json") or {},
        privacy=privacy or None,
        evaluation=None if table is None else Evaluation.from_table(table),
        not_for_release=(root / "NOT_FOR_RELEASE").exists(),
        digests={path.relative_to(root).as_posix(): files.digest(path) for path in digested if path.is_file()},
        curves=_curves(root / "private" / "metrics.jsonl"),
    )


def _curves(path: Path) -> dict[str, Curve]:
    """Return the numeric curves of a training log over its steps, averaged to at most 200 points each; text is dropped."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half-written last line of a killed run
        if not isinstance(row, dict):
            continue
        step = row.get("step", row.get("epoch"))
        kind = row.get("kind", "")
        prefix = f"{kind} " if isinstance(kind, str) and kind in ("train", "valid", "test") else ""
        for key, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if number and key not in ("step", "epoch") and _NAME.fullmatch(key) and isinstance(step, (int, float)):
                found.setdefault(prefix + key, []).append((float(step), float(value)))
    return {name: _thinned(points) for name, points in found.items() if len(points) > 1}


def _thinned(points: Sequence[tuple[float, float]]) -> Curve:
    size = math.ceil(len(points) / _POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)


def _comparison(table: Any, name: str) -> Comparison:
    try:
        rows = tuple(Estimate.from_table(row) for row in table["differences"])
        return Comparison(str(table["run"]), str(table["baseline"]), rows)
    except (KeyError, TypeError) as error:
        raise DataError(expected("keys run, baseline and differences", got=f"no {error}", where=name)) from error
