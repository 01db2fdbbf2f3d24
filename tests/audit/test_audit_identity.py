"""`meninx audit identity`: links, floor, controls, verdicts, refusals, and what stays private."""

import csv
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from meninx.audit.config import IdentityConfig
from meninx.audit.identity_findings import findings
from meninx.audit.identity_reconstructions import link_reconstructions
from meninx.audit.reconstruction.candidates import (
    NO_NOISE,
    CandidateIndex,
    CandidateRecord,
    CandidateSet,
    write_candidates,
    write_index,
)
from meninx.audit.reidentification import run_identity
from meninx.cli.app import run as command
from meninx.core import artifacts
from meninx.core.errors import ConfigError, DataError, UsageError
from meninx.core.identity_records import IdentityAudit
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind
from meninx.core.progress import SILENT
from meninx.learn import identity_linkage
from meninx.learn.identity_images import (
    Pictures,
    divided,
    drawn_patients,
    marked,
    pictures_of,
    shuffled,
    without_copies,
)
from meninx.metrics.linkage import Owners
from meninx.synthetic.dataset import write_dataset, write_nifti, write_png

CONFIG = IdentityConfig(attacks=("pixels",), side=16)
PATIENTS = 60


def people(root, *, gain, patients=PATIENTS, images=2, noise=1.0, seed=0, dims=2):
    """Write a dataset whose patients have a pattern of their own, of strength ``gain``."""
    rng, shape = np.random.default_rng(seed), (16,) * dims
    patterns = rng.normal(size=(patients, *shape))
    cases = []
    for person in range(patients):
        for number in range(images):
            values = 128 + 30 * (gain * patterns[person] + noise * rng.normal(size=shape))
            array = np.clip(values, 0, 255).astype(np.uint8)
            name = f"images/c{person:03d}-{number}" + (".png" if dims == 2 else ".nii.gz")
            if dims == 2:
                write_png(root / name, array)
            else:
                write_nifti(root / name, array.astype(np.int16), np.eye(4))
            cases.append(
                Case(
                    case_id=f"c{person:03d}-{number}",
                    patient_id=f"p{person:03d}",
                    image=name,
                    study=f"p{person:03d}-{number}",
                    split="train",
                    labels={"a": float(person % 2), "b": float(person % 2 == 0)} if dims == 2 else {},
                    attributes={"sex": "FM"[person % 2]},
                )
            )
    info = DatasetInfo(
        name="people",
        task=TaskKind.MULTICLASS if dims == 2 else TaskKind.SEGMENTATION,
        labels=("a", "b") if dims == 2 else ("organ",),
        attributes=("sex",),
        spatial_dims=dims,
        size=shape,
    )
    data = Manifest(root, info, tuple(cases))
    data.write()
    return data


def attacks(audit):
    """Return the colours of the numbers that are no controls."""
    return {item.key: item.colour for item in findings(audit) if "control" not in item.key}


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    return people(tmp_path_factory.mktemp("linked") / "data", gain=1.0).root


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    return people(tmp_path_factory.mktemp("nothing") / "data", gain=0.0).root


def test_images_that_show_their_patient_are_linked(linked, tmp_path):
    result = run_identity(CONFIG, linked, out=tmp_path / "out")
    audit = artifacts.read(tmp_path / "out", IdentityAudit)
    assert audit == result.audit
    assert audit.verdict == "linked"
    (link,) = audit.links
    assert link.p_at_1_low > link.null_high > link.chance
    assert link.chance == pytest.approx(1 / 59)
    assert (audit.fitted_patients, audit.fitted_images, link.patients) == (30, 60, 30)
    assert audit.floor.p_at_1 == pytest.approx(1 / 29, rel=0.2)  # sex and label are the same half
    assert "LINKED" in result.summary()
    assert attacks(audit).keys() == {"identity/p@1", "identity/pixels/p@1", "identity/pixels/auc"}
    assert set(attacks(audit).values()) == {"red"}


def test_images_that_show_nothing_are_not_linked(nothing, tmp_path):
    result = run_identity(CONFIG, nothing, out=tmp_path / "out")
    assert result.audit.verdict == "nothing found"
    assert "another attack may find more" in result.summary()
    assert set(attacks(result.audit).values()) == {"green"}
    assert result.audit.positive[0].p_value <= 0.05


def test_an_attack_that_does_not_find_a_planted_mark_says_nothing(nothing, tmp_path, monkeypatch):
    monkeypatch.setattr(
        identity_linkage,
        "fit_embedding",
        lambda *a, **b: lambda images: np.random.default_rng(0).normal(size=(len(images), 4)),
    )
    result = run_identity(CONFIG, nothing, out=tmp_path / "out")
    assert result.audit.verdict == "void"
    assert "was not found" in result.alerts()[0]
    assert set(attacks(result.audit).values()) == {"grey"}


def test_an_attack_that_links_shuffled_identities_says_nothing(nothing, tmp_path, monkeypatch):
    real = identity_linkage.measure_linkage

    def cheating(attack, similarity, probes, *rest, **options):
        names = np.array(probes.patients)
        return real(attack, (names[:, None] == names[None]) + 0.0, probes, *rest, **options)

    monkeypatch.setattr(identity_linkage, "measure_linkage", cheating)
    assert run_identity(CONFIG, nothing, out=tmp_path / "out").audit.verdict == "void"


def test_changed_images_ask_the_gallery_of_the_originals(linked, tmp_path):
    data = Manifest.read(linked)
    rng = np.random.default_rng(5)
    for case in data.cases:
        values = identity_linkage.np.asarray(pictures_of(
            data.select(lambda one, case=case: one.case_id == case.case_id),
            side=16, most=9, seed=0, progress=SILENT,
        ).values[0, 0])  # fmt: skip
        grey = 255 * (values - values.min()) / np.ptp(values)
        write_png(
            tmp_path / "changed" / case.image,
            (0.6 * grey + 40 + rng.normal(0, 5, grey.shape)).astype(np.uint8),
        )
    replace(data, root=tmp_path / "changed").write()
    audit = run_identity(CONFIG, linked, probes=tmp_path / "changed", out=tmp_path / "out").audit
    assert audit.subject == "changed images"
    assert audit.probes == "people"
    another, own = audit.links
    assert own.p_at_1 > 0.9
    assert own.chance == pytest.approx(1 / 60)
    assert another.p_at_1_low > another.null_high
    keys = {item.key for item in findings(audit)}
    assert {"identity/pixels/own-image/p@1", "identity/pixels/another-image/auc"} <= keys


def test_what_changed_all_images_alike_is_taken_away_before_they_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(
        identity_linkage, "fit_embedding", lambda *a, **b: lambda images: images.reshape(len(images), -1)
    )
    values = np.random.default_rng(0).normal(size=(80, 1, 8, 8)).astype(np.float32)
    cases = tuple(
        Case(case_id=f"c{row:02d}", patient_id=f"p{row // 2:02d}", image=f"c{row:02d}.png")
        for row in range(80)
    )
    names = tuple(case.case_id for case in cases)
    owners = Owners(patients=tuple(case.patient_id for case in cases), images=names, studies=("",) * 80)
    pictures = Pictures(values, owners, cases)
    brighter = Pictures(values + 5, owners, cases)
    attackers = identity_linkage._Attackers(CONFIG, tmp_path, SILENT)
    (_, own), _, _ = attackers.links("main", pictures, brighter)
    assert own.question == "own image"
    assert own.p_at_1 == 1.0


def test_changed_images_of_other_patients_are_refused(linked, nothing, tmp_path):
    other = Manifest.read(nothing)
    cases = tuple(replace(case, patient_id=case.patient_id + "x") for case in other.cases)
    shutil.copytree(nothing, tmp_path / "other")
    Manifest(tmp_path / "other", other.info, cases).write()
    with pytest.raises(DataError, match="same cases"):
        run_identity(CONFIG, linked, probes=tmp_path / "other", out=tmp_path / "out")


def test_volumes_are_linked_too(tmp_path):
    data = people(tmp_path / "data", gain=1.0, patients=44, dims=3)
    config = IdentityConfig(attacks=("hog", "pixels"), side=8)
    audit = run_identity(config, data.root, out=tmp_path / "out").audit
    assert audit.grid == (8, 8, 8)
    assert audit.verdict == "linked"


def test_a_network_on_pairs_is_trained_once(linked, tmp_path, monkeypatch):
    config = IdentityConfig(attacks=("siamese",), side=16, siamese_steps=3)
    first = run_identity(config, linked, out=tmp_path / "out").audit
    room = tmp_path / "out" / "private" / "audit" / "identity"
    assert len([*room.glob("*.pt")]) == 3  # of the images and of both controls
    monkeypatch.setattr(identity_linkage, "fit_embedding", None)
    again = run_identity(config.replace(overwrite=True), linked, out=tmp_path / "out").audit
    assert replace(again, seconds=0, origin=first.origin) == replace(first, seconds=0)


def test_too_few_patients_are_refused_with_the_number_that_is_needed(tmp_path):
    data = people(tmp_path / "data", gain=1.0, patients=19)
    with pytest.raises(DataError, match="at least 20 patients with two images, got 19"):
        run_identity(CONFIG, data.root, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(linked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["audit", "identity", str(linked), "--dry-run"]) == 0
    assert "patients: 60, of them with two images or more: 60" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_names_of_patients_stay_in_the_private_room(linked, tmp_path):
    out = tmp_path / "out"
    run_identity(CONFIG, linked, out=out)
    private = out / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for path in out.rglob("*"):
        if path.is_file() and private not in path.parents:
            assert b"c001-" not in path.read_bytes()  # a digest may hold the letters alone
            assert b"p001" not in path.read_bytes()
    with (private / "audit" / "identity_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    record = json.loads((out / "audit" / "identity.json").read_text())
    assert record["origin"]["dataset"] == "people"


def test_an_audit_is_not_replaced_unless_asked(linked, tmp_path):
    run_identity(CONFIG, linked, out=tmp_path / "out")
    with pytest.raises(UsageError, match="already"):
        run_identity(CONFIG, linked, out=tmp_path / "out")
    with pytest.raises(UsageError):
        run_identity(CONFIG, linked, out=Path(linked) / "audit")


def test_the_same_seed_gives_the_same_numbers(linked, tmp_path):
    first, second = (run_identity(CONFIG, linked, out=tmp_path / name).audit for name in "ab")
    assert first.links == second.links
    other = run_identity(CONFIG.replace(seed=1), linked, out=tmp_path / "c").audit
    assert first.links != other.links


def test_fitted_and_evaluated_patients_share_nobody():
    fitted, evaluated = divided([f"p{number // 3}" for number in range(90)], 0.5, 7)
    assert len(fitted) == 15
    assert not fitted & evaluated
    assert len(fitted | evaluated) == 30


def test_copies_of_an_image_are_left_out(tmp_path):
    data = people(tmp_path / "data", gain=1.0, patients=3)
    shutil.copyfile(data.root / data.cases[0].image, data.root / data.cases[1].image)
    found = pictures_of(data, side=16, most=99, seed=0, progress=SILENT)
    assert len(without_copies(found)) == 5


def test_copies_link_nobody_in_an_audit(tmp_path):
    data = people(tmp_path / "data", gain=0.0, patients=24, images=3)
    for first, second in zip(data.cases[::3], data.cases[1::3], strict=True):
        shutil.copyfile(data.root / first.image, data.root / second.image)
    audit = run_identity(CONFIG, data.root, out=tmp_path / "out").audit
    assert audit.copies == 24
    assert audit.verdict == "nothing found"
    assert audit.links[0].p_at_1 < 0.5


def test_a_large_dataset_is_represented_by_whole_patients(linked):
    data = Manifest.read(linked)
    part = drawn_patients(data, 20, 0)
    assert len(part) == 20
    assert len(part.patients) == 10


def test_controls_shuffle_and_mark(tmp_path):
    found = pictures_of(
        people(tmp_path / "d", gain=0.0, patients=9), side=16, most=99, seed=0, progress=SILENT
    )
    mixed = shuffled(found, 0)
    assert sorted(mixed.owners.patients) == sorted(found.owners.patients)
    assert mixed.owners.patients != found.owners.patients
    planted = marked(mixed, 0)
    assert np.array_equal(planted.values[..., 2:, :], mixed.values[..., 2:, :])
    first, second = (row for row, one in enumerate(planted.owners.patients) if one == "p001")
    assert np.array_equal(planted.values[first, :, :2], planted.values[second, :, :2])


def candidates_of(data, room, gain, *, trials=6, batch=4, extra=4):
    """Write candidates that show their originals by ``gain``, beside pure noise, and return the folder."""
    rng = np.random.default_rng(0)
    first = [case for case in data.cases if case.case_id.endswith("-0")][: 2 * trials * batch]
    values = {
        case.case_id: torch.from_numpy(row)
        for case, row in zip(
            first,
            pictures_of(
                data.select(lambda case: case in first), side=16, most=999, seed=0, progress=SILENT
            ).values,
            strict=True,
        )
    }
    names = [
        [case.case_id for case in first[number * batch : (number + 1) * batch]] for number in range(trials)
    ]
    originals = torch.stack([torch.stack([values[name] for name in trial]) for trial in names])
    heldout = torch.stack([values[case.case_id] for case in first[trials * batch :]]).reshape(originals.shape)

    def decoded(images):
        noise = torch.from_numpy(
            rng.normal(size=(trials, batch + extra, *images.shape[2:])).astype(np.float32)
        )
        shown = torch.cat(
            [gain * images / (images.std() + 1e-6), torch.zeros(trials, extra, *images.shape[2:])], dim=1
        )
        return shown + noise

    about = CandidateRecord(
        attack="imprint", encoder="pca", view="step", sites=1, view_noise=1.0, level=NO_NOISE,
        max_grad_norm=1.0, clipping="flat", batch=batch, participations=1, network="a", server="malicious",
        knowledge=(), seed=0, shape=(1, 16, 16), trials=trials, originals=batch, candidates=batch + extra,
        works=True, self_test=1.0, signal=1.0, cases=tuple(tuple(trial) for trial in names), seconds=0.0,
    )  # fmt: skip
    room.mkdir()
    found = CandidateSet(
        about=about, originals=originals, heldout=heldout, candidates=decoded(originals),
        noise_null=decoded(torch.zeros_like(originals)), heldout_null=decoded(heldout),
    )  # fmt: skip
    write_index(room, CandidateIndex(made_for="x", sets=(write_candidates(room, found),)))
    return room


def test_reconstructions_name_patients_and_noise_names_nobody(tmp_path):
    data = people(tmp_path / "data", gain=1.5, patients=90)
    links = link_reconstructions(candidates_of(data, tmp_path / "room", 5.0), data, CONFIG, SILENT)
    found = {(record.source, record.question): record for record in links}
    own, another = (found["imprint, non-private", question] for question in ("own image", "another image"))
    assert own.p_at_1 > 0.8
    assert another.p_at_1_low > another.null_high
    assert own.probes == 24
    assert own.chance < another.chance * 2 < 0.2
    for source in ("noise alone", "other patients"):
        null = found[f"imprint, non-private, {source}", "another image"]
        error = (null.chance * (1 - null.chance) / null.probes) ** 0.5
        assert abs(null.p_at_1 - null.chance) < 3 * error
        assert null.p_value > 0.005


def test_candidates_of_another_dataset_are_refused(linked, tmp_path):
    data = people(tmp_path / "data", gain=1.5, patients=90)
    room = candidates_of(data, tmp_path / "room", 5.0)
    other = data.select(lambda case: case.patient_id > "p020")
    with pytest.raises(DataError, match="another dataset"):
        link_reconstructions(room, other, CONFIG, SILENT)
    assert link_reconstructions(tmp_path / "nothing", data, CONFIG, SILENT) == ()


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"attacks": ()}, {"attacks": ("hog", "hog")}, {"side": 4}, {"fit_share": 1.0}):
        with pytest.raises(ConfigError):
            IdentityConfig.of(**wrong)


def test_the_generated_cohort_can_be_audited(tmp_path):
    write_dataset(tmp_path / "data", patients=60, size=32)
    config = IdentityConfig(attacks=("hog",))
    audit = run_identity(config, tmp_path / "data", out=tmp_path / "out").audit
    assert audit.synthetic
    assert set(attacks(audit).values()) <= {"amber", "green"}
