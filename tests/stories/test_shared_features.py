"""Embeddings of a run are released to a partner, attacked, and verified; what does not belong is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import meninx
from meninx.cli.app import run
from meninx.core import artifacts
from meninx.core.artifacts import ObfuscationRecord, ReleaseAuditRecord, RunRecord
from meninx.core.errors import AuditFinding, ConfigError, DataError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import Run, open_run
from meninx.learn import inference
from meninx.obfuscate import feature_source
from meninx.synthetic import write_dataset

QUICK = {"batch_size": 16, "device": "cpu", "attack_risk": False}
QUICK |= {"model": "resnet9-small", "model_options": {"width": 4}}
FAST = {"attack_epochs": 1, "permutations": 0}


@dataclass(frozen=True)
class Trained:
    """A cohort and two runs on it."""

    data: Path
    run: Path
    other: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    data = write_dataset(root / "data", patients=150, size=16).root
    one, other = (meninx.train(data, out=root / "runs", seed=seed, steps=8, **QUICK).out for seed in (0, 1))
    return Trained(data, one, other)


@pytest.fixture(scope="module")
def released(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("released") / "shared"
    words = ["obfuscate", "features", str(trained.run), str(out), "--method", "leace", "--attribute", "sex"]
    assert run([*words, "--attack-epochs", "1", "--permutations", "0", "-q"]) == 0
    return out


def vectors(root: Path) -> np.ndarray:
    """Return the released vectors in the order of the source's cases."""
    rows = csv.DictReader((root / "private/cases.csv").read_text().splitlines())
    order = np.argsort([row["source_case_id"] for row in rows])
    return np.load(root / "features.npz", allow_pickle=False)["features"][order]


def test_the_release_has_a_vector_per_case_and_no_attribute(trained, released):
    manifest = Manifest.read(trained.data)
    with np.load(released / "features.npz", allow_pickle=False) as content:
        assert content["features"].shape == (len(manifest), 32)
        assert content["features"].dtype == np.float32
        rows = list(csv.DictReader((released / "private/cases.csv").read_text().splitlines()))
        assert content["case_id"].tolist() == sorted(row["case_id"] for row in rows)
        assert {row["source_case_id"] for row in rows} == {case.case_id for case in manifest.cases}
        assert "linear attackers alone" in str(content["obfuscated"][0])
    lines = (released / "manifest.csv").read_text().splitlines()
    assert lines[0].split(",") == ["case_id", "patient_id", "split", *manifest.info.labels]
    assert len(lines) == len(manifest) + 1


def test_the_record_names_run_weights_and_data_under_a_key(trained, released):
    record = artifacts.read(released, ObfuscationRecord)
    of_run = artifacts.read(trained.run, RunRecord)
    assert (record.subject, record.method, record.withheld) == ("features", "leace", ("sex", "age", "site"))
    assert (record.source.run, record.source.weights) == (of_run.id, of_run.weights)
    assert record.source.data != of_run.data  # another key
    assert record.sentence().startswith("features obfuscated by least-squares concept erasure to hide sex")
    audit = artifacts.read(released, ReleaseAuditRecord)
    assert audit.source.run == of_run.id
    assert audit.subject == "features"
    assert {item.name for item in audit.attackers} >= {"perceptron", "linear", "kernel", "boosted"}


def test_utility_is_measured_by_the_own_head_and_retrained(released):
    audit = artifacts.read(released, ReleaseAuditRecord)
    regimes = {item.regime for item in audit.utility}
    assert regimes == {"drop-in", "drop-in head", "retrained", "retrained linear"}
    heads = [item for item in audit.utility if item.regime == "drop-in head" and item.loss is not None]
    assert heads
    assert all(item.loss_low <= item.loss <= item.loss_high for item in heads)
    assert any(item.name == "outputs of the head on the release" for item in audit.output_leaks)


@pytest.mark.slow
def test_embeddings_are_the_input_of_the_last_layer(trained):
    found = feature_source.of_run(trained.run, None, device="cpu")
    model, _, info = inference.load_model(Run(trained.run))
    logits = inference.head_outputs(model, found.values)
    config = inference.load_model(Run(trained.run))[1]
    wanted = inference.predict(model, info, Manifest.read(trained.data), config)
    np.testing.assert_allclose(logits, wanted.logits, atol=1e-4)
    np.testing.assert_allclose(found.head(found.values), wanted.probabilities, atol=1e-4)


@pytest.mark.slow
def test_the_folder_verifies_and_a_changed_vector_does_not(released, tmp_path):
    assert meninx.verify(released).ok
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    content = bytearray((copy / "features.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "features.npz").write_bytes(content)
    assert not meninx.verify(copy).ok
    shutil.copy(released / "features.npz", copy / "features.npz")
    assert meninx.verify(copy).ok
    audit = artifacts.read(copy, ReleaseAuditRecord)
    artifacts.write(copy, replace(audit, checksums="0" * 64))
    assert not meninx.verify(copy).ok
    artifacts.write(copy, audit)
    text = (copy / "manifest.csv").read_text()
    (copy / "manifest.csv").write_text("\n".join(text.splitlines()[:-1]) + "\n")
    assert not meninx.verify(copy).ok


def test_the_map_stays_in_the_private_room(released):
    room = released / "private"
    assert {"obfuscation.key", "eraser.npz"} <= {path.name for path in room.iterdir()}
    assert room.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in room.iterdir())


def test_the_features_of_another_run_are_refused(trained, released):
    before = vectors(released)
    given = {"attribute": "sex", "method": "leace", "resume": True, **FAST}
    with pytest.raises(UsageError):
        meninx.obfuscate_features(trained.other, released, **given)
    with pytest.raises(UsageError):
        meninx.obfuscate_features(trained.run, released, **{**given, "resume": False})
    again = meninx.obfuscate_features(trained.run, released, **given)
    assert again.audit is not None
    np.testing.assert_array_equal(vectors(released), before)


def test_a_published_vector_that_the_method_does_not_give_is_refused(trained, released, tmp_path):
    copy = Path(shutil.copytree(released, tmp_path / "copy"))
    with np.load(copy / "features.npz") as content:
        arrays = dict(content)
    arrays["features"][0, 0] += 1
    np.savez(copy / "features.npz", **arrays)
    with pytest.raises(DataError, match="does not give"):
        meninx.obfuscate_features(trained.run, copy, attribute="sex", method="leace", resume=True, **FAST)


@pytest.mark.slow
def test_another_attribute_run_or_method_gives_other_vectors(trained, released, tmp_path):
    def of(number: int, source: Path = trained.run, **given) -> np.ndarray:
        meninx.obfuscate_features(source, tmp_path / str(number), audit=False, **given)
        return vectors(tmp_path / str(number))

    same = of(0, attribute="sex", method="leace")
    np.testing.assert_array_equal(same, vectors(released))
    others = [
        of(1, attribute="age", method="leace"),
        of(2, trained.other, attribute="sex", method="leace"),
        of(3, attribute="sex", method="leace", quantise=True),
    ]
    assert all(not np.allclose(same, one, atol=1e-3) for one in others)
    assert of(4, attribute="sex", method="kernel-erasure").shape[1] > same.shape[1]


@pytest.mark.slow
def test_two_deterministic_releases_are_the_same_files(trained, tmp_path):
    for name in ("a", "b"):
        meninx.obfuscate_features(
            trained.run, tmp_path / name, attribute="sex", method="leace", deterministic=True, **FAST
        )
    for name in (
        "features.npz",
        "manifest.csv",
        "obfuscation.json",
        "release_audit.json",
        "report.html",
        "checksums.sha256",
    ):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "obfuscation.json").read_text())["deterministic"] is True


@pytest.mark.slow
def test_a_certificate_counts_patients_of_the_test_split_alone(trained, tmp_path):
    given = {"attribute": "sex", "method": "codes", **FAST}
    result = meninx.obfuscate_features(trained.run, tmp_path / "coded", **given)
    (found,) = result.audit.certificates
    test = Manifest.read(trained.data).split("test")
    assert sum(found.patients) == len(test.patients)
    assert found.limit is None
    assert "not certified: needs" in result.summary()
    assert "does not hide whose they are" in result.sentence


@pytest.mark.slow
def test_a_target_that_is_missed_fails_and_one_below_the_floor_is_refused(trained, tmp_path):
    given = {"attribute": "sex", "method": "leace", **FAST}
    result = meninx.obfuscate_features(trained.run, tmp_path / "missed", target=0.51, **given)
    with pytest.raises(AuditFinding):
        result.raise_if_failed()
    floor = result.floor
    if floor.auroc is not None and floor.auroc > 0.501:
        with pytest.raises(PrivacyRefusal):
            meninx.obfuscate_features(trained.run, tmp_path / "floor", target=floor.auroc - 1e-4, **given)


def test_a_dry_run_writes_nothing(trained, tmp_path):
    result = meninx.obfuscate_features(trained.run, tmp_path / "dry", method="leace", dry_run=True)
    assert "nothing was written" in result.summary()
    assert not (tmp_path / "dry").exists()


def test_an_unfinished_run_changed_weights_and_shared_patients_are_refused(trained, tmp_path):
    copy = Path(shutil.copytree(trained.run, tmp_path / "run"))
    record = open_run(copy).record
    artifacts.write(copy, replace(record, weights="0" * 64))
    with pytest.raises(DataError, match="released weights"):
        feature_source.of_run(copy, trained.data, device="cpu")
    artifacts.write(copy, replace(record, state=artifacts.RunState.STARTING))
    with pytest.raises(UsageError, match="finished run"):
        feature_source.of_run(copy, trained.data, device="cpu")
    moved = Path(shutil.copytree(trained.data, tmp_path / "moved"))
    manifest = Manifest.read(moved)
    where = {"train": "test", "test": "train", "valid": "valid"}
    cases = tuple(replace(case, split=where[case.split]) for case in manifest.cases)
    Manifest(moved, manifest.info, cases).write()
    with pytest.raises(DataError, match="no patients of the run's training"):
        feature_source.of_run(trained.run, moved, device="cpu")


@pytest.mark.slow
def test_a_file_of_ones_own_is_released_and_a_release_is_not_released_again(released, tmp_path):
    rng = np.random.default_rng(0)
    sex, ill = rng.integers(0, 2, 240), rng.integers(0, 2, 240)
    given = {
        "features": rng.normal(size=(240, 6)) + np.outer(sex, np.ones(6)) + np.outer(ill, np.arange(6) / 3),
        "case_id": np.array([f"c{row}" for row in range(240)]),
        "patient_id": np.array([f"p{row}" for row in range(240)]),
        "sex": np.array(["F", "M"])[sex],
        "ill": ill,
    }
    np.savez(tmp_path / "own.npz", **given)
    settings = {"attribute": "sex", "labels": ["ill"], "method": "leace"}
    result = meninx.obfuscate_features(tmp_path / "own.npz", tmp_path / "shared", **settings, **FAST)
    assert result.record.source.run == ""
    assert "no splits" in result.note
    linear = next(item for item in result.audit.attackers if item.name == "linear")
    assert linear.clean_auroc > 0.9 > 0.7 > linear.auroc
    assert {item.regime for item in result.audit.utility} == {"drop-in", "retrained", "retrained linear"}
    assert "sex" not in (tmp_path / "shared" / "manifest.csv").read_text()
    with pytest.raises(DataError, match="obfuscated before"):
        meninx.obfuscate_features(released / "features.npz", tmp_path / "twice", **settings)
    with pytest.raises(UsageError, match="neither a dataset nor a network"):
        meninx.obfuscate_features(tmp_path / "own.npz", tmp_path / "x", data=released, **settings)


def test_methods_for_images_and_other_files_are_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="for images"):
        meninx.obfuscate_features(trained.run, tmp_path / "x", method="noise")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"neither \.npz nor \.csv"):
        meninx.obfuscate_features(tmp_path / "notes.txt", tmp_path / "x", method="leace")
    with pytest.raises(ConfigError, match="no budget"):
        meninx.obfuscate_features(trained.run, tmp_path / "x", method="leace", budget=0.1)


@pytest.mark.slow
def test_the_page_of_shared_features_lies_beside_them_and_a_report_takes_the_folder(trained, tmp_path):
    given = {"attribute": "sex", "method": "leace", **FAST}
    made = meninx.obfuscate_features(trained.run, tmp_path / "shared", **given)
    assert "To hide sex, features were changed by least-squares concept erasure" in made.page.read_text()
    assert meninx.verify(made.out).ok
    meninx.report([made.out], tmp_path / "page.html")
    record = artifacts.read(made.out, ReleaseAuditRecord)
    artifacts.write(made.out, replace(record, verdict="passed"))
    assert not meninx.verify(made.out).ok
    with pytest.raises(DataError, match="verdict does not follow"):
        meninx.report([made.out], tmp_path / "other.html")


def test_another_method_leaves_no_private_file_of_the_earlier_one(trained, released, tmp_path):
    out = Path(shutil.copytree(released, tmp_path / "shared"))
    assert (out / "private/eraser.npz").is_file()
    words = ["obfuscate", "features", str(trained.run), str(out), "--method", "codes", "--no-audit"]
    assert run([*words, "--attribute", "sex", "--utility", "linear", "--overwrite", "-q"]) == 0
    assert not (out / "private/eraser.npz").exists()


def test_draws_have_no_effect_on_features_and_are_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="features are released once"):
        meninx.obfuscate_features(trained.run, tmp_path / "out", method="leace", draws=50)


def test_a_csv_keeps_its_label_columns_and_names_what_it_does_not_publish(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["case_id,patient_id,sex,effusion,ward,feature_0,feature_1"]
    for number in range(120):
        sex, ill = "FM"[number % 2], int(rng.integers(0, 2))
        lines.append(
            f"c{number},p{number},{sex},{ill},ward {number % 3},{rng.normal():.4f},{rng.normal():.4f}"
        )
    (tmp_path / "f.csv").write_text("\n".join(lines) + "\n")
    result = meninx.obfuscate_features(tmp_path / "f.csv", tmp_path / "out", method="leace", audit=False)
    assert result.published == ("effusion",)
    assert result.withheld == ("sex", "ward")
    assert result.floor.auroc is not None
    header = (tmp_path / "out/manifest.csv").read_text().splitlines()[0]
    assert header == "case_id,patient_id,split,effusion"
    assert meninx.verify(tmp_path / "out").ok
