"""A dataset is obfuscated from the command line, and what is trained on it says so everywhere."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fitted_once
import numpy as np
import pytest

import meninx
from meninx.cli.app import run
from meninx.core import artifacts, integrity, source_names
from meninx.core.artifacts import ObfuscationRecord, ReleaseAuditRecord, RunRecord, read
from meninx.core.errors import AuditFinding, ConfigError, DataError, PrivacyRefusal, UsageError
from meninx.core.manifest import Manifest
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.learn import identity_linkage
from meninx.obfuscate import audited_release, released_dataset, stage
from meninx.obfuscate.audit_words import audit_lines
from meninx.obfuscate.stage import ObfuscateResult
from meninx.synthetic import write_dataset

QUICK = {"steps": 2, "batch_size": 4, "device": "cpu", "attack_risk": False}
QUICK |= {"model": "resnet9-small", "model_options": {"width": 4}}
NEVER = re.compile(r"\b(de-?identified|anonym\w*|safe)\b", re.IGNORECASE)


@pytest.fixture(autouse=True, scope="module")
def attackers_are_fitted_once() -> Iterator[None]:
    with fitted_once.memory():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("source") / "data", patients=60, size=16).root


@pytest.fixture(scope="module")
def hidden(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("released") / "hidden"
    assert (
        run(["obfuscate", str(data), str(out), "--method", "noise", "--attribute", "sex", "-q", "--no-audit"])
        == 0
    )
    return out


def obfuscate(data: Path, out: Path, **given):
    return meninx.obfuscate(data, out, **{"method": "noise", "audit": False, **given})


def pixels(root: Path) -> np.ndarray:
    return np.array([png.read(root / case.image).array for case in Manifest.read(root).cases])


def crosswalk(root: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((root / "private/cases.csv").read_text().splitlines()))


def test_the_release_is_a_dataset_with_the_same_cases_and_without_the_attribute(data, hidden):
    before, after = Manifest.read(data), Manifest.read(hidden)
    assert (after.info.attributes, after.info.labels) == ((), before.info.labels)
    known = {row["source_case_id"]: row for row in crosswalk(hidden)}
    released = {case.case_id: case for case in after.cases}
    change = []
    for one in before.cases:
        row = known[one.case_id]
        other = released[row["case_id"]]
        assert (row["source_patient_id"], row["patient_id"]) == (one.patient_id, other.patient_id)
        assert (one.split, one.labels) == (other.split, other.labels)
        change.append(png.read(hidden / other.image).array / 255 - png.read(data / one.image).array / 255)
    assert len(after.patients) == len(before.patients)
    assert "sex" not in (hidden / "manifest.csv").read_text()
    change = np.abs(change).mean()
    assert change == pytest.approx(0.05, rel=0.01)


def test_the_folder_verifies_and_a_changed_record_does_not(hidden, tmp_path):
    assert meninx.verify(hidden).ok
    copy = Path(shutil.copytree(hidden, tmp_path / "hidden"))
    record = read(copy, ObfuscationRecord)
    text = (copy / "obfuscation.json").read_text()
    (copy / "obfuscation.json").write_text(text.replace(record.caveat, "hides everything"))
    assert not meninx.verify(copy).ok


def test_originals_and_the_key_stay_in_the_private_room(data, hidden):
    room = hidden / "private"
    assert {"obfuscation.key", "comparison.png"} <= {path.name for path in room.iterdir()}
    assert room.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in room.iterdir())
    originals = {image.tobytes() for image in pixels(data)}
    assert not originals & {image.tobytes() for image in pixels(hidden)}
    public = b"".join(path.read_bytes() for path in hidden.glob("*.*"))
    assert (room / "obfuscation.key").read_bytes() not in public


def test_what_is_trained_on_it_says_so_everywhere(hidden, tmp_path):
    trained = meninx.train(hidden, out=tmp_path / "runs", **QUICK)
    sentence = (
        "images obfuscated by Gaussian noise to hide sex, which does not stop a retrained attacker (measured "
        "AUROC, where it was attacked: release_audit.json of the release)"
    )
    assert f"trained on {sentence}" in trained.summary()
    assert read(trained.out, RunRecord).obfuscated == sentence
    readme = (trained.out / "release/bundle/docs/README.md").read_text()
    assert sentence.split(" (")[0] in readme
    assert "measured AUROC, where it was attacked" in readme
    meninx.evaluate(trained.out, draws=20)
    meninx.report([hidden, trained.out], tmp_path / "page.html")
    assert f"was trained on {sentence}" in (tmp_path / "page.html").read_text()


def test_a_private_run_names_the_obfuscation_as_outside_its_guarantee(hidden, tmp_path):
    meninx.train(hidden, out=tmp_path / "runs", epsilon=8.0, delta=1e-3, **QUICK)
    (place,) = [path for path in (tmp_path / "runs").iterdir() if not path.is_symlink()]
    outside = json.loads((place / "privacy.json").read_text())["outside_guarantee"]
    assert any("obfuscated by a method that was fitted on patients" in text for text in outside)


def test_a_model_of_obfuscated_images_warns_about_images_that_are_not(data, hidden, tmp_path):
    trained = meninx.train(hidden, out=tmp_path / "runs", **QUICK)
    on_originals = meninx.predict(trained.out, data, tmp_path / "one", device="cpu")
    assert any("the input holds images that were not obfuscated" in note for note in on_originals.notes)
    assert not meninx.predict(trained.out, hidden, tmp_path / "two", device="cpu").notes


def test_another_attribute_gives_another_number(data, tmp_path):
    sex = obfuscate(data, tmp_path / "sex", dry_run=True)
    both = obfuscate(data, tmp_path / "both", attribute="sex+age", dry_run=True)
    assert sex.floor.auroc != both.floor.auroc
    assert set(sex.classes) == {"F", "M"}
    assert not (tmp_path / "sex").exists()


def test_a_target_below_the_label_floor_is_refused_before_anything_is_fitted(tmp_path, capsys):
    linked = write_dataset(tmp_path / "linked", patients=120, size=16, attribute_correlation=0.9).root
    words = ["obfuscate", str(linked), str(tmp_path / "out"), "--method", "blur", "--target", "0.55"]
    assert run(words) == 4
    said = capsys.readouterr().err
    assert said.index("label floor: the published columns effusion") < said.index("below the label floor")
    assert not (tmp_path / "out").exists()


def test_a_release_never_claims_what_it_cannot_show(hidden, data, tmp_path):
    texts = [path.read_text() for path in (hidden / "obfuscation.json", hidden / "dataset.toml")]
    for method in ("noise", "blur", "pixelation", "dp-pix"):
        result = obfuscate(data, tmp_path / method, method=method)
        assert "does not stop a retrained attacker" in result.summary()
        assert "the release was not attacked: what it hides is not known" in result.summary()
        texts.append(result.summary())
    assert not NEVER.search("\n".join(texts))


def test_the_attribute_stays_only_where_it_is_asked_for(data, tmp_path):
    result = obfuscate(data, tmp_path / "kept", keep_attribute=True)
    assert Manifest.read(result.out).info.attributes == ("sex",)
    record = read(result.out, ObfuscationRecord)
    assert (record.attribute_published, record.withheld) == (True, ("age", "site"))


def test_a_deterministic_release_repeats_bit_by_bit_and_is_marked(data, tmp_path):
    one, two = (obfuscate(data, tmp_path / name, deterministic=True).out for name in ("one", "two"))
    for path in sorted(one.rglob("*")):
        if path.is_file() and "private" not in path.parts:
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    assert "NOT FOR RELEASE" in Manifest.read(one).info.obfuscated
    other = obfuscate(data, tmp_path / "other").out
    assert (pixels(other) != pixels(one)).any()


def test_a_complete_release_is_kept_unless_it_is_replaced(data, hidden, tmp_path):
    out = Path(shutil.copytree(hidden, tmp_path / "hidden"))
    before = pixels(out)
    words = ["obfuscate", str(data), str(out), "--method", "noise", "-q", "--no-audit"]
    assert run(words) == 2
    assert run([*words, "--budget", "0.1", "--resume"]) == 2
    assert run([*words, "--resume"]) == 0
    np.testing.assert_array_equal(pixels(out), before)
    assert run([*words, "--overwrite"]) == 0
    assert (pixels(out) != before).any()


def test_a_killed_release_goes_on_with_its_key(data, tmp_path, monkeypatch):
    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(released_dataset, "comparison_sheet", killed)
        with pytest.raises(KeyboardInterrupt):
            obfuscate(data, tmp_path / "out")
    key = (tmp_path / "out/private/staging/private/obfuscation.key").read_bytes()
    assert not (tmp_path / "out/manifest.csv").exists()
    obfuscate(data, tmp_path / "out")
    assert (tmp_path / "out/private/obfuscation.key").read_bytes() == key


def test_private_files_of_another_method_go_with_its_release(data, hidden, tmp_path):
    out = Path(shutil.copytree(hidden, tmp_path / "hidden"))
    (out / "private/gallery.npz").write_bytes(b"originals")
    obfuscate(data, out, overwrite=True)
    assert not (out / "private/gallery.npz").exists()


def test_names_from_the_table_cannot_lead_out_of_the_folder(data, tmp_path):
    root = Path(shutil.copytree(data, tmp_path / "data"))
    table = (root / "manifest.csv").read_text()
    first = Manifest.read(root).cases[0].case_id
    (root / "manifest.csv").write_text(table.replace(f"\n{first},", "\n../../evil,"))
    assert run(["obfuscate", str(root), str(tmp_path / "out"), "--method", "noise"]) == 3
    assert not list(tmp_path.rglob("evil*"))


def test_a_class_with_a_name_that_a_page_could_execute_is_refused(data, tmp_path):
    manifest = Manifest.read(data)
    cases = tuple(
        replace(
            case,
            attributes={**case.attributes, "sex": "$import os" if case.attributes["sex"] == "F" else "M"},
        )
        for case in manifest.cases
    )
    root = Path(shutil.copytree(data, tmp_path / "data"))
    Manifest(root, manifest.info, cases).write()
    assert run(["obfuscate", str(root), str(tmp_path / "out"), "--method", "noise"]) == 3


def test_a_patient_in_two_splits_and_an_image_in_two_splits_are_refused(data, tmp_path, capsys):
    root = Path(shutil.copytree(data, tmp_path / "data"))
    cases = Manifest.read(root).cases
    train, test = (next(case for case in cases if case.split == name) for name in ("train", "test"))
    image = (root / test.image).read_bytes()
    shutil.copy(root / train.image, root / test.image)
    words = ["obfuscate", str(root), str(tmp_path / "out"), "--method", "noise"]
    assert run(words) == 3
    assert "every image in one split" in capsys.readouterr().err
    (root / test.image).write_bytes(image)
    table = (root / "manifest.csv").read_text()
    (root / "manifest.csv").write_text(
        table.replace(f"{test.case_id},{test.patient_id}", f"{test.case_id},{train.patient_id}")
    )
    assert run(words) == 3
    said = capsys.readouterr().err
    assert "every patient in one split" in said
    assert train.patient_id not in said


def test_volumes_are_refused_by_name(tmp_path, capsys):
    root = write_dataset(tmp_path / "ct", task="segmentation", spatial_dims=3, patients=3, size=16).root
    assert run(["obfuscate", str(root), str(tmp_path / "out"), "--method", "noise"]) == 3
    assert "volumes, which no method obfuscates" in capsys.readouterr().err


def test_json_holds_the_numbers(data, tmp_path, capsys):
    assert (
        run(["obfuscate", str(data), str(tmp_path / "out"), "--method", "blur", "--dry-run", "--json", "-q"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == len(Manifest.read(data))
    assert 0.5 <= found["floor"]["auroc"] <= 1


QUICK_AUDIT = {"attack_epochs": 1, "permutations": 0, "draws": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("large") / "data", patients=160, size=16).root


@pytest.fixture(scope="module")
def attacked(large, tmp_path_factory) -> ObfuscateResult:
    out = tmp_path_factory.mktemp("attacked") / "hidden"
    return meninx.obfuscate(large, out, method="noise", target=0.6, deterministic=True, **QUICK_AUDIT)


def test_a_release_is_attacked_and_its_record_belongs_to_it(large, attacked):
    record = read(attacked.out, ReleaseAuditRecord)
    assert record == attacked.audit
    assert (record.attribute, record.method, record.target, record.divided) == ("sex", "noise", 0.6, False)
    assert record.released.data != record.source.data
    assert record.source.data == read(attacked.out, ObfuscationRecord).source.data
    assert meninx.verify(attacked.out).ok


def test_a_release_that_misses_its_target_fails_with_the_attacker_that_decides(attacked):
    assert attacked.audit.verdict == "failed"
    with pytest.raises(AuditFinding, match="highest of all attackers"):
        attacked.raise_if_failed()


def test_static_attackers_stand_under_their_own_heading_alone(attacked):
    text = attacked.summary()
    heading = text.index("not a privacy measure")
    assert "attackers of sex, retrained on the release" in text[:heading]
    static = [item for item in attacked.audit.static if item.auroc is not None]
    assert static
    assert not any(item.retrained for item in static)
    assert attacked.audit.highest_attacker.name in {item.name for item in attacked.audit.attackers}


def test_the_same_release_and_audit_are_the_same_bytes(large, attacked, tmp_path):
    with fitted_once.anew():
        again = meninx.obfuscate(
            large, tmp_path / "again", method="noise", target=0.6, deterministic=True, **QUICK_AUDIT
        )
    for name in ("obfuscation.json", "release_audit.json", "checksums.sha256"):
        assert (again.out / name).read_bytes() == (attacked.out / name).read_bytes()


def test_an_audit_that_was_left_out_is_made_up_for(large, tmp_path, monkeypatch):
    settings = {"method": "blur", **QUICK_AUDIT}
    first = meninx.obfuscate(large, tmp_path / "out", method="blur", audit=False)
    before = pixels(first.out)
    later = meninx.obfuscate(large, tmp_path / "out", resume=True, **settings)
    assert first.audit is None
    assert later.audit is not None
    np.testing.assert_array_equal(pixels(later.out), before)
    monkeypatch.setattr(stage, "audit_own", None)  # an audit that is there is not made again
    assert meninx.obfuscate(large, tmp_path / "out", resume=True, **settings).audit == later.audit


def test_an_audit_of_an_earlier_release_goes_with_it(large, attacked, tmp_path):
    out = Path(shutil.copytree(attacked.out, tmp_path / "hidden"))
    replaced = meninx.obfuscate(large, out, method="noise", audit=False, overwrite=True)
    assert replaced.audit is None
    assert read(out, ReleaseAuditRecord) is None


@pytest.fixture(scope="module")
def averaged(large, tmp_path_factory) -> ObfuscateResult:
    """Noise, two of whose releases an attacker averages, with a target that was missed."""
    out = tmp_path_factory.mktemp("averaged") / "hidden"
    return meninx.obfuscate(large, out, method="noise", target=0.6, **{**QUICK_AUDIT, "draws": 2})


def again(large, release, **more):
    given = {"attack_epochs": 1, "permutations": 0, "draws": 2, "device": "cpu", "overwrite": True}
    return meninx.audit_release(large, release, **{**given, **more})


def test_an_audit_says_its_whole_question_and_its_strength(averaged):
    record = averaged.audit
    assert (record.attribute, record.classes) == ("sex", ("F", "M"))
    assert record.labels == record.published == ("effusion", "pneumothorax", "nodule")
    strength = record.strength
    assert (strength.epochs, strength.draws, strength.permutations) == (1, 2, 0)
    assert strength.networks == ("strided", "residual", "wide")
    assert (record.target, [item.target for item in record.asked]) == (0.6, [0.6])


def test_an_own_release_is_audited_again_with_everything(large, averaged, tmp_path):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    record = again(large, out, target=0.95).record
    assert "average-of-2" in {item.name for item in record.attackers if item.auroc is not None}
    assert not record.not_measured
    assert [(item.name, item.auroc) for item in record.attackers] == [
        (item.name, item.auroc) for item in averaged.audit.attackers
    ]
    assert (record.target, record.verdict) == (0.6, "failed")  # the first target decides
    assert "targets: 0.60 missed; 0.95 asked later" in meninx.verify(out).summary() + again_text(out)


def again_text(out) -> str:
    return "\n".join(audit_lines(read(out, ReleaseAuditRecord)))


def test_age_groups_of_a_hostile_record_are_refused(large, averaged, tmp_path):
    out = Path(shutil.copytree(averaged.out, tmp_path / "received"))
    table = json.loads((out / "obfuscation.json").read_text())
    table["settings"]["age_bins"] = ["x"]
    (out / "obfuscation.json").write_text(json.dumps(table))
    shutil.rmtree(out / "private")
    with pytest.raises(DataError, match="age_bins are no numbers"):
        again(large, out, draws=10)


def test_a_weaker_attack_does_not_replace_the_record(large, averaged, tmp_path):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    before = (out / "release_audit.json").read_bytes()
    with pytest.raises(UsageError, match=r"recorded attack is stronger \(draws 1 and 2\)"):
        again(large, out, draws=1)
    (out / "private/obfuscation.key").unlink()
    with pytest.raises(DataError, match="names that only its private room translates"):
        again(large, out, out=out, draws=10)
    assert (out / "release_audit.json").read_bytes() == before


def statement(release: Path, foreign: Path, **fields) -> None:
    """Give somebody's release an ``obfuscation.json`` and the list of digests that it names."""
    paths = [foreign / "manifest.csv", foreign / "dataset.toml", *sorted((foreign / "images").iterdir())]
    (foreign / "checksums.sha256").unlink(missing_ok=True)
    for name in ("prepare.json", "private"):
        assert not (foreign / name).exists()
    record = replace(read(release, ObfuscationRecord), **fields)
    listed = integrity.write(foreign, dict(integrity.measured(foreign, paths)))
    artifacts.write(foreign, replace(record, checksums=listed))


@pytest.fixture
def foreign(large, tmp_path) -> Path:
    """Somebody's release: the images of the cohort at half their brightness, under its own names."""
    out = Path(shutil.copytree(large, tmp_path / "foreign"))
    made = Manifest.read(out)
    for case in made.cases:
        png.write(out / case.image, Image(png.read(out / case.image).array // 2))
    cases = tuple(replace(case, attributes={}) for case in made.cases)
    Manifest(out, replace(made.info, attributes=()), cases).write(out)
    return out


@pytest.mark.slow
def test_what_somebodys_release_says_of_itself_is_its_statement_and_leaves_no_attacker_out(
    large, averaged, foreign, tmp_path
):
    plain = again(large, foreign, out=tmp_path / "plain", target=0.99, draws=10).record
    said = replace(read(averaged.out, ObfuscationRecord), method="maxent", caveat="hides " * 50)
    made = Manifest.read(foreign)
    Manifest(foreign, replace(made.info, obfuscated=said.sentence()), made.cases).write(foreign)
    statement(averaged.out, foreign, method="maxent", caveat=said.caveat)
    record = again(large, foreign, out=tmp_path / "record", target=0.99, draws=10).record
    assert (record.method, record.caveat, record.not_measured) == ("", "", plain.not_measured)
    assert [(one.name, one.auroc) for one in record.attackers] == [
        (one.name, one.auroc) for one in plain.attackers
    ]
    assert record.splits == plain.splits  # a learned method would take half of the attackers' patients
    assert len(record.stated) <= 301
    assert any("states of itself, which was not checked" in line for line in audit_lines(record))
    assert "states of itself, which was not checked" in (tmp_path / "record/report.html").read_text()


def test_a_target_of_somebodys_release_is_not_known_to_be_the_first(large, foreign, tmp_path):
    result = again(large, foreign, out=tmp_path / "record", target=0.99, draws=10)
    assert result.record.earlier_unknown
    assert "earlier targets are not known" in result.summary()
    found = meninx.report([tmp_path / "record"], tmp_path / "page.html")
    assert not found.verdicts["Attribute hidden?"].startswith("green")


@pytest.mark.slow
def test_a_target_that_was_missed_is_not_forgotten_by_writing_the_audit_elsewhere(large, averaged, tmp_path):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    record = again(large, out, out=tmp_path / "record", target=0.99).record
    assert (record.target, record.verdict) == (0.6, "failed")
    assert [item.target for item in record.asked] == [0.6, 0.99]
    for name in ("release_audit.json", "release_audit.sha256", "report.html", "private/release_audit.sha256"):
        (out / name).unlink()
    again_elsewhere = again(large, out, out=tmp_path / "second", target=0.99).record
    assert [item.target for item in again_elsewhere.asked] == [0.6, 0.99, 0.99]
    found = meninx.report([out], tmp_path / "page.html")
    assert found.verdicts["Attribute hidden?"].startswith("red: target missed in another audit")
    assert "the release was audited, and the record is missing (sex, target 0.60: missed)" in (
        tmp_path / "page.html"
    ).read_text().replace("<wbr>", "")
    assert not meninx.verify(out).ok
    made = meninx.obfuscate(large, out, method="noise", target=0.99, resume=True, **QUICK_AUDIT).audit
    assert (made.target, made.verdict) == (0.6, "failed")
    history = out / "private/asked_targets.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    for kept in ([*lines[:-2], lines[-1]], lines[:2], lines[:-1], []):
        history.write_text("".join(kept))
        with pytest.raises(DataError, match="history of targets was changed"):
            again(large, out, out=tmp_path / "third", target=0.99)
    history.unlink()
    with pytest.raises(DataError, match="history of targets is missing"):
        again(large, out, out=tmp_path / "third", target=0.99)


@pytest.mark.slow
def test_an_audit_elsewhere_of_a_release_that_was_not_attacked_is_on_its_page(large, tmp_path):
    made = meninx.obfuscate(large, tmp_path / "hidden", method="blur", audit=False)
    again(large, made.out, out=tmp_path / "record", target=0.55, draws=1)
    found = meninx.report([made.out], tmp_path / "page.html")
    assert found.verdicts["Attribute hidden?"].startswith("red: target missed in another audit")
    later = again(large, made.out, target=0.99, draws=1).record
    assert (later.target, later.verdict) == (0.55, "failed")


@pytest.mark.parametrize("damage", ["image", "table", "record", "audit"])
def test_a_damaged_release_is_refused_before_anything_is_attacked_or_replaced(
    large, averaged, tmp_path, damage, monkeypatch
):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    if damage == "image":
        one, other = Manifest.read(out).cases[:2]
        shutil.copy(out / one.image, out / other.image)
    else:
        names = {"record": "obfuscation.json", "audit": "release_audit.json", "table": "manifest.csv"}
        path = out / names[damage]
        path.write_text(path.read_text().replace('"made": "', '"made": "1').replace(",0,", ",1,"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(audited_release, "audit_release", None)
    for place in (None, tmp_path / "record"):
        with pytest.raises(DataError, match=r"missing, changed or not in|was changed since"):
            again(large, out, out=place)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_edit_of_the_record_is_refused_where_its_seal_is_and_a_copy_says_that_it_is_not_sealed(
    hidden, tmp_path
):
    record = read(hidden, ObfuscationRecord)
    edits = {
        "floor": replace(record.floor, sentence="nothing"), "facts": {"sigma": 9.0}, "settings": {"seed": 1},
        "published": (), "withheld": (), "splits": {}, "made": "2020-01-01T00:00:00+00:00", "patients": 9,
    }  # fmt: skip
    for name, value in edits.items():
        copy = Path(shutil.copytree(hidden, tmp_path / name))
        artifacts.write(copy, replace(record, **{name: value}))
        assert "obfuscation.json was changed since the release" in meninx.verify(copy).summary()
        with pytest.raises(DataError, match=r"obfuscation\.json was changed since the release"):
            meninx.report([copy], tmp_path / "page.html")
    shutil.rmtree(copy / "private")  # the copy with another number of patients
    assert "not sealed: copied without its private room" in meninx.verify(copy).summary()
    meninx.report([copy], tmp_path / "page.html")
    text = re.sub(r"<[^>]+>", "", (tmp_path / "page.html").read_text())
    assert "not sealed: copied without its private room" in text
    assert f"images of {len(Manifest.read(copy).patients)} patients" in text
    (hidden_copy := Path(shutil.copytree(hidden, tmp_path / "old"))).joinpath(
        "private/obfuscation.sha256"
    ).unlink()
    assert "an earlier version made the release" in meninx.verify(hidden_copy).summary()


def test_a_record_that_was_edited_after_the_audit_is_refused_in_a_copy_too(averaged, tmp_path):
    copy = Path(shutil.copytree(averaged.out, tmp_path / "copy"))
    shutil.rmtree(copy / "private")
    assert meninx.verify(copy).ok
    artifacts.write(copy, replace(read(copy, ObfuscationRecord), facts={"sigma": 9.0}))
    assert "obfuscation.json is not the one that the audit names" in meninx.verify(copy).summary()


def test_order_and_names_of_a_release_tell_no_more_than_chance(tmp_path):
    made = write_dataset(tmp_path / "data", patients=200, size=8)
    ordered = sorted(made.cases, key=lambda case: case.attributes["sex"])
    names: dict[str, str] = {}
    for case in ordered:
        names.setdefault(case.patient_id, f"P{len(names):04d}")
    cases = tuple(
        replace(case, case_id=f"C{row:04d}", patient_id=names[case.patient_id])
        for row, case in enumerate(ordered)
    )
    Manifest(made.root, made.info, cases).write(made.root)
    out = obfuscate(made.root, tmp_path / "out", method="blur", deterministic=True).out
    sex = {case.case_id: float(case.attributes["sex"] == "M") for case in cases}
    source = {row["case_id"]: row["source_case_id"] for row in crosswalk(out)}
    released = Manifest.read(out).cases
    truth = np.array([sex[source[case.case_id]] for case in released])
    people = np.unique([case.patient_id for case in released], return_inverse=True)[1]
    shown = {
        "position": np.arange(len(released)),
        "case": [int(case.case_id[1:], 16) for case in released],
        "patient": [int(case.patient_id[1:], 16) for case in released],
        "file time": [(out / case.image).stat().st_mtime_ns for case in released],
    }
    for name, column in shown.items():
        first = np.unique(people, return_index=True)[1]  # one row of each patient
        scores = np.asarray(column, dtype=float)[first]
        one, two = scores[truth[first] == 1], scores[truth[first] == 0]
        area = (one[:, None] > two).mean() + (one[:, None] == two).mean() / 2
        error = np.sqrt((len(one) + len(two) + 1) / (12 * len(one) * len(two)))
        assert abs(area - 0.5) < 2.5 * error, name  # the interval of four columns at 95 %
    assert all(case.image == f"images/{case.case_id}.png" for case in released)


def test_the_rows_of_the_source_may_be_shuffled_without_another_release(data, tmp_path):
    before = Manifest.read(data)
    root = Path(shutil.copytree(data, tmp_path / "data"))
    Manifest(root, before.info, before.cases[::-1]).write(root)
    one, two = (
        obfuscate(source, tmp_path / name, method="pixelation", deterministic=True).out
        for source, name in ((data, "one"), (root, "two"))
    )
    assert (one / "checksums.sha256").read_bytes() == (two / "checksums.sha256").read_bytes()


def test_two_releases_of_a_dataset_name_its_patients_differently(data, hidden, tmp_path):
    other = obfuscate(data, tmp_path / "other", method="blur").out
    one, two = (set(Manifest.read(root).patients) for root in (hidden, other))
    assert not one & two
    assert not one & set(Manifest.read(data).patients)


@pytest.mark.slow
def test_another_question_goes_to_another_folder(large, averaged, tmp_path, capsys):
    for words in (["--attribute", "age"], ["--labels", "nodule"], ["--attribute", "age", "--age-bins", "50"]):
        assert run(["obfuscate", "audit", str(large), str(averaged.out), *words, "--overwrite", "-q"]) == 2
        assert "for the answer to another question" in capsys.readouterr().err
    old = meninx.obfuscate(
        large, tmp_path / "aged", method="blur", attribute="age", age_bins=[55], audit=False
    )
    found = again(large, old.out, attribute="age", draws=1).record
    assert found.classes == read(old.out, ObfuscationRecord).classes == ("under 55", "55 or older")


def test_a_resumed_release_neither_answers_other_attacks_nor_forgets_its_target(
    large, averaged, tmp_path, capsys
):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    given = {"method": "noise", "resume": True, **QUICK_AUDIT, "draws": 2}
    with pytest.raises(UsageError, match="attacked with other settings: attack_epochs 1 and 3"):
        meninx.obfuscate(large, out, **{**given, "attack_epochs": 3})
    with pytest.raises(ConfigError, match="always met"):
        meninx.obfuscate(large, out, target=1.0, **given)
    later = meninx.obfuscate(large, out, target=0.99, **given)
    assert (later.audit.target, later.audit.verdict) == (0.6, "failed")
    assert "targets: 0.60 missed; 0.99 asked later; the first one decides" in later.summary()
    assert "0.60 missed; 0.99 asked later" in (out / "report.html").read_text()
    assert meninx.verify(out).ok
    assert not (out / "private/staging").exists()
    with pytest.raises(AuditFinding):
        later.raise_if_failed()


def test_an_audit_whose_record_was_removed_is_not_made_as_if_it_were_the_first(large, averaged, tmp_path):
    out = Path(shutil.copytree(averaged.out, tmp_path / "hidden"))
    for name in ("release_audit.json", "release_audit.sha256"):
        (out / name).unlink()
    with pytest.raises(DataError, match="is missing, and the release was audited"):
        again(large, out, target=0.99)


@pytest.mark.slow
def test_releases_are_compared_from_python(large, averaged, tmp_path):
    blurred = meninx.obfuscate(large, tmp_path / "blurred", method="blur", **{**QUICK_AUDIT, "draws": 2})
    found = meninx.compare_releases([averaged.out, blurred.out], tmp_path / "compared", original=large)
    assert {row.name for row in found.record.releases} == {"hidden", "blurred"}
    assert found.record.original_given


@pytest.mark.slow
def test_codes_are_audited_again_with_their_certificate(large, tmp_path):
    made = meninx.obfuscate(large, tmp_path / "coded", method="codes", utility="linear", **QUICK_AUDIT)
    record = again(large, made.out, draws=1).record
    assert record.certificates == made.audit.certificates
    assert record.certificates
    assert {item.name for item in record.code_attacks} >= {"code", "code, learned from new patients"}
    assert (record.code_attacks[0].auroc, record.not_measured) == (made.audit.code_attacks[0].auroc, ())


def test_a_release_of_another_dataset_is_refused(large, attacked, tmp_path, capsys):
    other = write_dataset(tmp_path / "other", patients=160, size=16, seed=1).root
    assert run(["obfuscate", "audit", str(other), str(attacked.out), "--overwrite", "-q"]) == 3
    assert "a release of another dataset" in capsys.readouterr().err
    received = Path(shutil.copytree(attacked.out, tmp_path / "received"))
    shutil.rmtree(received / "private")
    out = ["--out", str(tmp_path / "record"), "-q"]
    assert run(["obfuscate", "audit", str(other), str(received), *out]) == 3
    assert "names that only its private room translates" in capsys.readouterr().err
    assert not (tmp_path / "record").exists()


def test_a_release_of_another_program_is_attacked_and_another_attribute_gives_another_number(
    large, tmp_path, capsys
):
    manifest = Manifest.read(large)
    foreign = Path(shutil.copytree(large, tmp_path / "foreign"))
    for case in manifest.cases:
        image = png.read(foreign / case.image).array
        png.write(foreign / case.image, Image(image // 2))
    quick = ["--permutations", "0", "--attack-epochs", "1", "--device", "cpu", "-q", "--json"]
    found = {}
    for attribute in ("sex", "age"):
        out = str(tmp_path / attribute)
        words = [str(large), str(foreign), "--attribute", attribute, "--out", out]
        assert run(["obfuscate", "audit", *words, *quick]) == 0
        found[attribute] = json.loads(capsys.readouterr().out)["record"]
    assert found["sex"]["method"] == ""
    assert found["sex"]["attackers"] != found["age"]["attackers"]
    assert found["sex"]["distortion"]["l1"] > 0.05
    assert run(["obfuscate", "audit", str(large), str(foreign), "--out", str(tmp_path / "sex"), *quick]) == 2


def test_too_few_patients_for_the_attackers_are_refused_before_anything_is_written(data, tmp_path, capsys):
    assert run(["obfuscate", str(data), str(tmp_path / "out"), "--method", "blur", "-q"]) == 3
    assert "10 patients of a class" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_published_release_with_other_images_is_not_gone_on_with(data, hidden, tmp_path, capsys):
    out = Path(shutil.copytree(hidden, tmp_path / "hidden"))
    first = Manifest.read(out).cases[0].image
    words = ["obfuscate", str(data), str(out), "--method", "noise", "--no-audit", "--resume", "-q"]
    content = (out / first).read_bytes()
    shutil.copy(data / Manifest.read(data).cases[0].image, out / first)
    assert run(words) == 3
    assert "the file that was prepared" in capsys.readouterr().err
    (out / first).write_bytes(content)
    (out / "private/obfuscation.key").write_bytes(bytes(32))
    assert run(words) == 3
    assert "obfuscation.json was changed since the release" in capsys.readouterr().err
    (out / "private/obfuscation.key").unlink()
    assert run(words) == 3
    assert "the key of the release is gone" in capsys.readouterr().err


def with_column(data: Path, out: Path, name: str, of_case) -> Path:
    """Return a copy of a dataset with one more attribute column."""
    shutil.copytree(data, out)
    before = Manifest.read(out)
    info = replace(before.info, attributes=(*before.info.attributes, name))
    cases = [replace(case, attributes={**case.attributes, name: of_case(case)}) for case in before.cases]
    Manifest(out, info, tuple(cases)).write(out)
    return out


def gown(case) -> str:
    return "pink" if case.attributes["sex"] == "F" else "blue"


def test_a_column_that_tells_the_attribute_is_not_published_unless_it_is_asked_for(data, tmp_path):
    told = with_column(data, tmp_path / "told", "gown", gown)
    result = obfuscate(told, tmp_path / "out")
    assert "pink" not in (result.out / "manifest.csv").read_text()
    assert "columns that are not published: sex, age, gown, site" in result.summary()
    assert result.floor.auroc < 0.8


def test_a_column_that_stays_counts_in_the_label_floor(data, tmp_path):
    told = with_column(data, tmp_path / "told", "gown", gown)
    result = obfuscate(told, tmp_path / "out", keep_columns=("gown",))
    assert "pink" in (result.out / "manifest.csv").read_text()
    assert result.floor.auroc > 0.99
    assert "gown alone tell sex" in result.floor.sentence
    with pytest.raises(PrivacyRefusal, match="below the label floor"):
        obfuscate(told, tmp_path / "other", keep_columns=("gown",), target=0.8, audit=True)


def test_the_year_of_birth_tells_the_age_and_the_floor_shows_it(data, tmp_path):
    def birth_year(case) -> str:
        return str(2024 - int(case.attributes["age"]))

    told = with_column(data, tmp_path / "told", "birth_year", birth_year)
    result = obfuscate(told, tmp_path / "out", attribute="age", keep_columns=("birth_year",), dry_run=True)
    assert result.floor.auroc > 0.95


def test_only_the_labels_that_are_named_are_published(data, tmp_path):
    result = obfuscate(data, tmp_path / "out", labels=("nodule",))
    after = Manifest.read(result.out)
    assert after.info.labels == ("nodule",)
    assert all(set(case.labels) == {"nodule"} for case in after.cases)
    assert read(result.out, ObfuscationRecord).published == ("nodule",)
    assert meninx.verify(result.out).ok


def test_the_hidden_attribute_is_no_column_to_keep(data, tmp_path):
    with pytest.raises(UsageError, match="the column is the attribute to hide"):
        obfuscate(data, tmp_path / "out", keep_columns=("sex",))
    with pytest.raises(UsageError, match="choose among age"):
        obfuscate(data, tmp_path / "out", keep_columns=("height",))


def test_an_audit_attacks_every_column_that_somebodys_release_publishes(tmp_path):
    data = write_dataset(tmp_path / "data", patients=120, size=8).root
    told = with_column(data, tmp_path / "told", "gown", gown)
    foreign = with_column(data, tmp_path / "foreign", "gown", gown)
    before = Manifest.read(foreign)
    cases = [replace(case, attributes={"gown": case.attributes["gown"]}) for case in before.cases]
    Manifest(foreign, replace(before.info, attributes=("gown",)), tuple(cases)).write(foreign)
    quick = ["--attack-epochs", "1", "--permutations", "0", "--device", "cpu", "-q"]
    assert run(["obfuscate", "audit", str(told), str(foreign), "--out", str(tmp_path / "found"), *quick]) == 0
    record = read(tmp_path / "found", ReleaseAuditRecord)
    assert record.floor.auroc > 0.99
    assert record.columns[0].name == "published columns"
    assert record.columns[0].auroc > 0.99
    assert record.published == ("effusion", "pneumothorax", "nodule", "gown", "site")
    assert any("average of several releases" in text for text in record.not_measured)


def changed_release(data: Path, out: Path, change) -> Path:
    """Return a release of another program: a copy of the dataset whose cases were changed."""
    foreign = Path(shutil.copytree(data, out))
    before = Manifest.read(foreign)
    bare = replace(before.info, attributes=())
    Manifest(foreign, bare, tuple(change(replace(case, attributes={})) for case in before.cases)).write(
        foreign
    )
    return foreign


def test_labels_of_somebodys_release_that_are_not_those_of_the_original_are_refused(data, tmp_path, capsys):
    sexes = {case.case_id: case.attributes["sex"] for case in Manifest.read(data).cases}

    def told(case):
        return replace(case, labels={**case.labels, "nodule": float(sexes[case.case_id] == "M")})

    foreign = changed_release(data, tmp_path / "foreign", told)
    assert run(["obfuscate", "audit", str(data), str(foreign), "--out", str(tmp_path / "found"), "-q"]) == 3
    assert "labels are not those of the original" in capsys.readouterr().err


def test_a_column_that_no_attacker_would_get_is_refused(data, tmp_path, capsys):
    foreign = changed_release(data, tmp_path / "foreign", lambda case: case)
    table = (foreign / "manifest.csv").read_text().splitlines()
    lines = [f"{table[0]},extra", *(f"{line},x" for line in table[1:])]
    (foreign / "manifest.csv").write_text("\n".join(lines) + "\n")
    assert run(["obfuscate", "audit", str(data), str(foreign), "--out", str(tmp_path / "found"), "-q"]) == 3
    assert "columns that dataset.toml does not name" in capsys.readouterr().err


def test_a_release_does_not_publish_the_names_of_studies(data, hidden):
    assert any(case.study for case in Manifest.read(data).cases)
    assert not any(case.study for case in Manifest.read(hidden).cases)


def test_images_of_a_release_ask_those_of_its_source_by_the_private_table_alone(data, hidden, tmp_path):
    source, released = Manifest.read(data), Manifest.read(hidden)
    named = source_names.under_source_names(released)
    assert {case.case_id for case in named.cases} == {case.case_id for case in source.cases}
    identity_linkage.refuse_other_cases(source, named)
    copy = Path(shutil.copytree(hidden, tmp_path / "copy"))
    table = copy / "private/cases.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="1 cases that it lacks"):
        source_names.under_source_names(Manifest.read(copy))
    shutil.rmtree(copy / "private")
    with pytest.raises(DataError, match="same cases"):
        meninx.audit_identity(data, probes=copy, out=tmp_path / "out")
