"""The page says only what the folders support, also when they are edited, mixed or incomplete."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import sketched_figures
from report_samples import (
    LABELS,
    PATIENTS,
    STEPS,
    edit,
    ledger_text,
    relist,
    write_comparison,
    write_dataset,
    write_deid,
    write_evaluation,
    write_log,
    write_run,
)

from meninx.core import artifacts, integrity, plain
from meninx.core.artifacts import (
    Ancestry,
    ComparisonRecord,
    DeidRecord,
    Departure,
    EvaluationRecord,
    Lineage,
    Members,
    PrepareRecord,
    PrivacyRecord,
    RunRecord,
    RunState,
    StartRecord,
    SweepRecord,
    place,
)
from meninx.core.errors import DataError, MeninxError, PrivacyRefusal, UsageError
from meninx.core.run import Run
from meninx.report import figures, stage
from meninx.report.config import ReportConfig
from meninx.report.context import gather
from meninx.report.section_overview import overview

CONFIG = ReportConfig(date="2026-11-20")
CARD = ReportConfig(date="2026-11-20", card=True, authors="The data team", contact="team@hospital.example")
PRIVACY, ATTACK, USEFUL, REMOVED = "Privacy of training?", "Attack risk?", "Useful?", "Identifiers removed?"


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Draw figures where a story is about them, and leave them out elsewhere: they take most of the time."""
    if "points" in request.node.name or "names_from_files" in request.node.name:
        with sketched_figures.drawn():
            yield
        return
    monkeypatch.setattr(
        figures, "drawn", lambda draw, name, alt, size: f"<svg aria-label='{len(alt)}'></svg>"
    )
    yield


def reported(tmp_path, *sources, config=CONFIG):
    """Return the result and the visible text of a report."""
    out = tmp_path / f"{len(list(tmp_path.glob('*.html')))}.html"
    result = stage.run(config, list(sources), out)
    text = re.sub(r"<style>.*?</style>", "", out.read_text(), flags=re.DOTALL).replace("<wbr>", "")
    return result, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _flow(*sources):
    return overview(gather(CONFIG, sources)).pipeline


def record_of(run):
    return artifacts.require(run, RunRecord, fix="")


class TestJointCost:
    def test_two_private_runs_on_the_same_patients_count_together_in_either_order(self, tmp_path):
        runs = [
            write_run(tmp_path / name, private=True, noise=noise) for name, noise in (("a", 0.7), ("b", 0.75))
        ]
        pages = []
        for order in (runs, runs[::-1]):
            result, text = reported(tmp_path, *order)
            assert result.verdicts[PRIVACY] == "red: weak"
            pages.append(text)
        assert pages[0] == pages[1]
        for words in (
            "Runs a and b count together",
            "Run a: epsilon = 9.72",
            "Run b: epsilon = 8.36",
            "not counted",
        ):
            assert words in pages[0]
        assert "which share patients, together: at delta 0.0001" in pages[0]
        assert reported(tmp_path, runs[0])[0].verdicts[PRIVACY] == "amber: moderate"

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_cheap_run_does_not_hide_a_dear_one(self, tmp_path, order):
        runs = [
            write_run(tmp_path / name, private=True, noise=noise)
            for name, noise in (("cheap", 8.0), ("dear", 0.45))
        ]
        result, _ = reported(tmp_path, *runs[::order])
        assert result.verdicts[PRIVACY] == "red: weak"
        assert result.verdicts[ATTACK].startswith("red")

    def test_disjoint_patients_are_judged_by_the_worse_group(self, tmp_path):
        cheap = write_run(tmp_path / "cheap", private=True, noise=8.0, members=[f"n{i}" for i in range(36)])
        dear = write_run(tmp_path / "dear", private=True, noise=1.0, members=[f"s{i}" for i in range(36)])
        result, text = reported(tmp_path, cheap, dear)
        assert result.verdicts[PRIVACY] == "amber: moderate"
        assert "ε = 4.64" in text
        assert "count together" not in text
        _, alone = reported(tmp_path, cheap)
        assert "green" in alone

    def test_unknown_members_are_taken_to_be_shared_and_it_is_said(self, tmp_path):
        known = write_run(tmp_path / "known", private=True)
        unknown = write_run(tmp_path / "unknown", private=True, members=None)
        _, text = reported(tmp_path, known, unknown)
        assert "because no record says that they do not share" in text
        assert "which may share patients" in text
        assert "Run unknown has no list of its members" in text

    def test_different_deltas_are_said_and_different_units_have_no_joint_bound(self, tmp_path):
        runs = [
            write_run(tmp_path / "a", private=True, noise=8.0),
            write_run(tmp_path / "b", private=True, noise=8.0, delta=1e-5),
        ]
        _, text = reported(tmp_path, *runs)
        assert "at different deltas; the joint one is stated at the largest, 0.0001" in text
        cases = write_run(tmp_path / "c", private=True, noise=8.0, unit="case")
        result, text = reported(tmp_path, runs[0], cases)
        assert result.verdicts[PRIVACY] == "red: no joint bound"
        assert "protect different units" in text

    def test_a_sweep_counts_with_all_its_cells(self, tmp_path):
        sweep = tmp_path / "sweep"
        runs = [
            write_run(
                sweep / "cells" / f"epsilon-{n}_seed-0" / f"2026_{n}",
                private=n != 0,
                noise=1.0 + n,
                evaluated=n == 1,
            )
            for n in range(6)
        ]
        ids = tuple(record_of(run).id for run in runs)
        artifacts.write(sweep, SweepRecord(rows=(), together=None, runs=ids))
        _, text = reported(tmp_path, sweep)
        assert "Runs 2026_1, 2026_2, 2026_3, 2026_4 and 2026_5 count together" in text
        assert "Figures show 4 of 6 runs" in text
        shutil.rmtree(runs[2])
        with pytest.raises(DataError, match=r"runs that the sweep names are missing: 1 .*sweep\.json"):
            reported(tmp_path, sweep)

    def test_two_copies_of_a_run_are_refused_and_one_folder_given_twice_counts_once(self, tmp_path):
        run = write_run(tmp_path / "runs" / "a", private=True)
        (tmp_path / "runs" / "latest").symlink_to("a")
        _, text = reported(tmp_path, run, tmp_path / "runs", tmp_path / "runs" / "latest")
        assert "count together" not in text
        shutil.copytree(run, tmp_path / "copy")
        with pytest.raises(UsageError, match="two copies of one run, a and copy"):
            reported(tmp_path, run, tmp_path / "copy")

    def test_a_run_that_others_started_from_is_paid_for_once(self, tmp_path):
        base = write_run(tmp_path / "base", private=True, noise=2.0)
        parent = artifacts.require(base, Lineage, fix="")
        start = StartRecord(file="m.pt", origin="run", run=parent.run, shared_patients=True, composed=True)
        tuned = write_run(tmp_path / "tuned", private=True, noise=2.0, start=start, parents=(parent,))
        _, alone = reported(tmp_path, tuned)
        _, both = reported(tmp_path, base, tuned)
        stated = re.search(r"Run tuned: epsilon = (\d+\.?\d*)", alone).group(1)
        assert float(stated) > float(re.search(r"own steps alone (\d+\.?\d*)", alone).group(1))
        assert f"ε = {stated}" in alone
        assert f"Runs base and tuned count together, because they share patients: epsilon = {stated} " in both

    def test_only_earlier_runs_on_the_same_patients_count_when_the_private_room_says_which(self, tmp_path):
        lineages = [
            artifacts.require(write_run(tmp_path / name, private=True, noise=2.0), Lineage, fix="")
            for name in "ab"
        ]
        start = StartRecord(
            file="m.pt", origin="run", run=lineages[0].run, shared_patients=True, composed=True
        )
        run = write_run(tmp_path / "tuned", private=True, noise=2.0, start=start, parents=tuple(lineages[:1]))
        both = replace(artifacts.require(run, Lineage, fix=""), parents=tuple(lineages))
        artifacts.write(run, both)
        digest = integrity.write(run / "release", integrity.measured(run / "release", [run / place(Lineage)]))
        artifacts.write(run, replace(record_of(run), release=digest))
        loose = reported(tmp_path, run)[1]
        artifacts.write(run, Ancestry(origin="run", run=lineages[0].run, ledgers=(lineages[0].ledger,)))
        exact = reported(tmp_path, run)[1]
        costs = [
            float(re.search(r"Run tuned: epsilon = (\d+\.?\d*)", text).group(1)) for text in (exact, loose)
        ]
        assert costs[0] < costs[1]
        edit(run / place(PrivacyRecord), start=plain.to_plain(replace(start, composed=False)), epsilon=1.5)
        with pytest.raises(PrivacyRefusal, match="epsilon is not the one that the ledger gives"):
            reported(tmp_path, run)

    def test_a_counted_start_whose_noise_came_from_a_seed_voids_the_run(self, tmp_path):
        base = write_run(tmp_path / "base", private=True, noise=2.0)
        parent = replace(artifacts.require(base, Lineage, fix=""), deterministic=True)
        start = StartRecord(file="m.pt", origin="run", run=parent.run, shared_patients=True, composed=True)
        run = write_run(tmp_path / "tuned", private=True, noise=2.0, start=start, parents=(parent,))
        assert reported(tmp_path, run)[0].verdicts[PRIVACY] == "red: void, noise from a seed"


class TestEditedAndMixed:
    @pytest.mark.parametrize(
        "change",
        [
            {"epsilon": 0.5},
            {"epsilon": None},
            {"own_epsilon": 0.5},
            {"delta": 1e-9},
            {"steps": 6},
            {"unit": "case"},
            {"relation": "replace-one"},
            {"noise_multiplier": 9.0},
            {"max_grad_norm": 0.1},
            {"sample_rate": 0.001},
            {"sampler": "shuffle"},
            {"clipping": "auto-s"},
            {"declared_units": 9999},
            {"ledger": [60, "0" * 32]},
        ],
        ids=str,
    )
    def test_an_edited_privacy_record_is_refused_by_name(self, tmp_path, change):
        run = write_run(tmp_path / "run", private=True)
        edit(run / place(PrivacyRecord), **change)
        with pytest.raises(
            PrivacyRefusal,
            match=rf"{next(iter(change))} is not the one that the ledger gives.*run/privacy\.json",
        ):
            reported(tmp_path, run)

    def test_words_and_curves_of_the_record_are_not_what_the_page_says(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        edit(
            run / place(PrivacyRecord),
            sentence="epsilon = 0.1",
            curve=[[1, 0.01], [60, 0.1]],
            expected_batch_size=1.0,
        )
        risk = {"advantage": 0.01, "tpr_at_fpr": {"0.01": 0.01}, "prior": 0.1, "reconstruction": 0.1}
        edit(run / place(PrivacyRecord), risk=risk, accountant="conjecture", planned_steps=1)
        result, text = reported(tmp_path, run)
        assert "epsilon = 0.1 " not in text
        assert "≤ 0.01 " not in text
        assert "conjecture" not in text
        assert "epsilon = 4.64" in text
        assert result.verdicts[ATTACK] == "green: bound is low"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"private": False}, "run.json"),
            ({"id": "f" * 32}, "privacy.json"),
            ({"weights": "f" * 64}, "privacy.json"),
            ({"data": "f" * 64}, "privacy.json"),
            ({"config": "f" * 64}, "config.toml"),
            ({"release": "f" * 64}, "release"),
            ({"state": "sold"}, "run.json"),
            ({"step": "sixty"}, "run.json"),
            ({"step": 4}, "privacy.json"),
            ({"release": "", "weights": ""}, "privacy.json"),
            ({"release": ""}, "run.json"),
        ],
        ids=str,
    )
    def test_an_edited_run_record_is_refused(self, tmp_path, change, said):
        run = write_run(tmp_path / "run", private=True)
        edit(run / place(RunRecord), **change)
        with pytest.raises(DataError, match=said):
            reported(tmp_path, run)

    def test_a_run_that_says_it_is_not_private_but_has_a_ledger_is_refused(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        edit(run / place(PrivacyRecord), private=False)
        with pytest.raises(DataError, match=r"contradict each other \(run/privacy\.json\)"):
            reported(tmp_path, run)

    @pytest.mark.parametrize("kind", [PrivacyRecord, Lineage])
    def test_records_of_another_run_are_refused(self, tmp_path, kind):
        run, other = (write_run(tmp_path / name, private=True) for name in ("run", "other"))
        shutil.copy(other / place(kind), run / place(kind))
        with pytest.raises(MeninxError, match=place(kind).rsplit("/", 1)[-1].replace(".", r"\.")):
            reported(tmp_path, run)

    def test_a_config_or_ledger_of_another_run_is_refused(self, tmp_path):
        run, other = (
            write_run(tmp_path / name, private=True, settings={"seed": len(name)})
            for name in ("run", "other")
        )
        kept = (run / "config.toml").read_bytes()
        shutil.copy(other / "config.toml", run / "config.toml")
        with pytest.raises(DataError, match=r"run/config\.toml"):
            reported(tmp_path, run)
        (run / "config.toml").write_bytes(kept)
        shutil.copy(other / "private" / "ledger.jsonl", run / "private" / "ledger.jsonl")
        with pytest.raises(DataError, match=r"lineage\.json"):
            reported(tmp_path, run)

    def test_a_shortened_or_changed_ledger_is_refused(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        ledger = run / "private" / "ledger.jsonl"
        lines = ledger.read_text().splitlines(keepends=True)
        ledger.write_text("".join(lines[:30]))
        with pytest.raises(DataError, match=r"lineage\.json"):
            reported(tmp_path, run)
        ledger.write_text("".join(lines).replace('"noise_multiplier":1.0', '"noise_multiplier":9.0'))
        with pytest.raises(MeninxError, match=r"ledger|lineage"):
            reported(tmp_path, run)

    def test_without_the_private_room_epsilon_comes_from_the_lineage(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        shutil.rmtree(run / "private")
        result, text = reported(tmp_path, run)
        assert "epsilon = 4.64" in text
        assert result.verdicts[PRIVACY] == "amber: moderate"
        (run / place(Lineage)).unlink()
        with pytest.raises(DataError, match="release"):
            reported(tmp_path, run)

    def test_a_replaced_model_is_refused(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        listed = run / place(Lineage)
        listed.write_text(listed.read_text() + " ")
        with pytest.raises(DataError, match=r"run/release/lineage\.json"):
            reported(tmp_path, run)

    def test_a_summary_copied_to_another_archive_is_refused(self, tmp_path):
        folder = write_deid(tmp_path / "north", "north")
        digest = integrity.write(folder, {"a.dcm": "0" * 64})
        artifacts.write(folder, replace(artifacts.require(folder, DeidRecord, fix=""), checksums=digest))
        reported(tmp_path, folder)
        other = write_deid(tmp_path / "south", "south")
        shutil.copy(folder / place(DeidRecord), other / place(DeidRecord))
        with pytest.raises(DataError, match=r"south/deid\.json"):
            reported(tmp_path, other)

    def test_an_archive_that_is_no_source_of_a_dataset_given_here_is_named(self, tmp_path):
        archive, dataset = write_deid(tmp_path / "north", "north"), write_dataset(tmp_path / "data")
        digest = integrity.write(archive, {})
        artifacts.write(archive, replace(artifacts.require(archive, DeidRecord, fix=""), checksums=digest))
        said = "No dataset given here names the archive north as its source."
        assert said in reported(tmp_path, archive, dataset)[1]
        assert said not in reported(tmp_path, archive)[1]
        artifacts.write(
            dataset, PrepareRecord(name="x", reader="dicom", task="multilabel", archives=(digest,))
        )
        assert said not in reported(tmp_path, archive, dataset)[1]


class TestStates:
    def test_a_killed_private_run_is_not_called_unprivate_and_its_numbers_are_not_shown(self, tmp_path):
        run = write_run(tmp_path / "killed", private=True, state=RunState.TRAINING, steps=46)
        write_evaluation(run, replace(record_of(run), weights="a" * 64), private=True)
        result, text = reported(tmp_path, run)
        assert result.verdicts[PRIVACY] == "grey: not finished"
        assert result.verdicts[USEFUL].startswith("grey")
        assert "without differential privacy" not in text
        assert "AUROC" not in text
        for words in (
            "Run killed is not finished (46 steps recorded)",
            "belongs to a run that is not finished: not shown",
        ):
            assert words in text

    def test_a_killed_run_is_never_the_headline_but_counts(self, tmp_path):
        done = write_run(tmp_path / "done", private=True, noise=8.0)
        killed = write_run(tmp_path / "killed", private=True, state=RunState.TRAINING, steps=46, noise=0.45)
        result, text = reported(tmp_path, killed, done)
        assert "are judged of run done" in text
        assert "Recipe of run killed" not in text
        assert result.verdicts[PRIVACY].startswith("red")
        assert "Runs done and killed count together" in text

    def test_a_run_that_never_began_is_passed_over(self, tmp_path):
        run = write_run(tmp_path / "begun", private=True, state=RunState.STARTING, steps=0)
        (run / "private" / "ledger.jsonl").unlink()
        with pytest.raises(UsageError, match="runs that took no step"):
            reported(tmp_path, run)
        done = write_run(tmp_path / "done", private=True)
        _, text = reported(tmp_path, tmp_path)
        assert "begun" not in text
        assert done.name in text

    @pytest.mark.parametrize(
        ("settings", "verdict"),
        [({"views": 4}, "red: void, earlier version"), ({}, "grey: not confirmed, earlier version")],
    )
    def test_a_run_of_an_earlier_version_is_marked(self, tmp_path, settings, verdict):
        run = write_run(tmp_path / "old", private=True, older=True, settings=settings)
        result, text = reported(tmp_path, run)
        assert result.verdicts[PRIVACY] == verdict
        assert "made by an earlier version of meninx; its stated epsilon does not hold where it used" in text
        assert result.verdicts[ATTACK] == verdict

    def test_a_deterministic_run_prints_no_bound(self, tmp_path):
        run = write_run(tmp_path / "run", private=True, deterministic=True)
        result, text = reported(tmp_path, run)
        assert result.verdicts[PRIVACY] == "red: void, noise from a seed"
        assert "void: noise from a seed" in text
        for words in ("epsilon = 4.64", "ε = 4.64", "at most 67", "recognises at most"):
            assert words not in text
        (run / "NOT_FOR_RELEASE").unlink()
        edit(run / place(PrivacyRecord), deterministic=False)
        edit(run / place(RunRecord), deterministic=False)
        result, _ = reported(tmp_path, run)
        assert result.verdicts[PRIVACY] == "red: void, noise from a seed"  # the config says so


class TestVerdictOnPrivacy:
    def test_green_needs_a_small_delta(self, tmp_path):
        run = write_run(tmp_path / "run", private=True, noise=20.0, delta=0.02, members=PATIENTS[:16])
        result, text = reported(tmp_path, run)
        assert result.verdicts[PRIVACY] == "amber: delta too large"
        assert "Delta 0.02 is above 1 / (10 × 16 patients)" in text

    def test_green_needs_a_known_number_and_a_known_start(self, tmp_path):
        unknown = write_run(tmp_path / "a", private=True, noise=20.0, members=None)
        assert reported(tmp_path, unknown)[0].verdicts[PRIVACY] == "amber: delta not judged"
        start = StartRecord(file="imagenet.pt", origin="unknown", loaded=3)
        started = write_run(tmp_path / "b", private=True, noise=20.0, start=start, unknown_start=True)
        result, text = reported(tmp_path, started)
        assert result.verdicts[PRIVACY] == "amber: start of unknown origin"
        assert "started from weights of unknown origin" in text
        edit(started / place(PrivacyRecord), start=plain.to_plain(StartRecord()))
        assert (
            reported(tmp_path, started)[0].verdicts[PRIVACY] == "amber: start of unknown origin"
        )  # the lineage says so
        green = write_run(tmp_path / "c", private=True, noise=20.0)
        assert reported(tmp_path, green)[0].verdicts[PRIVACY] == "green: strong"

    def test_the_cards_name_the_runs_and_what_they_do_not_cover(self, tmp_path):
        runs = [write_run(tmp_path / "dp", private=True), write_run(tmp_path / "plain", private=False)]
        _, text = reported(tmp_path, *runs)
        assert "run dp: at delta 0.0001, per patient" in text
        assert "run dp: membership, TPR at 1 % FPR" in text
        assert "not covered: run plain, trained without privacy" in text


class TestEvaluations:
    def test_an_evaluation_of_other_weights_is_not_shown(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_evaluation(run, record_of(run), private=True, weights="a" * 64, step=4)
        result, text = reported(tmp_path, run)
        assert "was measured on other weights (step 4 of 60): not shown" in text
        assert "AUROC" not in text
        assert result.verdicts[USEFUL].startswith("grey")
        write_evaluation(run, record_of(run), private=True, weights="a" * 64)
        assert "was measured on other weights (step 60 of 60): not shown" in reported(tmp_path, run)[1]

    def test_an_evaluation_of_another_run_or_an_older_version_is_not_shown(self, tmp_path):
        run, other = (write_run(tmp_path / name, private=True) for name in ("run", "other"))
        shutil.copy(other / place(EvaluationRecord), run / place(EvaluationRecord))
        relist(run)
        assert "was measured on another run: not shown" in reported(tmp_path, run)[1]
        bare = json.loads((other / place(EvaluationRecord)).read_text())["evaluation"]
        (run / place(EvaluationRecord)).write_text(json.dumps(bare))
        relist(run)
        assert "did not record the weights that it measured: not shown" in reported(tmp_path, run)[1]

    def test_a_validation_evaluation_never_takes_the_place_of_the_test(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        path = write_evaluation(run, record_of(run), private=True, split="valid")
        _, text = reported(tmp_path, run)
        assert "Run run (private), test split of cohort" in text
        assert "Run run (private), valid split of cohort" in text
        path.replace(run / place(EvaluationRecord))
        relist(run)
        _, text = reported(tmp_path, run)
        assert "stands under the name of another split: not shown" in text
        assert "test split of cohort" not in text

    def test_an_evaluation_on_a_changed_dataset_is_not_shown(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_evaluation(run, record_of(run), private=True, data="b" * 64)
        assert "was measured on another dataset: not shown" in reported(tmp_path, run)[1]

    def test_another_dataset_has_a_table_of_its_own(self, tmp_path):
        run = write_run(tmp_path / "run", private=True, evaluated=False)
        write_evaluation(run, record_of(run), private=True, external="elsewhere")
        result, text = reported(tmp_path, run)
        assert "test split of elsewhere (another dataset than the run's own)" in text
        assert result.verdicts[USEFUL].startswith("grey")

    def test_unseen_is_said_only_when_patients_were_compared(self, tmp_path):
        compared = write_run(tmp_path / "compared", private=True)
        assert "patients that training never saw" in reported(tmp_path, compared)[1]
        blind = write_run(tmp_path / "blind", private=True, compared=False)
        _, text = reported(tmp_path, blind)
        assert "never saw" not in text
        assert "whether training saw some of these patients was not compared" in text

    def test_a_validation_comparison_stands_under_validation(self, tmp_path):
        run, other = write_run(tmp_path / "dp", private=True), write_run(tmp_path / "plain", private=False)
        path = write_comparison(run, other, split="valid")
        result, text = reported(tmp_path, run, other)
        assert "dp (private) minus plain (not private), valid split of cohort" in text
        assert result.verdicts[USEFUL].startswith("grey")
        path.replace(run / place(ComparisonRecord))
        relist(run)
        assert "stands under the name of another split: not shown" in reported(tmp_path, run, other)[1]

    def test_a_comparison_with_a_baseline_that_changed_is_not_shown(self, tmp_path):
        run, other = write_run(tmp_path / "dp", private=True), write_run(tmp_path / "plain", private=False)
        path = write_comparison(run, other)
        table = json.loads(path.read_text())
        edit(path, baseline=table["baseline"] | {"weights": "c" * 64, "step": 3})
        relist(run)
        _, text = reported(tmp_path, run, other)
        assert "the baseline was measured on other weights (step 3 of 60)" in text
        assert "AUROC difference" not in text

    def test_exact_numbers_about_training_patients_of_a_private_run_are_not_shown(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_evaluation(run, record_of(run), private=True, split="train")
        _, text = reported(tmp_path, run)
        assert "holds exact numbers about training cases of a private run: not shown" in text
        assert "train split" not in text


class TestUtility:
    def test_without_floor_or_baseline_nothing_is_judged(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        assert reported(tmp_path, run)[0].verdicts[USEFUL] == "grey: no floor set"

    def test_the_lowest_label_decides_and_is_named(self, tmp_path):
        run = write_run(tmp_path / "run", private=False)
        low = CONFIG.replace(utility_floor=0.7)
        high = CONFIG.replace(utility_floor=0.86)
        assert "lowest" in reported(tmp_path, run, config=low)[1]
        assert reported(tmp_path, run, config=high)[0].verdicts[USEFUL] != "green: above the floor"

    def test_a_large_loss_against_the_baseline_is_red(self, tmp_path):
        run, other = write_run(tmp_path / "dp", private=True), write_run(tmp_path / "plain", private=False)
        path = write_comparison(run, other)
        rows = json.loads(path.read_text())["differences"]
        for row in rows:
            row |= {"value": -0.287, "low": -0.31, "high": -0.26}
        edit(path, differences=rows)
        relist(run)
        result, text = reported(tmp_path, run, other)
        assert result.verdicts[USEFUL] == "red: loses more than 0.05"
        assert "against run plain without privacy" in text

    def test_a_baseline_of_another_network_is_named_and_is_never_green(self, tmp_path):
        run, other = write_run(tmp_path / "dp", private=True), write_run(tmp_path / "plain", private=False)
        path = write_comparison(run, other)
        rows = json.loads(path.read_text())["differences"]
        for row in rows:
            row |= {"value": 0.0, "low": -0.01, "high": 0.01}
        edit(path, differences=rows)
        relist(run)
        fair, text = reported(tmp_path, run, other)
        assert fair.verdicts[USEFUL] == "amber: odd threshold or calibration"  # green but for that
        assert "more than privacy" not in text
        unlike = [{"what": "network", "run": "resnet9", "baseline": "resnet9-small with <b>x\u202e = 1"}]
        edit(path, differing=unlike)
        relist(run)
        result, text = reported(tmp_path, run, other)
        assert result.verdicts[USEFUL] == "amber: unlike baseline"
        assert "against run plain without privacy" in text
        assert "which differs in more than privacy (network)" in text
        assert (
            "The runs differ in more than privacy: network (resnet9 against resnet9-small with <b>x? = 1)"
            in text
        )

    def test_the_flow_does_not_join_a_stranger_dataset_to_a_run(self, tmp_path):
        own, stranger = (
            write_dataset(tmp_path / "own", name="own"),
            write_dataset(tmp_path / "other", name="stranger"),
        )
        run = write_run(tmp_path / "run", private=True, dataset=own)
        flow = [step for step in _flow(stranger, run) if step[0] == "prepared"]
        assert flow == [("prepared", "not given", "the run's own dataset")]
        assert [step[1] for step in _flow(own, stranger, run) if step[0] == "prepared"] == ["120 cases"]

    def test_labels_at_chance_are_said_and_never_green(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        table = json.loads((run / place(EvaluationRecord)).read_text())
        for row in table["evaluation"]["metrics"]:
            if row["name"] == "auroc" and row["label"] in LABELS[1:]:
                row |= {"value": 0.52, "low": 0.41, "high": 0.63}
        edit(run / place(EvaluationRecord), **table)
        relist(run)
        result, text = reported(tmp_path, run, config=CONFIG.replace(utility_floor=0.4))
        assert result.verdicts[USEFUL] == "amber: labels at chance"
        assert "cannot be told from chance for: pneumothorax, nodule" in text

    def test_a_diverged_run_is_red_on_page_and_card(self, tmp_path):
        dataset = write_dataset(tmp_path / "data")
        run = write_run(tmp_path / "run", private=True, dataset=dataset)
        write_log(run, [{"kind": "train", "step": step, "loss": 0.65 + step / 37} for step in range(1, 61)])
        result, text = reported(tmp_path, dataset, run, config=CARD.replace(utility_floor=0.5))
        assert result.verdicts[USEFUL] == "red: diverged"
        assert "diverged: the training loss rose" in text
        assert "Training diverged" in result.cards[0].read_text()

    def test_a_noisy_batch_at_the_end_is_no_divergence(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_log(
            run, [{"kind": "train", "step": step, "loss": 1.3 if step == 9 else 0.6} for step in range(1, 10)]
        )
        result, text = reported(tmp_path, run, config=CONFIG.replace(utility_floor=0.5))
        assert "diverged" not in result.verdicts[USEFUL]
        assert "diverged:" not in text

    def test_a_validation_loss_that_rises_with_auroc_is_amber(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        rows = [
            {"kind": "valid", "step": 10 * k, "loss": 0.5 + k / 5, "auroc": 0.6 + k / 50} for k in range(1, 5)
        ]
        write_log(run, rows)
        result, text = reported(tmp_path, run, config=CONFIG.replace(utility_floor=0.1))
        assert result.verdicts[USEFUL] == "amber: mis-calibrated"
        assert "while the validation AUROC rose" in text

    def test_a_loss_that_is_no_number_any_more_is_divergence(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_log(
            run,
            [{"kind": "train", "step": step, "loss": None if step > 40 else 0.6} for step in range(1, 61)],
        )
        assert reported(tmp_path, run)[0].verdicts[USEFUL] == "red: diverged"

    def test_few_points_are_points(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        write_log(run, [{"kind": "train", "step": step, "loss": 0.6 - step / 1000} for step in (20, 40, 60)])
        out = tmp_path / "p.html"
        stage.run(CONFIG, [run], out)
        text = out.read_text()
        assert "train loss: 3 points" in text
        figure = text[text.index('aria-label="Loss of run run') :].split("</svg>")[0]
        assert figure.count("<use ") > 3

    def test_settings_that_say_decide_later_are_resolved_or_left_out(self, tmp_path):
        run = write_run(tmp_path / "run", private=True, settings={"loss": "auto"})
        _, text = reported(tmp_path, run)
        for words in ('sampling = "shuffle"', "steps = 0", "steps 0 ", '"auto"', "loss auto"):
            assert words not in text
        assert "sampling poisson" in text
        assert "steps 60" in text


class TestDeidentification:
    def test_overrides_that_keep_are_red_and_first(self, tmp_path):
        kept = {"OperatorsName": "K", "InstitutionName": "K"}
        folder = write_deid(tmp_path / "north", "north", overrides=kept)
        result, text = reported(tmp_path, folder)
        assert result.verdicts[REMOVED] == "red: identifiers kept"
        assert "kept on purpose: InstitutionName, OperatorsName" in text
        section = text[text.rindex("De-identification Headers") :]
        assert section.index("OperatorsName") < section.index("Archives") < section.index("Actions")

    def test_every_departure_is_said(self, tmp_path):
        departures = (Departure(kind="age", name="max_age", chosen="120", usual="89", files=3),)
        folder = write_deid(tmp_path / "north", "north", departures=departures)
        result, text = reported(tmp_path, folder)
        assert result.verdicts[REMOVED] == "amber: less than the profile"
        assert "Departures from the profile" in text
        assert "12 images may show text in their pixels, which were not searched" in text
        assert "secondary capture" in text

    def test_a_page_of_de_identification_alone_names_its_version(self, tmp_path):
        _, text = reported(tmp_path, write_deid(tmp_path / "north", "north"))
        assert "not recorded" not in text
        assert re.search(r"meninx \d", text)


class TestNumbersOfPeople:
    def test_a_declared_number_stands_alone(self, tmp_path):
        dataset = write_dataset(tmp_path / "data")
        deid = write_deid(tmp_path / "north", "north", files_written=120, patients=60)
        run = write_run(tmp_path / "run", private=True, declared=50, dataset=dataset)
        result, text = reported(tmp_path, deid, dataset, run, config=CARD)
        card = result.cards[0].read_text()
        for shown in (text, card):
            assert "declared: 50" in shown
            assert not re.search(
                r"(?<!\.)\b(36|72|120|60 patients|60 \|)\b", re.sub(r"[0-9a-f]{32,}", "", shown)
            ), shown
        assert "50 patients" not in text.replace("declared: 50", "")

    def test_a_run_that_tells_the_number_another_one_hides_is_named(self, tmp_path):
        hides = write_run(tmp_path / "hides", private=True, declared=50)
        tells = write_run(tmp_path / "tells", private=True)
        _, text = reported(tmp_path, hides, tells)
        assert "not by run tells, whose sample rate tells the true one" in text
        assert "expected batch size 3.6" not in text

    def test_without_names_nothing_is_said_per_patient(self, tmp_path):
        dataset = write_dataset(tmp_path / "data", patients_known=False)
        run = write_run(tmp_path / "run", private=True, patients_known=False, dataset=dataset, compared=False)
        result, text = reported(tmp_path, dataset, run, config=CARD)
        for shown in (text, result.cards[0].read_text()):
            body = re.sub(r"names no patients|privacy\.unit.*|unit = \"patient\"", "", shown)
            assert "patient" not in body.lower().replace("cases_per_patient", ""), body[
                max(0, body.lower().index("patient") - 80) :
            ][:160]
            assert "per image" in shown

    def test_a_dataset_that_is_not_the_runs_own_is_marked_and_refused_for_the_card(self, tmp_path):
        own = write_dataset(tmp_path / "own")
        run = write_run(tmp_path / "run", private=True, dataset=own)
        other = write_dataset(tmp_path / "other", name="other")
        assert "Dataset other (another dataset than the run's own)" in reported(tmp_path, other, run)[1]
        with pytest.raises(DataError, match="dataset that the run was trained on"):
            reported(tmp_path, other, run, config=CARD)

    def test_every_number_says_what_it_belongs_to(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        record = record_of(run)
        _, text = reported(tmp_path, run)
        for value in (record.id, record.weights, record.data):
            assert value in text


HOSTILE = "<img src=x>|`a`](http://x)\n# no $\\frac{ ---"


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


class TestHostileFiles:
    @pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1]", b"[" * 100_000, b'{"version": []}', b"{}"])
    @pytest.mark.parametrize(
        "kind", [RunRecord, PrivacyRecord, EvaluationRecord, Lineage, Members, DeidRecord, SweepRecord]
    )
    def test_a_damaged_record_is_an_error_with_its_name(self, tmp_path, kind, content):
        run = write_run(tmp_path / "run", private=True)
        (run / place(kind)).write_bytes(content)
        if kind is EvaluationRecord:
            relist(run)
        if kind is EvaluationRecord and content.startswith(b"{") and content.endswith(b"}"):
            assert "earlier version" in reported(tmp_path, run)[1]  # so it is taken for one, and not shown
            return
        with pytest.raises(MeninxError) as caught:
            reported(tmp_path, run)
        assert caught.value.exit_code in (3, 4)
        assert place(kind).rsplit("/", 1)[-1] in str(caught.value) or "release/" in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["config.toml", "environment.json", "private/metrics.jsonl", "private/ledger.jsonl"]
    )
    def test_foreign_bytes_are_an_error_with_the_files_name(self, tmp_path, name):
        run = write_run(tmp_path / "run", private=True)
        record = record_of(run)
        (run / name).write_bytes(b"\xff\xfe\x00")
        artifacts.write(run, replace(record, config=""))
        with pytest.raises(DataError, match=name.rsplit("/", 1)[-1].replace(".", r"\.")):
            reported(tmp_path, run)

    @pytest.mark.parametrize(
        "change",
        [
            {"metrics": []},
            {"metrics": "x"},
            {"n_cases": "many"},
            {"labels": [1, 2]},
            {"roc": {"effusion": [0.5]}},
            {"task": "guess"},
            {"confusion": {"": [[1]]}},
            {"split": 3},
            {"calibration": [{"label": "x"}]},
        ],
        ids=str,
    )
    def test_numbers_that_cannot_be_are_an_error(self, tmp_path, change):
        run = write_run(tmp_path / "run", private=True)
        table = json.loads((run / place(EvaluationRecord)).read_text())
        edit(run / place(EvaluationRecord), evaluation=table["evaluation"] | change)
        relist(run)
        with pytest.raises(DataError, match=r"evaluation\.json"):
            reported(tmp_path, run)

    def test_names_from_files_are_text_on_page_and_card(self, tmp_path):
        labels = [f"{HOSTILE} {number}".replace("\n#", " ") for number in range(3)]
        dataset = write_dataset(
            tmp_path / "data", labels=labels, name=f"n --- license: mit {HOSTILE}".replace("\n#", " ")
        )
        deid = write_deid(
            tmp_path / "d", HOSTILE, profile=HOSTILE, quarantined={HOSTILE: 1}, flagged={HOSTILE: 1}
        )
        settings = {"model": HOSTILE, "note": HOSTILE}
        run = write_run(tmp_path / "_run |<b>`x", private=True, dataset=dataset, settings=settings)
        text = (run / place(EvaluationRecord)).read_text()
        for old, new in zip(LABELS, labels, strict=True):
            text = text.replace(f'"{old}"', json.dumps(new))
        text = text.replace('"sex"', json.dumps("_$\\frac{$"))
        (run / place(EvaluationRecord)).write_text(text)
        relist(run)
        edit(run / place(PrivacyRecord), outside_guarantee=[HOSTILE])
        edit(
            run / "environment.json",
            command=["meninx", HOSTILE],
            packages={"meninx": HOSTILE},
            python=HOSTILE,
        )
        out = tmp_path / "r.html"
        [path] = stage.run(CARD, [dataset, deid, run], out).cards
        tags = _Tags(out.read_text()).tags
        assert "img" not in tags
        assert "b" not in tags
        card = path.read_text()
        _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
        assert sum(line.startswith("license:") for line in front.splitlines()) == 1
        assert not re.search(r"(?<!\\)<img", body)
        assert not re.search(r"(?<!\\)\]\(http", body)
        assert "\n# no" not in body
        assert not re.search(r"(?<!\\)`a`", body)
        for line in body.splitlines():
            if line.startswith("| AUROC"):
                assert len(re.findall(r"(?<!\\)\|", line)) in (7, 8), line

    def test_absolute_paths_are_cut_whatever_the_system(self, tmp_path):
        settings = {"pretrained": "C:\\Users\\erika\\w.pt", "list": ["/home/erika/a"]}
        run = write_run(tmp_path / "run", private=False, settings=settings)
        assert "erika" not in reported(tmp_path, run)[1]


class TestWriting:
    def test_nothing_is_written_when_a_card_would_be_replaced(self, tmp_path):
        dataset = write_dataset(tmp_path / "data")
        run = write_run(tmp_path / "run", private=True, dataset=dataset)
        (run / "release" / "MODEL_CARD.md").write_text("mine")
        out = tmp_path / "r.html"
        with pytest.raises(UsageError, match="--overwrite"):
            stage.run(CARD, [dataset, run], out)
        assert not out.exists()
        assert (run / "release" / "MODEL_CARD.md").read_text() == "mine"
        stage.run(CARD.replace(overwrite=True), [dataset, run], out)
        assert "Model Card for run" in (run / "release" / "MODEL_CARD.md").read_text()

    def test_a_missing_library_says_what_to_install(self, tmp_path, monkeypatch):
        run = write_run(tmp_path / "run", private=True)
        for name in [name for name in sys.modules if name.startswith("meninx.privacy")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "dp_accounting", None)
        with pytest.raises(UsageError, match=r"pip install 'meninx\[train\]'"):
            reported(tmp_path, run)
        plain_run = write_run(tmp_path / "plain", private=False)
        reported(tmp_path, plain_run)

    def test_a_report_loads_no_model_library(self, tmp_path):
        run = write_run(tmp_path / "run", private=True)
        code = (
            "import sys; from pathlib import Path; from meninx.report import stage;"
            "from meninx.report.config import ReportConfig;"
            f"stage.run(ReportConfig(), [Path({str(run)!r})], Path({str(tmp_path / 'x.html')!r}));"
            "assert not {'torch', 'monai'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_ledgers_of_the_samples_differ():
    assert ledger_text("a") != ledger_text("b")
    assert len(ledger_text("a").splitlines()) == STEPS
    assert all(len(part) for part in itertools.pairwise(LABELS))


class TestWhatStays:
    """The section on de-identification names first what the files still tell about a patient."""

    def archive(self, tmp_path, name, **actions):
        every = {"Rows": {"K": 9}, "PatientName": {"Z": 9}, "PatientSex": {"K": 9}} | actions
        return write_deid(tmp_path / name, "north", actions=every, options=())

    def test_sex_comes_before_every_technical_attribute_and_names_last(self, tmp_path):
        _, text = reported(tmp_path, self.archive(tmp_path, "a"))
        assert text.index("PatientSex the value") < text.index("names, numbers, date of birth nothing")
        assert text.index("names, numbers, date of birth nothing") < text.index("Rows K × 9")

    @pytest.mark.parametrize(
        ("keyword", "before", "after", "words"),
        [
            ("PatientWeight", "K", "X", ("PatientWeight exact 9 0", "weight nothing 0 9")),
            ("StudyDate", "K", "C", ("StudyDate exact 9 0", "StudyDate shifted by whole days")),
            ("EthnicGroup", "K", "X", ("EthnicGroup the value", "origin, religion nothing")),
            ("PregnancyStatus", "K", "X", ("PregnancyStatus the value", "pregnancy nothing")),
            ("StudyDescription", "C", "K", ("known words of the field", "as written, without")),
        ],
    )
    def test_another_action_makes_another_row(self, tmp_path, keyword, before, after, words):
        pages = [
            reported(tmp_path, self.archive(tmp_path, action, **{keyword: {action: 9}}))[1]
            for action in (before, after)
        ]
        for page, mine, other in ((pages[0], *words), (pages[1], *words[::-1])):
            assert mine in page
            assert other not in page

    def test_what_no_file_holds_is_named(self, tmp_path):
        _, text = reported(tmp_path, self.archive(tmp_path, "a"))
        assert "No file has an attribute about: age; weight; height; ethnic group" in text
        _, text = reported(tmp_path, self.archive(tmp_path, "b", PatientAge={"K": 9}))
        assert "No file has an attribute about: weight; height; ethnic group" in text

    def test_a_declared_number_hides_the_counts(self, tmp_path):
        archive = self.archive(tmp_path, "a", PatientWeight={"K": 8123})
        assert "8,123" in reported(tmp_path, archive)[1]
        run = write_run(tmp_path / "run", private=True, declared=30)
        assert "8,123" not in reported(tmp_path, archive, run)[1]


class TestRunsSideBySide:
    def test_one_run_has_no_such_table(self, tmp_path):
        run = write_run(tmp_path / "a", private=True)
        assert "Runs side by side" not in reported(tmp_path, run)[1]

    def test_only_settings_that_differ_are_named_with_the_values_of_each_run(self, tmp_path):
        first = write_run(tmp_path / "a", private=False, settings={"lr": 0.125})
        for name, rate, words in (("b", 0.25, "lr: 0.25"), ("c", 0.125, "none none")):
            second = write_run(tmp_path / name, private=False, settings={"lr": rate})
            _, text = reported(tmp_path, first, second)
            table = text[text.index("Runs side by side") : text.index("Recipes")]
            assert words in table
            assert ("lr: 0.125" in table) == (rate != 0.125)
            assert "batch size" not in table

    def test_settings_of_privacy_are_compared_among_private_runs_only(self, tmp_path):
        plain = write_run(tmp_path / "plain", private=False)
        private = write_run(tmp_path / "private", private=True)
        _, text = reported(tmp_path, plain, private)
        table = text[text.index("Runs side by side") : text.index("Recipes")]
        assert "privacy.delta" not in table
        assert "ε = 4.64 δ = 0.0001 per patient" in table
        assert "no epsilon not private" in table
        other = write_run(tmp_path / "other", private=True, delta=1e-5)
        _, text = reported(tmp_path, plain, private, other)
        assert "privacy.delta: 0.0001" in text

    def test_the_joint_epsilon_and_results_on_other_data_are_in_the_table(self, tmp_path):
        runs = [write_run(tmp_path / name, private=True) for name in "ab"]
        _, text = reported(tmp_path, *runs)
        table = text[text.index("Runs side by side") : text.index("Recipes")]
        joint = re.search(r"count together, .*? epsilon = (\d+\.?\d*)", text).group(1)
        assert f"Runs a and b share patients: ε = {joint} together." in table
        assert "elsewhere" not in table
        write_evaluation(runs[0], record_of(runs[0]), private=True, external="elsewhere")
        _, text = reported(tmp_path, *runs)
        assert "elsewhere (test): AUROC 0." in text[text.index("Runs side by side") : text.index("Recipes")]

    def test_a_void_run_shows_no_epsilon(self, tmp_path):
        void = write_run(tmp_path / "void", private=True, deterministic=True)
        sound = write_run(tmp_path / "sound", private=True)
        _, text = reported(tmp_path, void, sound)
        table = text[text.index("Runs side by side") : text.index("Recipes")]
        assert "void private no epsilon void: noise from a seed" in table
        assert "no epsilon holds" in table

    def test_runs_are_named_without_their_time_unless_two_would_share_a_name(self, tmp_path):
        one = write_run(tmp_path / "2026-11-20_101500_cxr_s0", private=False)
        two = write_run(tmp_path / "2026-11-21_101500_cxr_s1", private=False)
        _, text = reported(tmp_path, one, two)
        assert "Run cxr_s0 " in text
        assert "folder 2026-11-20_101500_cxr_s0" in text
        same = write_run(tmp_path / "2026-11-22_101500_cxr_s0", private=False)
        _, text = reported(tmp_path, one, same)
        assert "Run 2026-11-20_101500_cxr_s0 " in text
        assert "Run 2026-11-22_101500_cxr_s0 " in text

    def test_hostile_names_stay_text(self, tmp_path):
        hostile = "<img src=x onerror=alert(1)>"
        runs = [
            write_run(tmp_path / name, private=False, settings={"note": f"{hostile}{name}", hostile: name})
            for name in "ab"
        ]
        archive = write_deid(tmp_path / "d", "north", actions={hostile: {hostile: 1, "K": 1}})
        stage.run(CONFIG, [*runs, archive], tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text().replace("<wbr>", "")
        assert "<img" not in page
        assert "&lt;img src=x" in page


class TestWhatIsLeftOutOfGroups:
    def test_cases_without_sex_are_counted_and_the_count_follows_the_data(self, tmp_path):
        run = write_run(tmp_path / "run", private=False)
        whole = reported(tmp_path, run)[1]
        assert "no group of sex" not in whole
        path = run / place(EvaluationRecord)
        record = json.loads(path.read_text())
        men = [item for item in record["evaluation"]["groups"] if item["group"] == "M"]
        for item in men:
            item["n"] -= 47
        path.write_text(json.dumps(record))
        relist(run)
        total = record["evaluation"]["n_cases"]
        assert f"Run run: 47 of {total} cases are in no group of sex" in reported(tmp_path, run)[1]


class TestCalibrationAndUse:
    def test_every_label_has_a_calibration_and_the_worst_comes_first(self, tmp_path):
        run = write_run(tmp_path / "run", private=False)
        text = reported(tmp_path, run)[1]
        table = text[text.index("Run run: calibration") :]
        found = json.loads((run / place(EvaluationRecord)).read_text())["evaluation"]["calibration"]
        ranked = [item["label"] for item in sorted(found, key=lambda item: -item["ece"])]
        assert len(ranked) == len(LABELS)
        places = [table.index(label) for label in ranked]
        assert places == sorted(places)

    def test_the_page_names_the_ways_to_predict_that_the_release_holds(self, tmp_path):
        run = write_run(tmp_path / "run", private=False)
        assert "`meninx predict` cannot use it" in reported(tmp_path, run)[1]
        bundle = run / "release" / "bundle"
        for name, words in (
            ("models/model.pt", "meninx predict release IMAGES OUT"),
            ("configs/inference.json", "python -m monai.bundle run"),
            ("models/model.onnx", "with ONNX Runtime alone"),
        ):
            assert words not in reported(tmp_path, run)[1]
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_bytes(b"x")
            Run(run).enlist(added=[bundle / name])
            assert words in reported(tmp_path, run)[1]

    def test_a_void_run_is_not_to_be_used(self, tmp_path):
        run = write_run(tmp_path / "run", private=True, deterministic=True)
        assert "must not be released or used" in reported(tmp_path, run)[1]


class TestSeveralRunsInOneSentence:
    def test_runs_share_a_sentence_only_when_the_same_is_to_be_said(self, tmp_path):
        runs = [write_run(tmp_path / name, private=False) for name in "abc"]
        text = reported(tmp_path, *runs)[1]
        assert "Runs a, b and c were each measured on the test split of cohort" in text
        odd = write_run(tmp_path / "d", private=False, compared=False)
        text = reported(tmp_path, runs[0], runs[1], odd)[1]
        assert "Runs a and b were each measured on the test split of cohort" in text
        assert "Run d was measured on the test split of cohort" in text
        assert "d were each" not in text
