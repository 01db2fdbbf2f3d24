"""Somebody copies files of one run into another: nothing is believed that the folder cannot support."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from meninx.core import artifacts, files, integrity
from meninx.core import run as runs
from meninx.core.artifacts import (
    ComparisonRecord,
    DataRecord,
    EvaluationRecord,
    Lineage,
    Members,
    PrivacyRecord,
)
from meninx.core.errors import DataError, Interrupted, PrivacyRefusal
from meninx.core.manifest import Manifest
from meninx.core.progress import Silent
from meninx.core.run import Run
from meninx.report import figures
from meninx.report import stage as report
from meninx.report.config import ReportConfig
from meninx.synthetic import write_dataset
from meninx.train import evaluate, stage
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig
from meninx.verify import stage as verify

PLAIN = TrainConfig.of(
    model="resnet9-small", model_options={"width": 4}, steps=4, batch_size=6, device="cpu", attack_risk=False
)
PRIVATE = PLAIN.replace(privacy=PrivacyConfig(epsilon=8.0, delta=1e-3), eval_every=2)
QUICK = EvaluateConfig(draws=100, predictions=())
WEIGHTS = Path("release") / "bundle" / "models" / "model.pt"
NAMES = ["last.pt", "best.pt"]


class StopAfter(Silent):
    """Progress of a user who presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, **fields: float | str) -> None:
        self.left -= count if fields else 0  # filling the cache of images says nothing of a loss or epsilon
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
    return write_dataset(tmp_path_factory.mktemp("swaps") / "data", patients=24, size=32)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Radiographs of 24 other patients."""
    found = write_dataset(tmp_path_factory.mktemp("others") / "data", patients=24, size=32, seed=7)
    cases = tuple(
        replace(case, patient_id=f"Q{case.patient_id}", case_id=f"q{case.case_id}") for case in found.cases
    )
    Manifest(found.root, found.info, cases).write()
    return Manifest.read(found.root)


@pytest.fixture(scope="module")
def plain(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run without privacy."""
    return Run(stage.run(PLAIN, data.root, tmp_path_factory.mktemp("plain")).out)


@pytest.fixture(scope="module")
def _elsewhere(others: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(stage.run(PRIVATE, others.root, tmp_path_factory.mktemp("elsewhere")).out)


@pytest.fixture
def elsewhere(_elsewhere: Run, tmp_path: Path) -> Run:
    """A finished private run on other patients."""
    return Run(shutil.copytree(_elsewhere.root, tmp_path / "elsewhere"))


@pytest.fixture(scope="module")
def _measured(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(stage.run(PRIVATE, data.root, tmp_path_factory.mktemp("measured")).out)
    evaluate.run(QUICK, run.root)
    return run


@pytest.fixture
def measured(_measured: Run, tmp_path: Path) -> Run:
    """A finished private run with an evaluation of its test split."""
    return Run(shutil.copytree(_measured.root, tmp_path / "measured"))


def interrupted(config: TrainConfig, source: Manifest, out: Path) -> Run:
    """Return a run that was stopped after two steps."""
    with pytest.raises(Interrupted):
        stage.run(config, source.root, out, progress=StopAfter(2))
    return runs.open_run((out / "latest").resolve())


def origin_of(weights: Path, source: Manifest, out: Path) -> str:
    """Return what a private run would say of the origin of its starting weights."""
    start = stage.run(PRIVATE.replace(pretrained=str(weights)), source.root, out, dry_run=True).start
    assert start is not None
    return start.origin


def checkpoint(run: Run, name: str) -> Path:
    return run.private / "checkpoints" / name


# checkpoints of other runs


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_a_finished_run_is_the_one_that_it_ended_with(plain, elsewhere, data, tmp_path, name):
    assert origin_of(checkpoint(elsewhere, name), data, tmp_path) == "run"
    shutil.copy(checkpoint(plain, name), checkpoint(elsewhere, name))
    assert origin_of(checkpoint(elsewhere, name), data, tmp_path) == "unknown"
    strong = PLAIN.replace(privacy=PrivacyConfig(epsilon=0.9, delta=1e-3))
    config = strong.replace(pretrained=str(checkpoint(elsewhere, name)))
    result = stage.run(config, data.root, tmp_path / "runs")
    page = report.run(ReportConfig(date="2026-11-20"), [result.out], tmp_path / "page.html")
    assert page.verdicts["Privacy of training?"].startswith("amber")


@pytest.mark.parametrize("name", NAMES)
def test_verify_names_an_exchanged_checkpoint(plain, elsewhere, name):
    assert verify.run(elsewhere.root).ok
    shutil.copy(checkpoint(plain, name), checkpoint(elsewhere, name))
    found = verify.run(elsewhere.root)
    assert f"private/checkpoints/{name}" in found.summary()
    assert not found.ok


def test_a_checkpoint_of_an_unfinished_private_run_carries_lines_of_its_ledger(plain, others, data, tmp_path):
    run = interrupted(PRIVATE, others, tmp_path / "unfinished")
    assert origin_of(checkpoint(run, "last.pt"), data, tmp_path) == "run"
    shutil.copy(checkpoint(plain, "last.pt"), checkpoint(run, "last.pt"))
    assert origin_of(checkpoint(run, "last.pt"), data, tmp_path) == "unknown"
    other = interrupted(PRIVATE, others, tmp_path / "second")
    shutil.copy(checkpoint(other, "last.pt"), checkpoint(run, "last.pt"))
    assert origin_of(checkpoint(run, "last.pt"), data, tmp_path) == "unknown"


def test_a_checkpoint_of_an_unfinished_run_without_privacy_is_believed_only_against_it(
    others, data, tmp_path
):
    run = interrupted(PLAIN, others, tmp_path / "unfinished")
    assert origin_of(checkpoint(run, "last.pt"), data, tmp_path) == "unknown"
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        origin_of(checkpoint(run, "last.pt"), others, tmp_path)


def test_so_is_one_of_a_finished_run_that_recorded_no_digests(plain, elsewhere, data, others, tmp_path):
    elsewhere.update(checkpoints={})
    assert origin_of(checkpoint(elsewhere, "last.pt"), data, tmp_path) == "unknown"
    result = stage.run(
        PRIVATE.replace(pretrained=str(checkpoint(elsewhere, "last.pt"))), others.root, tmp_path / "runs"
    )
    assert result.privacy.epsilon > result.own_epsilon
    older = Run(shutil.copytree(plain.root, tmp_path / "older"))
    older.update(checkpoints={})
    with pytest.raises(PrivacyRefusal, match="same patients without protection"):
        origin_of(checkpoint(older, "last.pt"), data, tmp_path)


# records of another run


@pytest.mark.parametrize("weights", [WEIGHTS, Path("private") / "checkpoints" / "best.pt"], ids=str)
@pytest.mark.parametrize(
    "records", [("lineage.json",), ("lineage.json", "members.json", "data.json"), ("members.json",)], ids=len
)
def test_private_records_of_another_run_do_not_change_what_a_run_is(
    plain, elsewhere, data, tmp_path, records, weights
):
    run = Run(shutil.copytree(plain.root, tmp_path / "run"))
    for name in records:
        shutil.copy(elsewhere.private / name, run.private / name)
    with pytest.raises(PrivacyRefusal, match=f"private/.*{records[0]}|edited"):
        origin_of(run.root / weights, data, tmp_path)
    run.update(secrets={})
    with pytest.raises(PrivacyRefusal):
        origin_of(run.root / weights, data, tmp_path)


def test_a_lineage_in_private_is_that_of_the_release(plain, data, tmp_path):
    run = Run(shutil.copytree(plain.root, tmp_path / "run"))
    known = artifacts.read(run.root, Lineage, private=True)
    artifacts.write(run.root, replace(known, patients=(), data=""), private=True)
    run.update(secrets={})
    (run.root / artifacts.place(Members)).unlink()
    (run.root / artifacts.place(DataRecord)).unlink()
    with pytest.raises(PrivacyRefusal, match="edited"):
        origin_of(run.root / WEIGHTS, data, tmp_path)


# measurements that nobody made


def planted(run: Run, name: str) -> Path:
    """Write the evaluation of a run once more, with 0.988 for everything, and leave it out of the list."""
    table = json.loads((run.release / "evaluation.json").read_text())
    for row in table["evaluation"]["metrics"]:
        row.update(value=0.98765, low=0.98101, high=0.99502)
    if name != "evaluation.json":
        table["origin"]["split"] = table["evaluation"]["split"] = "valid"
    (run.release / name).write_text(json.dumps(table))
    return run.release / name


def unlisted(run: Run, name: str) -> None:
    """Take a file out of the list, as if it had never been entered."""
    listed = {key: value for key, value in integrity.read(run.release).items() if key != name}
    run.update(release=integrity.write(run.release, listed))


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation-valid.json"])
def test_an_evaluation_outside_the_list_is_not_shown(measured, data, tmp_path, name):
    if name == "evaluation.json":
        unlisted(measured, name)
    path = planted(measured, name)
    config = ReportConfig(
        license="other", authors="A", contact="a@b.example", intended_use="R.", overwrite=True
    )
    result = report.run(config, [measured.root], tmp_path / "page.html")
    text = result.out.read_text()
    if name == "evaluation.json":
        with pytest.raises(DataError, match="meninx evaluate"):
            report.run(config.replace(card=True), [measured.root, data.root], tmp_path / "page.html")
    else:
        found = report.run(config.replace(card=True), [measured.root, data.root], tmp_path / "page.html")
        text += found.cards[0].read_text()
    assert not re.search(r"0\.981.{1,10}0\.995", text)
    assert files.digest(path) not in text
    refusal = [said for said in result.missing if name in said]
    assert refusal == [
        f"The evaluation in {name} of run {measured.name} is not in the list of the release "
        "(measure again): not shown."
    ]
    if name == "evaluation.json":
        evaluate.run(QUICK, measured.root)
        assert not integrity.damage(measured.release).unlisted
        assert "0.98765" not in path.read_text()


def test_nor_is_a_comparison(measured, plain, tmp_path):
    evaluate.run(QUICK.replace(baseline=plain.root), measured.root)
    name = Path(artifacts.place(ComparisonRecord)).name
    unlisted(measured, name)
    result = report.run(ReportConfig(), [measured.root, plain.root], tmp_path / "page.html")
    assert [said for said in result.missing if name in said and "measure again" in said]
    evaluate.run(QUICK, measured.root)
    assert not (measured.release / name).exists()
    assert not integrity.damage(measured.release)


def test_a_sweep_measures_again_what_is_not_listed(data, tmp_path):
    from meninx.train import sweep
    from meninx.train.config import GridConfig

    grid, out = GridConfig(epsilons=(8.0,), seeds=(0,), non_private=False), tmp_path / "sweep"
    config = PLAIN.replace(privacy=PrivacyConfig(epsilon=8.0, delta=1e-3))
    first = sweep.run(config, grid, data.root, out)
    run = runs.open_run(next(out.glob("cells/*/latest")).resolve())
    unlisted(run, "evaluation.json")
    planted(run, "evaluation.json")
    again = sweep.run(config, grid, data.root, out)
    assert again.rows == first.rows
    assert not integrity.damage(run.release)


# a kill while the list is written


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(5))
def test_a_kill_while_a_file_is_entered_into_the_list_leaves_a_run_that_can_be_measured(
    measured, plain, tmp_path, monkeypatch, writes
):
    left = [writes]

    def dying(real):
        def write(*given, **named):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return real(*given, **named)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write", dying(integrity.write))
        patch.setattr(Run, "update", dying(Run.update))
        try:
            evaluate.run(QUICK.replace(baseline=plain.root), measured.root)
        except Killed:
            assert writes < 4
        else:
            assert writes == 4
    result = evaluate.run(QUICK.replace(baseline=plain.root), measured.root)
    assert files.digest(result.out) == integrity.read(measured.release)["evaluation.json"]
    found = verify.run(measured.root)
    assert found.ok, found.summary()
    page = report.run(ReportConfig(), [measured.root, plain.root], tmp_path / "page.html")
    assert not [said for said in page.missing if said.endswith(": not shown.")]


def test_a_list_that_nobody_named_is_not_extended(measured):
    unlisted_list = {key: value for key, value in integrity.read(measured.release).items() if "model" in key}
    integrity.write(measured.release, unlisted_list)
    with pytest.raises(DataError, match="list of digests"):
        measured.enlist(added=[measured.release / "evaluation.json"])
    assert artifacts.read(measured.root, EvaluationRecord) is not None


# the training log


@pytest.mark.parametrize("gone", [False, True])
def test_a_training_log_of_another_run_is_named_and_no_card_is_green(measured, plain, tmp_path, gone):
    config = ReportConfig(utility_floor=0.0, overwrite=True)
    useful = "Useful?"
    before = report.run(config, [measured.root], tmp_path / "page.html").verdicts[useful]
    measured.metrics_path.unlink()
    if not gone:
        shutil.copy(plain.metrics_path, measured.metrics_path)
    result = report.run(config, [measured.root], tmp_path / "page.html")
    assert not result.verdicts[useful].startswith("green"), before
    assert [said for said in result.missing if "training log is not the one that the run ended with" in said]
    assert "training log" in verify.run(measured.root).summary()
    assert not verify.run(measured.root).ok


# sentences


def test_units_that_are_images_are_called_images(data, tmp_path):
    root = shutil.copytree(data.root, tmp_path / "data")
    info = replace(data.info, patients_known=False)
    Manifest(root, info, data.cases).write()
    result = stage.run(PRIVATE, root, tmp_path / "runs")
    for text in (result.summary(), artifacts.read(result.out, PrivacyRecord).sentence):
        assert "per image" in text
        assert "per patient" not in text
    assert " patients" not in result.summary().replace("whose patients are not known", "")


def test_a_private_start_without_steps_is_refused_in_a_sentence(elsewhere, others, tmp_path):
    run = interrupted(PRIVATE, others, tmp_path / "unfinished")
    run.ledger_path.unlink()
    weights = checkpoint(run, "last.pt")
    with pytest.raises(PrivacyRefusal, match=r"the ledger of run .* contains no step"):
        origin_of(weights, others, tmp_path)
    known = artifacts.read(elsewhere.root, Lineage, private=True)
    artifacts.write(elsewhere.root, replace(known, unit=""), private=True)
    listed = artifacts.read(elsewhere.root, Lineage)
    artifacts.write(elsewhere.root, replace(listed, unit=""))
    elsewhere.update(secrets={})
    elsewhere.enlist(added=[elsewhere.root / artifacts.place(Lineage)])
    with pytest.raises(PrivacyRefusal, match="got a run that names no privacy unit"):
        origin_of(elsewhere.root / WEIGHTS, others, tmp_path)
