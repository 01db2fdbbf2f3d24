"""Every example at the end of a help, as a user types it, on small generated input."""

from __future__ import annotations

import csv
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from release_samples import audit_record, write_release

from meninx import api
from meninx.cli.app import build_app, run
from meninx.cli.examples import EXAMPLES
from meninx.cli.flags import read_options, without_tables
from meninx.core.manifest import Manifest
from meninx.federated.events import StudyEvents, StudyStarted
from meninx.synthetic import write_dataset

HOSPITAL = "north"
LINES = list(dict.fromkeys(line for lines in EXAMPLES.values() for line in lines))
SLOW = {  # example -> what it writes at the end; the folder is printed
    "meninx demo demo-out/": "demo-out/report.html",
    "meninx sweep data/ --recipe tiny --epsilons 3 8 --seeds 0 1": "runs/sweep/sweep.csv",
    "meninx federate simulate east/ north/ west/ --recipe tiny --algorithm fedprox --baselines": (
        "simulation/table.csv"
    ),
}
LONG_AUDITS = (
    "meninx audit membership runs/private/",
    "meninx audit membership runs/private/ --references 16 --out audited/",
)
SEVERAL_PARTS = ("meninx audit runs/private/ --parts bounds one-run --canaries 400",)  # each has an example
LONG_RECONSTRUCTIONS = (
    "meninx audit reconstruct match runs/private/ --metrics ssim",  # the example of the pictures matches, too
    "meninx audit reconstruct runs/private/",
    "meninx audit reconstruct runs/private/ --attacks imprint-pca trap --eps-last 18 --out audited/",
    "meninx audit reconstruct create runs/private/ --batches 5 --bins 128",
)
RELEASE_AUDITS = ("meninx obfuscate audit data/ released/ --attribute sex --permutations 19",)
# The quick tests of features, attributes and simulation call the same functions with less work.
SECONDS_LONG = (
    "meninx obfuscate features vectors.npz shared/ --method leace --attribute sex --labels effusion",
    "meninx audit attributes runs/private/ --attributes sex --permutations 99",
    "meninx federate simulate east/ north/ west/ --recipe tiny --rounds 3 --local-steps 4",
)
LONG = (*RELEASE_AUDITS, *SLOW, *LONG_AUDITS, *SEVERAL_PARTS, *LONG_RECONSTRUCTIONS, *SECONDS_LONG)
VERIFIED_DOSSIER = "meninx verify dossier/"  # of the example of `meninx report`
# They serve until they are stopped; tests/stories/test_three_hospitals.py and test_review_of_layouts.py
# run them as real processes.
SERVING = ("coordinator", "site", "run", "resume", "stop")
# What must lie in the folder before an example can run; all else the example makes itself.
NEEDS = {
    "deid": ("archive",),
    "registry": ("site.key", "site.key.north.registry"),
    "reidentify": ("clean", "site.key"),
    "escrow": ("clean", "site.key"),
    "escrow broker-key": (),
    "escrow log": ("clean", "site.key"),
    "escrow seal": ("clean", "site.key"),
    "prepare": ("clean", "labels.csv", "images"),
    "train": ("data",),
    "evaluate": ("data", "runs"),
    "predict": ("runs", "clean", "images"),
    "verify": ("data",),
    "review": ("clean",),
    "sweep": ("data",),
    "report": ("clean", "data", "runs"),
    "audit": ("many patients", "private run"),
    "audit bounds": (),
    "audit scores": ("scores",),
    "audit one-run": ("many patients", "private run"),
    "audit membership": ("many patients", "private run"),
    "audit reconstruct": ("many patients", "private run"),
    "audit reconstruct match": ("many patients", "private run", "candidates"),
    "audit reconstruct visualise": ("many patients", "private run", "candidates", "matches"),
    "audit identity": ("many patients",),
    "audit attributes": ("many patients", "private run"),
    "obfuscate": ("many patients",),
    "obfuscate audit": ("many patients", "released"),
    "obfuscate compare": ("attacked releases",),
    "obfuscate features": ("many patients", "private run", "vectors"),
    "dicom": ("clean",),
    "demo": (),
    "recipes": (),
    "doctor": (),
    "completion": (),
    "federate": ("data",),
    "federate new": ("data",),
    "federate enrol": ("study",),
    "federate review": ("data", "study"),
    "federate doctor": ("data", "study"),
    "federate status": ("events",),
    "federate simulate": ("hospitals",),
    "dicom restore": ("images",),
    "dicom table": ("classes",),
}


@pytest.fixture(scope="module")
def shop(cohort, tmp_path_factory) -> Path:
    """A folder with what examples start from: archive, clean DICOM, images, a dataset and two runs."""
    root = tmp_path_factory.mktemp("shop")
    source = cohort.root / HOSPITAL
    shutil.copytree(source / "archive", root / "archive")
    with (source / "labels.csv").open(newline="") as stream:
        rows = [
            {name: cell for name, cell in row.items() if name != "mask"} for row in csv.DictReader(stream)
        ]
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    api.new_key(root / "site.key")
    api.deidentify(root / "archive", root / "clean", key=root / "site.key", site=HOSPITAL, workers=1)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with ``data`` and ``runs``: 40 invented patients, a run called ``first`` and a later one.

    ``many patients`` is a dataset of 140, with smaller images; ``private run`` holds a private run on it.
    """
    root = tmp_path_factory.mktemp("trained")
    write_dataset(root / "many patients", patients=140, size=16)
    write_dataset(root / "data", patients=40, size=32)
    first = api.train(root / "data", out=root / "runs", recipe="tiny", epochs=1)
    (root / "runs" / "first").symlink_to(first.out.name)
    api.train(root / "data", out=root / "runs", recipe="tiny", epochs=1, seed=1)
    private = {"epsilon": 8.0, "delta": 1e-3, "deterministic": True}
    made = api.train(root / "many patients", out=root / "private run", recipe="tiny", epochs=1, **private)
    (root / "private run" / "private").symlink_to(made.out.name)
    return root


@pytest.fixture
def ready(shop, trained, tmp_path, monkeypatch) -> Callable[[str], None]:
    """A function that makes a fresh folder ready for one example and goes there."""

    def prepare(line: str) -> None:
        monkeypatch.chdir(tmp_path)
        verb = _verb(line)
        for name in NEEDS[verb]:
            _put(name, tmp_path, shop, trained, verb)
        if verb in ("reidentify", "escrow log"):
            assert _done("meninx escrow seal clean/ --key site.key") == 0
        if "theirs/" in line:
            shutil.copytree(shop / "clean" / "images", tmp_path / "theirs")
            shutil.copytree(shop / "archive", tmp_path / "archive")
        if line == VERIFIED_DOSSIER:
            for name in NEEDS["report"]:
                if not (tmp_path / name).exists():
                    _put(name, tmp_path, shop, trained, "report")
            (made,) = (other for other in EXAMPLES["report"] if "--dossier dossier/" in other)
            assert _done(made) == 0
        if "--key" in line and "--new-key" not in line:
            shutil.copy(shop / "site.key", tmp_path)

    return prepare


def _verb(line: str) -> str:
    words = line.split()[1:4]
    known = (" ".join(words[:count]) for count in (3, 2, 1))
    return next(verb for verb in known if verb in NEEDS or verb == words[0])


def _put(name: str, here: Path, shop: Path, trained: Path, verb: str) -> None:
    if name == "study":
        _put_study(here, trained / "data")
    elif name == "many patients":
        shutil.copytree(trained / name, here / "data")
    elif name in ("data", "runs", "private run"):
        place = here / ("data" if name == "data" else "runs")
        shutil.copytree(trained / name, place, symlinks=True)
        for known in place.glob("*/private/data.json"):
            known.write_text(json.dumps(json.loads(known.read_text()) | {"dataset": str(here / "data")}))
            run_json = known.parents[1] / "run.json"
            record = json.loads(run_json.read_text())
            record["secrets"] |= {known.name: hashlib.sha256(known.read_bytes()).hexdigest()}
            run_json.write_text(json.dumps(record))
    elif name == "images" and verb in ("prepare", "predict"):
        data = Manifest.read(trained / "data")
        for case in data.cases:
            folder = here / "images" / ("effusion" if case.labels["effusion"] else "clear")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(data.root / case.image, folder)
    elif name in ("images", "classes"):
        steps = {
            "images": "meninx dicom export {} images",
            "classes": "meninx dicom folders {} classes --from-tag PatientSex",
        }
        assert run(shlex.split(steps[name].format(shop / "clean"))[1:]) == 0
    elif name in MADE:
        MADE[name](here)
    elif (shop / name).is_dir():
        shutil.copytree(shop / name, here / name)
    else:
        shutil.copy(shop / name, here / name)


def _put_hospitals(here: Path) -> None:
    for seed, site in enumerate(("east", "north", "west")):
        write_dataset(here / site, patients=24, size=32, seed=seed)


def _put_events(here: Path) -> None:
    for folder in ("chest", "north"):
        with StudyEvents(here / folder / "private" / "events.jsonl").writing() as emit:
            emit(StudyStarted(study="chest", run="a1", sites=("east", "north", "west"), rounds=3))


def _put_scores(here: Path) -> None:
    rng = np.random.default_rng(0)
    for name, mean in (("in", 0.4), ("out", 0.0)):
        np.save(here / f"{name}.npy", rng.normal(mean, 1.0, 300))


def _put_candidates(here: Path) -> None:
    few = "--attacks trap --eps-first 3 --eps-last 3"
    assert _done(f"meninx audit reconstruct create {here / 'runs/private'} {few}") == 0


def _put_matches(here: Path) -> None:
    assert _done(f"meninx audit reconstruct match {here / 'runs/private'} --trials 200") == 0


def _put_released(here: Path) -> None:
    assert _done("meninx obfuscate data/ released/ --method blur --no-audit") == 0


def _put_vectors(here: Path) -> None:
    """Write vectors of the cases of ``data`` as another program would."""
    cases = Manifest.read(here / "data").cases
    values = np.random.default_rng(0).normal(size=(len(cases), 6))
    columns = {
        "case_id": [case.case_id for case in cases],
        "patient_id": [case.patient_id for case in cases],
        "split": [case.split for case in cases],
        "sex": [case.attributes["sex"] for case in cases],
        "effusion": [case.labels["effusion"] for case in cases],
    }
    arrays = {name: np.array(column) for name, column in columns.items()}
    np.savez(here / "vectors.npz", features=values, **arrays)


def _put_attacked_releases(here: Path) -> None:
    for name in ("noise-005", "noise-010", "codes"):
        write_release(here / name, audit=audit_record())


MADE = {
    "vectors": _put_vectors,
    "attacked releases": _put_attacked_releases,
    "released": _put_released,
    "candidates": _put_candidates,
    "matches": _put_matches,
    "scores": _put_scores,
    "hospitals": _put_hospitals,
    "events": _put_events,
}


def _put_study(here: Path, data: Path) -> None:
    """Make the folders of a coordinator and three sites, and what they send, as files beside them."""
    recipe = f"--recipe tiny --like {data} --train.epsilon 8 --train.delta 1e-3"
    assert _done(f"meninx federate new chest --name chest {recipe} --quiet") == 0
    for name in ("north", "east", "west"):
        policy = "--allowed-recipes tiny --max-epsilon 8 --max-delta 1e-3"
        assert _done(f"meninx federate enrol {name} --site {name} {policy}") == 0
        shutil.copy(here / name / f"enrol-{name}.json", here)
    assert _done("meninx federate enrol chest --accept enrol-north.json enrol-east.json enrol-west.json") == 0
    shutil.copy(here / "chest" / "study-chest.json", here)


def _files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*")}


def _done(line: str) -> int:
    return run(shlex.split(line)[1:])


def _serves(line: str) -> bool:
    words = line.split()
    return words[1] == "review" or (words[1] == "federate" and words[2] in SERVING)


@pytest.mark.parametrize("line", [line for line in LINES if line not in LONG and not _serves(line)])
def test_the_example_runs(ready, line, capsys):
    ready(line)
    before = _files()
    code = 5 if "--fail-if" in line else 0  # noise from a seed has no bound, so no condition on one passes
    assert _done(line) == code, capsys.readouterr().err
    shown = capsys.readouterr()
    assert shown.out.strip()
    assert "Traceback" not in shown.err
    new = _files() - before
    looks_only = (
        "--dry-run" in line
        or line.startswith("meninx federate enrol chest/")  # changes the study file in its place
        or line.startswith(
            (
                "meninx verify",
                "meninx registry",
                "meninx escrow log",
                "meninx federate doctor",
                "meninx federate status",
            )
        )
        or line.startswith("meninx audit scores")
        or (line.startswith("meninx federate review") and "--approve" not in line and "--refuse" not in line)
        or (
            "--copy" not in line
            and line.startswith(("meninx doctor", "meninx recipes", "meninx completion", "meninx escrow log"))
        )
    )
    assert bool(new) is not (looks_only and "--page" not in line)


@pytest.mark.slow
@pytest.mark.parametrize("line", SLOW)
def test_the_long_example_runs(ready, line, capsys):
    ready(line)
    assert _done(line) == 0, capsys.readouterr().err
    written = Path(SLOW[line])
    assert str(written.parent) in capsys.readouterr().out
    assert ("<html" if written.suffix == ".html" else ",") in written.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("line", SECONDS_LONG)
def test_the_example_of_some_seconds_runs(ready, line):
    ready(line)
    before = _files()
    assert _done(line) == 0
    assert _files() - before


@pytest.mark.parametrize("line", LONG)
def test_the_words_of_a_long_example_are_understood(line):
    app = build_app()
    app.config = (read_options,)
    app.parse_args(without_tables(shlex.split(line)[1:]), exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.parametrize("line", RELEASE_AUDITS)
def test_the_audit_of_a_release_runs(ready, line):
    ready(line)
    assert _done(line) == 0
    assert len([*Path().rglob("release_audit.json")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", LONG_AUDITS)
def test_the_long_audit_runs(ready, line):
    ready(line)
    assert _done(line) == 0
    assert len([*Path().rglob("membership.json")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", SEVERAL_PARTS)
def test_the_audit_of_several_parts_runs(ready, line):
    ready(line)
    assert _done(line) == 0
    assert len([*Path().rglob("one_run.json")]) == 1
    assert len([*Path().rglob("audit.json")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("line", LONG_RECONSTRUCTIONS)
def test_the_long_reconstruction_runs(ready, line):
    ready(line)
    assert _done(line) == 0
    assert len([*Path().rglob("private/audit/reconstruction/index.json")]) == 1


def test_every_example_is_run_by_one_of_them():
    assert set(LONG) < set(LINES)
    assert {_verb(line) for line in LINES} <= set(NEEDS)


def test_the_first_examples_in_a_row_go_from_the_archive_to_a_report(ready, shop):
    ready(EXAMPLES["deid"][0])
    shutil.copy(shop / "labels.csv", "labels.csv")
    assert _done(EXAMPLES["deid"][0]) == 0
    assert Path("site.key").stat().st_mode & 0o777 == 0o600
    assert _done(EXAMPLES["prepare"][0]) == 0
    data = Manifest.read(Path("data"))
    assert data.sites == (HOSPITAL,)
    assert data.info.labels == ("effusion", "pneumothorax", "nodule")
    assert _done("meninx report clean/ data/ --out report.html --quiet") == 0
    assert Path("report.html").stat().st_size > 10_000
