"""Candidates of a run in private files: what is attacked, resuming, and files that were changed."""

import stat
from dataclasses import replace

import numpy as np
import pytest
import torch

from meninx import api
from meninx.audit.audited_run import dataset_of
from meninx.audit.reconstruction import attack_run
from meninx.audit.reconstruction.attack_run import create_candidates, target_of_run
from meninx.audit.reconstruction.candidates import NO_NOISE, NoiseLevel, read_candidates, read_index
from meninx.audit.reconstruction.pools import load_pools
from meninx.audit.reconstruction.victim import STEP, View
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.run import open_run
from meninx.learn import checkpoint
from meninx.synthetic.dataset import write_dataset

LEVELS = (NO_NOISE, NoiseLevel(name="sigma 0.5", noise_multiplier=0.5))
MORE = NoiseLevel(name="sigma 0.25", noise_multiplier=0.25)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Targets of a private run and of one without privacy, on the same 40 invented patients."""
    root = tmp_path_factory.mktemp("reconstructed")
    data = write_dataset(root / "data", patients=40, size=16)
    patients = {patient: number for number, patient in enumerate(data.patients)}
    cases = tuple(
        replace(case, split=("train", "test")[patients[case.patient_id] % 2]) for case in data.cases
    )
    Manifest(data.root, replace(data.info, split_rule="exact"), cases).write()
    common = {"recipe": "tiny", "steps": 1, "out": root / "runs", "deterministic": True}
    private = api.train(root / "data", epsilon=1.0, delta=1e-3, attack_risk=False, **common).out
    return open_run(private), open_run(api.train(root / "data", seed=1, **common).out)


@pytest.fixture(scope="module")
def target(runs):
    return target_of(runs[0])


def target_of(run):
    config = checkpoint.config_of(checkpoint.load(run, "last"))
    data = dataset_of(run)
    return target_of_run(run, load_pools(data, config), data)


def create(target, room, attacks=("imprint-raw", "readout"), **rest):
    return create_candidates(
        target, attacks, rest.pop("levels", LEVELS), room=room, batches=2, batch=4, **rest
    )


def test_a_run_is_attacked_with_its_own_clipping_and_weights(runs, target):
    assert target.plan.max_grad_norm == 1.0
    assert target.plan.noise_multiplier > 0
    assert target.outputs == 3
    assert not target.network.training
    assert 0 <= float(target.pools.members.images.min()) <= float(target.pools.members.images.max()) <= 1


def test_a_run_without_privacy_has_no_noise(runs):
    assert target_of(runs[1]).plan.noise_multiplier == 0


def test_sets_come_back_as_they_were_written(target, tmp_path):
    index = create(target, tmp_path / "room")
    assert read_index(tmp_path / "room") == index
    assert [(one.attack, one.level.name) for one in index.sets] == [
        ("imprint-raw", "non-private"), ("imprint-raw", "sigma 0.5"),
        ("readout", "non-private"), ("readout", "sigma 0.5"),
    ]  # fmt: skip
    for record in index.sets:
        found = read_candidates(tmp_path / "room", record)
        assert found.originals.shape == (record.trials, record.originals, 1, 16, 16)
        assert found.candidates.shape == found.noise_null.shape == found.heldout_null.shape
        assert len(record.cases) == record.trials
        assert len(set(record.cases[0])) == record.originals
    mode = stat.S_IMODE((tmp_path / "room" / f"{index.sets[0].stem}.npy").stat().st_mode)
    assert mode == 0o600


def test_what_is_there_is_not_made_again(target, tmp_path, monkeypatch):
    index = create(target, tmp_path / "room")
    asked = []
    monkeypatch.setattr(
        attack_run, "reconstruct", lambda name, levels, **rest: asked.append((name, levels)) or iter(())
    )
    assert create(target, tmp_path / "room") == index
    assert asked == []
    create(target, tmp_path / "room", levels=(*LEVELS, MORE))
    assert asked == [("imprint-raw", [MORE]), ("readout", [MORE])]


def test_an_interrupted_creation_goes_on_with_what_is_missing(target, tmp_path, monkeypatch):
    whole = create(target, tmp_path / "whole")
    real, made = attack_run.write_candidates, []

    def write(room, found):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(found.about.level.name)
        return real(room, found)

    monkeypatch.setattr(attack_run, "write_candidates", write)
    with pytest.raises(KeyboardInterrupt):
        create(target, tmp_path / "room")
    monkeypatch.setattr(attack_run, "write_candidates", real)
    resumed = create(target, tmp_path / "room")
    assert [one.digest for one in resumed.sets] == [one.digest for one in whole.sets]


def test_a_changed_file_is_refused_and_made_again(target, tmp_path):
    index = create(target, tmp_path / "room")
    record = index.sets[0]
    path = tmp_path / "room" / f"{record.stem}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not those of the index"):
        read_candidates(tmp_path / "room", record)
    again = create(target, tmp_path / "room")
    assert read_candidates(tmp_path / "room", again.find(record.attack, "step", "non-private"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY", b'{"made_for": "x", "format": 9}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DataError, match=r"index\.json"):
        read_index(tmp_path)
    assert read_index(tmp_path / "nowhere") is None


def test_sets_of_other_settings_are_not_mixed(target, tmp_path):
    create(target, tmp_path / "room")
    with pytest.raises(UsageError, match="other settings"):
        create(target, tmp_path / "room", seed=1)
    other = create(target, tmp_path / "room", seed=1, overwrite=True)
    assert {one.seed for one in other.sets} == {1}


def test_another_run_is_refused(runs, target, tmp_path):
    create(target, tmp_path / "room", attacks=("readout",))
    with pytest.raises(UsageError, match="another run"):
        create(target_of(runs[1]), tmp_path / "room", attacks=("readout",))


def test_an_attack_that_cannot_be_run_has_a_reason(target, tmp_path):
    wide = replace(target, network=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1200)))
    index = create(wide, tmp_path / "room", attacks=("matching",))
    assert index.sets == ()
    assert "308,400 parameters" in index.not_attacked["matching"]
    segmenting = replace(target, segmentation=True)
    index = create(segmenting, tmp_path / "other", attacks=("readout",))
    assert "segments" in index.not_attacked["readout"]


def test_views_of_a_federated_round_have_sets_of_their_own(target, tmp_path):
    views = (STEP, View(sites=3), View(sites=3, difference=True))
    index = create(target, tmp_path / "room", attacks=("imprint-raw",), levels=LEVELS[1:], views=views)
    assert [one.sites for one in index.sets] == [1, 3, 3]
    assert [one.batch for one in index.sets] == [4, 3, 4]  # 10 held-out patients are too few for 3 x 4
    assert [one.view_noise for one in index.sets] == pytest.approx([1, np.sqrt(3), np.sqrt(5)])


def test_too_few_patients_for_a_round_are_named(target, tmp_path):
    index = create(target, tmp_path / "room", attacks=("imprint-raw",), views=(View(sites=20),))
    assert index.sets == ()
    assert "10 held-out" in index.not_attacked["imprint-raw, sum of 20 sites"]
