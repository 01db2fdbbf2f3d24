"""One owner for every file that crosses a stage: its place, its reader, and files of older versions."""

import json
import os
from pathlib import Path

import pytest

from meninx.core import artifacts, provenance
from meninx.core import run as runs
from meninx.core.artifacts import (
    Ancestry,
    ComparisonRecord,
    DataRecord,
    EvaluationRecord,
    Lineage,
    Members,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.errors import DataError

ORIGIN = Origin(run="a" * 32, data="b" * 64, weights="c" * 64, step=60, split="test")


def test_private_records_are_the_owners_and_public_ones_obey_the_umask(tmp_path: Path):
    before = os.umask(0o022)
    try:
        artifacts.write(tmp_path, DataRecord(dataset="/data", digest="0"))
        artifacts.write(tmp_path, RunRecord(id="1", name="a"))
        artifacts.write(tmp_path, EvaluationRecord(origin=ORIGIN, evaluation={}), split="train", private=True)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"run.json": 0o644, "private": 0o700, "data.json": 0o600, "evaluation-train.json": 0o600}


def test_only_the_test_split_of_the_runs_own_data_has_the_plain_name(tmp_path: Path):
    places = [
        artifacts.place(kind, split=split, dataset=dataset, private=private)
        for kind in (EvaluationRecord, ComparisonRecord)
        for split in ("test", "valid", "train")
        for dataset in ("", "0123456789ab")
        for private in (False, True)
    ]
    assert len(set(places)) == len(places)
    assert places[0] == "release/evaluation.json"
    for split, dataset in (("../x", ""), ("test", "a/b"), ("valid\n", "")):
        with pytest.raises(DataError):
            artifacts.write(
                tmp_path, EvaluationRecord(origin=None, evaluation={}), split=split, dataset=dataset
            )


def test_no_file_is_none_and_anything_else_that_is_no_record_is_an_error(tmp_path: Path):
    assert artifacts.read(tmp_path, PrivacyRecord) is None
    assert artifacts.read(tmp_path / "none", Members) is None
    place = tmp_path / "privacy.json"
    place.mkdir()
    with pytest.raises(DataError, match=r"privacy\.json"):
        artifacts.read(tmp_path, PrivacyRecord)
    place.rmdir()
    os.mkfifo(place)
    with pytest.raises(DataError, match=r"privacy\.json"):
        artifacts.read(tmp_path, PrivacyRecord)
    place.unlink()
    place.symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"privacy\.json"):
        artifacts.read(tmp_path, PrivacyRecord)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'{"private": "yes"}',
        b'{"private": true, "epsilon": [8]}',
        b'{"private": true, "steps": "60"}',
        b"[" * 10**6,
        b'{"private": true, "ledger": [1, 2, 3]}',
        b'{"private": true, "epsilon": NaN}',
    ],
)
def test_foreign_content_names_the_file(tmp_path: Path, content: bytes):
    (tmp_path / "privacy.json").write_bytes(content)
    with pytest.raises(DataError, match=r"privacy\.json") as caught:
        artifacts.read(tmp_path, PrivacyRecord)
    assert caught.value.exit_code == 3


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path):
    with (tmp_path / "privacy.json").open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(DataError, match=r"at most .* privacy\.json|privacy\.json"):
        artifacts.read(tmp_path, PrivacyRecord)


def test_a_record_of_a_newer_version_is_not_half_understood(tmp_path: Path):
    (tmp_path / "privacy.json").write_text('{"private": true, "version": 99, "new_caveat": "x"}')
    with pytest.raises(DataError, match="format"):
        artifacts.read(tmp_path, PrivacyRecord)


LEGACY_PRIVACY = {
    "private": True,
    "epsilon": None,
    "delta": 1e-5,
    "unit": "patient",
    "relation": "add-or-remove-one",
    "noise_multiplier": 0.0,
    "max_grad_norm": 1.0,
    "sample_rate": 0.1,
    "steps": 60,
    "sampler": "poisson",
    "accountant": "none",
    "clipping": "flat",
    "expected_batch_size": 8.0,
    "planned_steps": 60,
    "sentence": "x",
    "curve": [[30, 4.5], [60, 8]],
    "weights": "last, ema",
    "outside_guarantee": ["labels"],
    "deterministic": False,
    "risk": {"advantage": 0.1, "tpr_at_fpr": {"0.01": 0.05}, "prior": 0.01, "reconstruction": 0.2},
    "pretrained": {
        "file": "a.pt",
        "sha256": "0",
        "source": "ImageNet",
        "loaded": 3,
        "fresh": [],
        "unused": 0,
    },
}


def test_privacy_of_an_older_version_is_read(tmp_path: Path):
    (tmp_path / "privacy.json").write_text(json.dumps(LEGACY_PRIVACY))
    found = artifacts.read(tmp_path, PrivacyRecord)
    assert found is not None
    assert (found.private, found.epsilon, found.origin, found.version) == (
        True,
        None,
        None,
        1,
    )
    assert found.risk is not None
    (tmp_path / "privacy.json").write_text(
        json.dumps(
            {"private": False, "epsilon": None, "sentence": "x", "weights": "best", "pretrained": None}
        )
    )
    assert artifacts.read(tmp_path, PrivacyRecord) == PrivacyRecord(private=False, sentence="x")


def test_evaluation_and_comparison_of_an_older_version_are_read_without_an_origin(tmp_path: Path):
    (tmp_path / "release").mkdir()
    table = {"version": 1, "task": "multilabel", "metrics": [{"name": "auroc"}]}
    (tmp_path / "release" / "evaluation.json").write_text(json.dumps(table))
    assert artifacts.read(tmp_path, EvaluationRecord) == EvaluationRecord(
        origin=None, evaluation=table, version=1
    )
    comparison = {"run": "a", "baseline": "b", "differences": [{"name": "auroc_difference"}]}
    (tmp_path / "release" / "comparison.json").write_text(json.dumps(comparison))
    found = artifacts.read(tmp_path, ComparisonRecord)
    assert found is not None
    assert (found.origin, found.baseline_name, len(found.differences)) == (None, "b", 1)


def test_lineages_hold_their_parents(tmp_path: Path):
    parent = Lineage(run="p", private=True, ledger=("{}",), delta=1e-5)
    child = Lineage(run="c", private=True, parents=(parent,))
    artifacts.write(tmp_path, child)
    assert artifacts.read(tmp_path, Lineage) == child
    artifacts.write(tmp_path, Ancestry(ledgers=(("a", "b"),)))
    assert artifacts.read(tmp_path, Ancestry) == Ancestry(ledgers=(("a", "b"),))


def test_a_state_is_one_of_the_known(tmp_path: Path):
    artifacts.write(tmp_path, RunRecord(id="1", name="a", state=RunState.RELEASED))
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("released", "blessed"))
    with pytest.raises(DataError, match="state") as caught:
        artifacts.read(tmp_path, RunRecord)
    assert "blessed" not in str(caught.value)


def test_a_keyed_digest_separates_its_parts_and_needs_the_key():
    key = bytes(32)
    assert artifacts.keyed(key, "a", "b") != artifacts.keyed(key, "ab")
    assert artifacts.keyed(key, "a") != artifacts.keyed(bytes(31) + b"1", "a")
    assert key.hex() not in artifacts.key_name(key)


def test_the_same_model_means_weights_of_the_same_run_at_the_same_step():
    assert ORIGIN.same_model(Origin(run="a" * 32, data="other", weights="c" * 64, step=60))
    assert not ORIGIN.same_model(Origin(run="a" * 32, data="b" * 64, weights="c" * 64, step=4))
    nothing = Origin(run="a", data="b")
    assert not nothing.same_model(nothing)


def test_the_environment_of_a_run_is_a_record(tmp_path: Path):
    run = runs.create(tmp_path, "x", config_toml="", command=["meninx", "train", "/home/anna/data"])
    found = artifacts.read(run.root, artifacts.Environment)
    assert found == provenance.environment(["meninx", "train", "data"])
    (run.root / "environment.json").write_text('{"packages": 3}')
    with pytest.raises(DataError, match=r"environment\.json"):
        artifacts.read(run.root, artifacts.Environment)
