"""Numbers and weights are bound to their inputs: with one changed, the program refuses or they change."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meninx.core import artifacts, files, integrity
from meninx.core import run as runs
from meninx.core.artifacts import (
    ComparisonRecord,
    EvaluationRecord,
    Lineage,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.learn import inference, ledger_file
from meninx.report import figures
from meninx.report import stage as report
from meninx.report.config import ReportConfig
from meninx.synthetic import write_dataset
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig
from meninx.verify import stage as verify
from meninx.verify.check_list import State

PLAIN = TrainConfig.of(
    model="resnet9-small", model_options={"width": 4}, steps=2, batch_size=6, device="cpu", attack_risk=False
)
TERMS = PrivacyConfig(epsilon=8.0, delta=1e-3)
PRIVATE = PLAIN.replace(privacy=TERMS)
QUICK = EvaluateConfig(draws=100, predictions=())
WEIGHTS = Path("release") / "bundle" / "models" / "model.pt"


class StopAfter(Silent):
    """Progress of a user who presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def pages_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and verdicts are read here; to draw the curves takes half of the time of a page."""
    monkeypatch.setattr(
        figures, "drawn", lambda draw, name, alt, size: f"<svg aria-label='{len(alt)}'></svg>"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 invented patients."""
    return write_dataset(tmp_path_factory.mktemp("provenance") / "data", patients=24, size=32)


@pytest.fixture(scope="module")
def strangers(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 other patients."""
    root = tmp_path_factory.mktemp("strangers") / "data"
    found = write_dataset(root, patients=24, size=32, seed=7)
    cases = tuple(
        replace(case, patient_id=f"Q{case.patient_id}", case_id=f"q{case.case_id}") for case in found.cases
    )
    changed = Manifest(root, found.info, cases)
    changed.write()
    return changed


@pytest.fixture(scope="module")
def plain(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run without privacy."""
    return Run(stage.run(PLAIN, data.root, tmp_path_factory.mktemp("plain")).out)


@pytest.fixture(scope="module")
def private(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished private run."""
    return Run(stage.run(PRIVATE, data.root, tmp_path_factory.mktemp("private")).out)


@pytest.fixture
def copied(private: Run, tmp_path: Path) -> Run:
    """A copy of the private run that a test may write into."""
    shutil.copytree(private.root, tmp_path / "copied")
    return Run(tmp_path / "copied")


def written(run: Run) -> PrivacyRecord:
    record = artifacts.read(run.root, PrivacyRecord)
    assert record is not None
    return record


def changed(data: Manifest, root: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """Return a copy of a dataset with another table."""
    shutil.copytree(data.root, root)
    change(Manifest.read(root)).write()
    return root


def swapped_splits(data: Manifest) -> Manifest:
    """Return the dataset with training and test patients exchanged, as by another seed of the split."""
    other = {"train": "test", "test": "train", "valid": "valid"}
    return replace(data, cases=tuple(replace(case, split=other[case.split]) for case in data.cases))


def with_digests(root: Path) -> None:
    """Give a dataset the list of digests that `prepare` writes."""
    integrity.write(
        root, integrity.measured(root, [path for path in (root / "images").rglob("*") if path.is_file()])
    )


# where the weights came from


@pytest.mark.parametrize("dry_run", [True, False])
def test_weights_of_the_same_patients_without_privacy_cannot_begin_a_private_run(
    plain, data, tmp_path, dry_run
):
    config = PLAIN.replace(pretrained=str(plain.root / WEIGHTS), privacy=TERMS.replace(epsilon=0.5))
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(config, data.root, tmp_path / "runs", dry_run=dry_run)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_nor_can_a_checkpoint(plain, data, tmp_path, name):
    config = PRIVATE.replace(pretrained=str(plain.private / "checkpoints" / name))
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(config, data.root, tmp_path / "runs")


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_intensity_from_the_training_images_cannot_be_in_a_private_run(data, tmp_path, dry_run):
    def from_patients(found: Manifest) -> Manifest:
        return replace(
            found, info=replace(found.info, intensity=replace(found.info.intensity, source="train"))
        )

    root = changed(data, tmp_path / "data", from_patients)
    with pytest.raises(PrivacyRefusal, match="prepare the dataset with --intensity format"):
        stage.run(PRIVATE, root, tmp_path / "runs", dry_run=dry_run)
    assert not (tmp_path / "runs").exists()


def test_without_privacy_it_is_recorded(plain, data, tmp_path):
    run = Run(stage.run(PLAIN.replace(pretrained=str(plain.root / WEIGHTS)), data.root, tmp_path).out)
    start = written(run).start
    assert start is not None
    assert (start.origin, start.shared_patients, start.composed) == ("run", True, False)
    assert start.run == artifacts.read(plain.root, RunRecord).id


def test_weights_of_other_patients_are_a_known_start(plain, strangers, tmp_path):
    run = Run(stage.run(PRIVATE.replace(pretrained=str(plain.root / WEIGHTS)), strangers.root, tmp_path).out)
    record = written(run)
    assert (record.start.origin, record.start.shared_patients, record.start.composed) == ("run", False, False)
    assert record.epsilon == record.own_epsilon
    assert not [text for text in record.outside_guarantee if "unknown origin" in text]
    said = (
        f"the starting weights come from run {record.start.run[:8]}, trained without differential "
        "privacy on other patients"
    )
    assert f"{said}: nothing is promised to them" in record.outside_guarantee
    lineage = artifacts.read(run.root, Lineage)
    assert [parent.run for parent in lineage.parents] == [record.start.run]


def test_a_file_that_nobody_knows_stands_outside_the_guarantee(plain, data, tmp_path):
    torch.save(torch.load(plain.root / WEIGHTS, weights_only=True), tmp_path / "found.pt")
    config = PRIVATE.replace(pretrained=str(tmp_path / "found.pt"))
    assert "of unknown origin" in stage.run(config, data.root, tmp_path / "runs", dry_run=True).summary()
    run = Run(stage.run(config, data.root, tmp_path / "runs").out)
    record = written(run)
    assert record.start.origin == "unknown"
    assert any("unknown origin" in text for text in record.outside_guarantee)
    assert artifacts.read(run.root, Lineage).unknown_start


def test_exchanged_weights_in_a_release_are_of_unknown_origin(plain, strangers, tmp_path):
    shutil.copytree(plain.root, tmp_path / "copy")
    state = torch.load(plain.root / WEIGHTS, weights_only=True)
    torch.save({name: value + 0.01 for name, value in state.items()}, tmp_path / "copy" / WEIGHTS)
    config = PRIVATE.replace(pretrained=str(tmp_path / "copy" / WEIGHTS))
    assert stage.run(config, strangers.root, tmp_path / "runs", dry_run=True).start.origin == "unknown"


def test_the_cost_of_a_private_start_on_the_same_patients_is_added(private, data, tmp_path):
    config = PRIVATE.replace(pretrained=str(private.root / WEIGHTS))
    dry = stage.run(config, data.root, tmp_path / "dry", dry_run=True)
    result = stage.run(config, data.root, tmp_path / "runs")
    record = written(Run(result.out))
    assert record.start.composed
    assert record.own_epsilon <= 8.0 < record.epsilon < 16.0
    assert result.privacy.epsilon == record.epsilon
    assert (dry.privacy.epsilon, dry.own_epsilon) == (
        pytest.approx(record.epsilon),
        pytest.approx(record.own_epsilon),
    )
    assert "the private training behind its starting weights included" in record.sentence


def test_a_release_that_was_passed_on_is_traced_by_the_keys_of_this_house(plain, data, tmp_path):
    house = tmp_path / "runs"
    shutil.copytree(plain.root, house / plain.name)
    shutil.copytree(plain.release, tmp_path / "partner" / "release")
    config = PRIVATE.replace(pretrained=str(tmp_path / "partner" / WEIGHTS))
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(config, data.root, house, dry_run=True)
    assert stage.run(config, data.root, tmp_path / "elsewhere", dry_run=True).start.origin == "unknown"


def test_what_the_starting_weights_started_from_counts_too(plain, data, strangers, tmp_path):
    house = tmp_path / "runs"
    shutil.copytree(plain.root, house / plain.name)
    config = PRIVATE.replace(pretrained=str(house / plain.name / WEIGHTS))
    between = stage.run(config, strangers.root, house).out
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(PRIVATE.replace(pretrained=str(between / WEIGHTS)), data.root, house, dry_run=True)
    with pytest.raises(DataError, match="training of its starting weights"):
        evaluate.run(QUICK.replace(split="train"), between, data.root)


def test_the_same_images_under_other_names_are_found(data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(data.root, first)
    changed(data, second, lambda found: replace(found, cases=tuple(_renamed(case) for case in found.cases)))
    for root in (first, second):
        with_digests(root)
    start = stage.run(PLAIN, first, tmp_path / "runs").out / WEIGHTS
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(PRIVATE.replace(pretrained=str(start)), second, tmp_path / "runs", dry_run=True)


def _renamed(case):
    return replace(case, patient_id=f"Z{case.patient_id}", case_id=f"z{case.case_id}")


# how many patients there are


def test_with_a_declared_number_the_true_one_is_told_nowhere(data, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["meninx"])  # the number of words of the command is a number, too
    present, declared = len(data.split("train").patients), 50
    config = PRIVATE.replace(privacy=TERMS.replace(units_declared=declared))
    run = Run(stage.run(config, data.root, tmp_path).out)
    assert written(run).declared_units == declared
    assert not [text for text in written(run).outside_guarantee if "counts as public" in text]
    assert len(artifacts.read(run.root, Lineage).patients) == declared
    evaluate.run(QUICK, run.root)
    for path in (run.root / "privacy.json", run.root / "run.json", run.release / "lineage.json"):
        assert present not in _numbers(json.loads(path.read_text())), path.name


def _numbers(value: object) -> set[float]:
    if isinstance(value, dict):
        return {number for item in value.values() for number in _numbers(item)}
    if isinstance(value, list):
        return {number for item in value for number in _numbers(item)} | {len(value)}
    return {value} if isinstance(value, (int, float)) and not isinstance(value, bool) else set()


@pytest.mark.parametrize("dry_run", [True, False])
def test_fewer_declared_than_present_is_refused_before_the_run(data, tmp_path, dry_run):
    config = PRIVATE.replace(privacy=TERMS.replace(units_declared=len(data.split("train").patients) - 1))
    with pytest.raises(PrivacyRefusal, match="declare the true number"):
        stage.run(config, data.root, tmp_path / "runs", dry_run=dry_run)
    assert not (tmp_path / "runs").exists()


def test_exact_numbers_about_training_patients_of_a_private_run_stay_private(copied, plain, data, tmp_path):
    result = evaluate.run(QUICK.replace(split="train"), copied.root)
    assert result.out == copied.private / "evaluation-train.json"
    assert "they stay in private/" in result.summary()
    assert not (copied.release / "evaluation-train.json").exists()
    assert (
        evaluate.run(QUICK.replace(split="valid"), copied.root).out
        == copied.release / "evaluation-valid.json"
    )
    shutil.copytree(plain.root, tmp_path / "plain")
    assert evaluate.run(QUICK.replace(split="train"), tmp_path / "plain").out.parent.name == "release"


# what is measured


def test_patients_of_the_training_cannot_be_measured_as_others(copied, data, tmp_path):
    evaluate.run(QUICK, copied.root)
    before = (copied.release / "evaluation.json").read_bytes()
    again = changed(data, tmp_path / "again", swapped_splits)
    with pytest.raises(DataError, match=f"got {len(data.split('train').patients)} patients"):
        evaluate.run(QUICK, copied.root, again)
    assert (copied.release / "evaluation.json").read_bytes() == before


def test_nor_when_the_folder_of_the_dataset_was_overwritten(data, tmp_path):
    shutil.copytree(data.root, tmp_path / "data")
    run = stage.run(PLAIN, tmp_path / "data", tmp_path / "runs").out
    swapped_splits(Manifest.read(tmp_path / "data")).write()
    with pytest.raises(DataError, match="patients who took no part"):
        evaluate.run(QUICK, run)
    shutil.rmtree(tmp_path / "data")
    changed(data, tmp_path / "data", lambda found: found.select(lambda case: case.split == "test"))
    with pytest.raises(DataError, match="dataset that the run was trained on was changed"):
        evaluate.run(QUICK, run)


def test_the_same_images_under_other_pseudonyms_cannot_be_measured(data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(data.root, first)
    changed(
        data,
        second,
        lambda found: swapped_splits(replace(found, cases=tuple(_renamed(case) for case in found.cases))),
    )
    for root in (first, second):
        with_digests(root)
    run = stage.run(PLAIN, first, tmp_path / "runs").out
    with pytest.raises(DataError, match=r"got \d+ images"):
        evaluate.run(QUICK, run, second)


def test_another_dataset_has_its_own_place_and_the_thresholds_of_the_run(copied, strangers, data):
    evaluate.run(QUICK, copied.root)
    before = (copied.release / "evaluation.json").read_bytes()
    result = evaluate.run(QUICK, copied.root, strangers.root)
    assert result.external
    assert (copied.release / "evaluation.json").read_bytes() == before
    record = artifacts.read_file(result.out, EvaluationRecord)
    assert record is not None
    assert (record.external, record.patients_compared) == (True, True)
    assert record.thresholds_from == f"valid of {data.info.name}"
    assert record.origin.data != artifacts.read(copied.root, RunRecord).data
    listed = integrity.read(copied.release)
    assert {"evaluation.json", result.out.name} <= set(listed)
    assert not integrity.damage(copied.release)
    assert artifacts.read(copied.root, RunRecord).release == integrity.digest_of(copied.release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: _relabelled(found), "label"),
        (
            lambda found: replace(found, info=replace(found.info, channels=3)),
            "channels 1 as in training, got 3",
        ),
        (lambda found: replace(found, info=replace(found.info, task=TaskKind.MULTICLASS)), "task multilabel"),
        (
            lambda found: replace(
                found, cases=tuple(replace(case, labels=dict.fromkeys(case.labels)) for case in found.cases)
            ),
            "no case of the measured split has a label",
        ),
    ],
)
def test_a_dataset_that_asks_something_else_replaces_nothing(copied, strangers, tmp_path, change, message):
    evaluate.run(QUICK, copied.root)
    before = {path: path.read_bytes() for path in copied.release.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=message):
        evaluate.run(QUICK, copied.root, changed(strangers, tmp_path / "other", change))
    assert {path: path.read_bytes() for path in copied.release.rglob("*") if path.is_file()} == before


def test_labels_in_another_order_are_the_same_labels(copied, strangers, tmp_path):
    def turned(found: Manifest) -> Manifest:
        return replace(found, info=replace(found.info, labels=found.info.labels[::-1]))

    same = evaluate.run(QUICK, copied.root, strangers.root)
    other = evaluate.run(QUICK, copied.root, changed(strangers, tmp_path / "other", turned))
    assert repr(sorted(other.by_label.items())) == repr(sorted(same.by_label.items()))  # some values are NaN


def _relabelled(found: Manifest) -> Manifest:
    names = {name: f"other {name}" for name in found.info.labels}
    cases = tuple(
        replace(case, labels={names[name]: value for name, value in case.labels.items()})
        for case in found.cases
    )
    return replace(found, info=replace(found.info, labels=tuple(names.values()), laterality=()), cases=cases)


def test_an_evaluation_says_which_weights_data_and_split_it_belongs_to(copied, data):
    evaluate.run(QUICK, copied.root)
    record, run = artifacts.read(copied.root, EvaluationRecord), artifacts.read(copied.root, RunRecord)
    origin = record.origin
    assert (origin.run, origin.weights, origin.step, origin.data, origin.split) == (
        run.id,
        run.weights,
        2,
        run.data,
        "test",
    )
    assert origin.weights == written(copied).origin.weights
    assert record.patients_compared


def test_other_weights_in_the_checkpoint_are_not_measured(copied, plain):
    for name in ("last.pt", "best.pt"):
        shutil.copy(plain.private / "checkpoints" / name, copied.private / "checkpoints" / name)
    with pytest.raises(DataError, match="does not hold the released weights"):
        evaluate.run(QUICK, copied.root)


def test_a_run_is_measured_when_it_is_finished(data, tmp_path):
    with pytest.raises(Interrupted):
        stage.run(PRIVATE.replace(steps=3), data.root, tmp_path, progress=StopAfter(1))
    run = runs.open_run(tmp_path / "latest")
    with pytest.raises(UsageError, match="expected a finished run"):
        evaluate.run(QUICK, run.root)
    assert not list(run.release.iterdir())
    stage.run(PRIVATE, data.root, tmp_path, resume=run.root)
    evaluate.run(QUICK, run.root)
    assert artifacts.read(run.root, EvaluationRecord).origin.step == 3


def test_a_run_whose_best_weights_came_before_its_last_step_is_reported_and_verified(
    data, tmp_path, monkeypatch
):
    scores = []

    def worsening(*given, **named):
        name = next(name for name in real(*given, **named) if name != "loss")
        scores.append({"loss": float(len(scores) + 1), name: 1.0 / (len(scores) + 1)})
        return scores[-1]

    real = inference.measure
    monkeypatch.setattr(inference, "measure", worsening)
    config = PLAIN.replace(steps=0, epochs=3, eval_every=1, select="best")
    run = Run(stage.run(config, data.root, tmp_path / "runs").out)
    evaluate.run(QUICK, run.root)
    known = artifacts.read(run.root, RunRecord)
    measured = artifacts.read(run.root, EvaluationRecord).origin.step
    assert len(scores) > 1
    assert measured < known.step
    assert known.released_step == measured
    found = verify.run(run.root)
    assert found.ok, found.summary()
    result = report.run(ReportConfig(), [run.root], tmp_path / "page.html")
    assert "AUROC" in result.out.read_text()
    table = json.loads((run.release / "evaluation.json").read_text())
    table["origin"]["step"] = known.step
    (run.release / "evaluation.json").write_text(json.dumps(table))
    run.enlist(added=[run.release / "evaluation.json"])
    assert any(
        "other weights" in line.line() for line in verify.run(run.root).checks if line.state is State.NOT_OK
    )
    report.run(ReportConfig(overwrite=True), [run.root], tmp_path / "page.html")
    assert "was measured on other weights" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "change", [{"outside_guarantee": []}, {"sentence": "epsilon = 0.1."}, {"start": None}], ids=str
)
def test_words_of_a_released_privacy_record_cannot_be_changed(copied, tmp_path, change):
    assert verify.run(copied.root).ok
    path = copied.root / artifacts.place(PrivacyRecord)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = verify.run(copied.root)
    assert found.exit_code == 4
    assert "changed since the run was released" in found.summary()
    with pytest.raises(PrivacyRefusal, match=r"privacy\.json"):
        report.run(ReportConfig(), [copied.root], tmp_path / "page.html")


@pytest.mark.parametrize("field", ["declared_units", "clipping", "sampler"])
def test_verify_and_report_compare_the_same_fields_with_the_ledger(copied, tmp_path, field):
    path = copied.root / artifacts.place(PrivacyRecord)
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {field: 7 if field == "declared_units" else "other"})
    )
    copied.update(privacy=files.digest(path))
    found = verify.run(copied.root)
    assert found.exit_code == 4
    assert field.replace("_", " ") in found.summary()
    with pytest.raises(PrivacyRefusal, match=field):
        report.run(ReportConfig(), [copied.root], tmp_path / "page.html")


def test_a_model_card_belongs_to_the_release(copied, data, tmp_path):
    evaluate.run(QUICK, copied.root)
    config = ReportConfig(
        card=True,
        license="other",
        authors="A",
        contact="a@example.org",
        intended_use="Research.",
        overwrite=True,
    )
    card, page = copied.release / "MODEL_CARD.md", copied.release / "report.html"
    for _ in range(2):
        report.run(config, [copied.root, data.root], page)
        found = verify.run(copied.root)
        assert found.ok, found.summary()
    for path in (card, page):
        before = path.read_bytes()
        path.write_bytes(before + b"epsilon = 0.1\n")
        assert path.name in "".join(
            line.line() for line in verify.run(copied.root).checks if line.state is State.NOT_OK
        )
        path.write_bytes(before)
    assert verify.run(copied.root).ok


# comparisons


def test_a_comparison_belongs_to_its_split(copied, plain):
    evaluate.run(QUICK.replace(baseline=plain.root), copied.root)
    before = (copied.release / "comparison.json").read_bytes()
    evaluate.run(QUICK.replace(baseline=plain.root, split="valid"), copied.root)
    assert (copied.release / "comparison.json").read_bytes() == before
    [test, valid] = [
        artifacts.read(copied.root, ComparisonRecord, split=split) for split in ("test", "valid")
    ]
    assert (test.origin.split, valid.origin.split) == ("test", "valid")
    assert test.baseline.run == artifacts.read(plain.root, RunRecord).id


def test_an_older_comparison_of_other_weights_goes_with_the_next_evaluation(copied, plain):
    evaluate.run(QUICK.replace(baseline=plain.root), copied.root)
    record = artifacts.read(copied.root, ComparisonRecord)
    evaluate.run(QUICK, copied.root)
    assert artifacts.read(copied.root, ComparisonRecord) == record
    artifacts.write(copied.root, replace(record, origin=replace(record.origin, weights="0" * 64)))
    evaluate.run(QUICK, copied.root)
    assert artifacts.read(copied.root, ComparisonRecord) is None
    assert not integrity.damage(copied.release)


def test_a_baseline_that_was_trained_on_the_measured_patients_is_refused(copied, data, tmp_path):
    other = stage.run(PLAIN, changed(data, tmp_path / "other", swapped_splits), tmp_path / "runs").out
    with pytest.raises(DataError, match="patients who took no part"):
        evaluate.run(QUICK.replace(baseline=other), copied.root)


# epsilon is the ledger's


def test_a_torn_line_counts_everywhere(data, tmp_path):
    config = PRIVATE.replace(steps=6, eval_every=10)
    with pytest.raises(Interrupted):
        stage.run(config, data.root, tmp_path, progress=StopAfter(3))
    run = runs.open_run(tmp_path / "latest")
    with run.ledger_path.open("a") as stream:
        stream.write('{"index": 3, "st')
    result = stage.run(config, data.root, tmp_path, resume=run.root)
    spent = ledger_file.read(run).spent()
    assert spent.steps == 7
    assert result.privacy == spent
    assert result.privacy.epsilon > stage.run(config, data.root, tmp_path, dry_run=True).privacy.epsilon
    assert f"epsilon = {spent.epsilon:.3g}" in result.summary()
    assert "7 steps" in result.summary()
    record = written(run)
    assert (record.epsilon, record.steps) == (spent.epsilon, 7)
    shown = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert max(line.get("epsilon") or 0 for line in shown) >= spent.epsilon


# a start that fails


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (PLAIN.replace(device="cuda:7"), ConfigError),
        (PLAIN.replace(image_size=(16, 16)), DataError),
        (PRIVATE.replace(image_size=(16, 16)), DataError),
        (PLAIN.replace(pretrained="nowhere.pt"), DataError),
        (PLAIN.replace(model="unet-small", model_options={}), ConfigError),
        (PLAIN.replace(warmup=5), ConfigError),
    ],
)
def test_a_start_that_fails_leaves_no_folder_and_latest_where_it_was(data, tmp_path, config, kind, dry_run):
    out = tmp_path / "runs"
    with pytest.raises(kind):
        stage.run(config, data.root, out, dry_run=dry_run)
    assert not out.exists()
    good = stage.run(PLAIN.replace(steps=1), data.root, out).out
    with pytest.raises(kind):
        stage.run(config, data.root, out, dry_run=dry_run)
    assert {path.name for path in out.iterdir()} == {good.name, "latest"}
    assert (out / "latest").resolve() == good.resolve()


def test_a_classifier_is_refused_for_a_segmentation(tmp_path):
    pictures = write_dataset(
        tmp_path / "data", task=TaskKind.SEGMENTATION, patients=8, size=32, prevalence=0.9
    )
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match="a network for segmentation"):
            stage.run(PLAIN, pictures.root, tmp_path / "runs", dry_run=dry_run)
        config = PLAIN.replace(model="unet-small", model_options={}, patch_size=(8, 8, 8))
        with pytest.raises(DataError, match="3 spatial axes as in patch_size"):
            stage.run(config, pictures.root, tmp_path / "runs", dry_run=dry_run)
    assert not (tmp_path / "runs").exists()


# what the page prints


def test_the_config_of_a_run_says_what_was_done(private, plain):
    text = private.config_path.read_text()
    for line in ('loss = "bce"', 'method = "poisson"', "steps = 2", 'select = "last"'):
        assert line in text
    assert "epochs" not in text
    assert 'select = "best"' in plain.config_path.read_text()


# runs of an earlier version


def test_a_run_of_an_earlier_version_is_measured_with_a_word_and_never_resumed(copied, data):
    for name in (
        "run.json",
        "private/members.json",
        "private/lineage.json",
        "release/lineage.json",
        "release/checksums.sha256",
    ):
        (copied.root / name).unlink()
    result = evaluate.run(QUICK, copied.root)
    assert any("earlier version" in note and "does not hold" in note for note in result.notes)
    assert artifacts.read(copied.root, EvaluationRecord).patients_compared
    with pytest.raises(PrivacyRefusal, match="earlier version"):
        stage.run(PRIVATE, data.root, copied.root.parent, resume=copied.root)


def test_a_finished_run_is_closed_and_whole(private):
    record = artifacts.read(private.root, RunRecord)
    assert record.state is RunState.RELEASED
    assert record.release == integrity.digest_of(private.release)
    assert not integrity.damage(private.release)
    assert math.isclose(written(private).epsilon, ledger_file.read(private).epsilon(TERMS.delta))


def test_a_lineage_that_was_edited_on_its_way_is_not_believed(plain, data, tmp_path):
    house = tmp_path / "runs"
    shutil.copytree(plain.root, house / plain.name)
    partner = tmp_path / "partner" / "release"
    shutil.copytree(plain.release, partner)
    lineage = artifacts.read(plain.root, Lineage)
    artifacts.write(partner.parent, replace(lineage, patients=(), data="", private=True))
    integrity.write(
        partner, integrity.measured(partner, [partner / "lineage.json", partner.parent / WEIGHTS])
    )
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        stage.run(PRIVATE.replace(pretrained=str(partner.parent / WEIGHTS)), data.root, house, dry_run=True)
