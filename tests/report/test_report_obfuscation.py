"""The page of a release says what retrained attackers find, and refuses records that do not belong to it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from release_samples import (
    attacker,
    audit_record,
    certificate,
    loss,
    obfuscation_record,
    relist,
    write_release,
)

import meninx
from meninx import workflow
from meninx.core import artifacts, integrity
from meninx.core.artifacts import ObfuscationRecord, Origin, ReleaseAuditRecord
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import Manifest
from meninx.core.obfuscation_records import AskedTarget
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.obfuscate import sealed_audit
from meninx.obfuscate.audit_words import audit_lines
from meninx.obfuscate.audited_release import finished
from meninx.obfuscate.config import ObfuscateConfig, ReleaseAuditConfig
from meninx.report import obfuscated_datasets, section_obfuscation, stage
from meninx.report.config import ReportConfig
from meninx.report.obfuscated_datasets import ObfuscatedDataset

NEVER = re.compile(r"\b(anonym\w*|safe\w*|de-?identified)\b", re.IGNORECASE)
QUIET = attacker("kernel", 0.6, 0.58)
BLIND = attacker("kernel", 0.6, 0.6, retrained=False)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "hidden", audit=audit_record())


@pytest.fixture
def hidden(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "hidden"))


def words(page: Path) -> str:
    """The text of a page without its style, tags and line breaks."""
    body = page.read_text().split("</style>", 1)[1]
    return " ".join(re.sub(r"<[^>]+>", " ", body.replace("<wbr>", "")).split())


def put(root: Path, **fields) -> None:
    """Replace the audit by another one of the same release."""
    sealed_audit.write(root, replace(audit_record(**fields), checksums=integrity.digest_of(root)))


def card(root: Path):
    return section_obfuscation.verdict_of_release(
        obfuscated_datasets.read(root, "hidden", Manifest.read(root).info)
    )


def test_the_page_states_the_caveat_with_the_measured_number(hidden):
    text = words(stage.write_release_page(hidden))
    assert (
        "To hide sex, images were changed by Gaussian noise, which does not stop a retrained attacker; "
        "measured AUROC 0.830 [0.770, 0.890] by the attacker chosen on validation (kernel), also the "
        "worst of all." in text
    )
    assert "Label floor: the label nodule tells sex M." in text
    for part in (
        "permuted attributes",
        "Re-identification",
        "labels alone",
        "Distortion",
        "SSIM",
    ):
        assert part in text


def test_static_attackers_stand_only_under_their_heading(hidden):
    put(hidden, static=(attacker("wide", 0.61, 0.512, retrained=False, knows="originals alone"),))
    page = stage.write_release_page(hidden).read_text()
    inside = page.split("<h2>Not a privacy measure</h2>")[1].split("<h2>")[0]
    assert "0.512" in inside
    assert "originals alone" not in page.replace(inside, "")
    assert "0.512" not in page.replace(inside, "")


@pytest.mark.parametrize(
    ("fields", "colour", "word"),
    [
        ({}, "red", "attribute found"),
        ({"target": 0.7}, "red", "target missed"),
        ({"target": 0.95}, "green", "target met"),
        ({"attackers": (QUIET,)}, "amber", "not found, no target"),
        ({"attackers": (QUIET, attacker("wide", 0.55, 0.7))}, "red", "attribute found"),
        ({"clean": BLIND, "attackers": (QUIET,)}, "grey", "the audit is void"),
        ({"clean": BLIND}, "red", "attribute found"),  # a failed control takes the good news, never the bad
        ({"clean": BLIND, "target": 0.7}, "red", "target missed"),
        ({"clean": BLIND, "target": 0.95}, "grey", "the audit is void"),
        ({"target": 0.95, "per_patient": (attacker("all images", 0.8, 0.9),)}, "red", "target missed"),
        ({"target": 0.95, "every_question": (attacker("kernel", 0.8, 0.9),)}, "red", "target missed"),
        ({"target": 0.95, "unaveraged": True}, "grey", "the audit is void"),
        ({"target": 0.95, "validation": {"F": 9, "M": 30}}, "grey", "the audit is void"),
        ({"target": 0.7, "validation": {"F": 9, "M": 30}}, "red", "target missed"),
        ({"target": 0.95, "certificates": (certificate(limit=0.96),)}, "red", "target missed"),
        ({"target": 0.95, "certificates": (certificate(limit=0.94),)}, "green", "target met"),
        ({"target": 0.95, "columns": (attacker("columns", 0.9, 1.0, low=0.99),)}, "red", "target missed"),
        ({"target": 0.95, "columns": (attacker("columns", 0.9, 0.92),)}, "amber",
         "the published columns may tell it"),
        ({"target": 0.95, "columns": (attacker("columns", 0.6, 0.6),)}, "green", "target met"),
    ],
)  # fmt: skip
def test_the_card_follows_its_rule(hidden, fields, colour, word):
    put(hidden, **fields)
    assert (card(hidden).colour, card(hidden).word) == (colour, word)
    assert not NEVER.search(words(stage.write_release_page(hidden)))


def test_a_release_that_was_not_attacked_says_that_nothing_is_known(tmp_path):
    root = write_release(tmp_path / "plain")
    assert (card(root).colour, card(root).word) == ("grey", "not attacked")
    text = words(stage.write_release_page(root))
    assert "not attacked: nothing is known of what it hides" in text
    assert "AUROC" not in text.replace(section_obfuscation.RULE, "")


def test_a_deterministic_release_is_not_for_release_even_if_its_target_is_met(tmp_path):
    root = write_release(tmp_path / "seeded", audit=audit_record(target=0.95), deterministic=True)
    assert card(root).colour == "red"
    assert "NOT FOR RELEASE" in words(stage.write_release_page(root))


def test_a_certificate_states_its_bound_or_how_many_patients_it_needs(hidden):
    put(
        hidden,
        certificates=(certificate(), certificate(groups=("M", "F"), limit=0.58, sentence="at most 0.58")),
    )
    text = words(stage.write_release_page(hidden))
    assert "not certified: needs 1200 patients per group, has 28" in text
    assert "≤ 0.580" in text


def test_an_audit_of_another_attribute_is_not_taken_for_this_one(hidden):
    put(hidden, attribute="age", target=0.95)
    assert card(hidden).colour == "grey"
    assert "The audit is about age, and the release was to hide sex." in words(
        stage.write_release_page(hidden)
    )


def test_a_report_of_a_release_has_section_and_card(hidden, tmp_path):
    result = stage.run(ReportConfig(), [hidden], tmp_path / "page.html")
    assert result.verdicts["Attribute hidden?"] == "red: attribute found"
    text = words(tmp_path / "page.html")
    assert "Hidden attribute" in text
    assert "measured AUROC 0.830" in text


def test_static_attackers_stand_in_a_report_under_the_same_words(hidden, tmp_path):
    put(hidden, static=(attacker("wide", 0.61, 0.512, retrained=False),))
    stage.run(ReportConfig(), [hidden], tmp_path / "page.html")
    before, after = (tmp_path / "page.html").read_text().split("<summary>Not a privacy measure", 1)
    assert "0.512" not in before
    assert "0.512" in after.split("</details>")[0]
    assert "0.512" not in after.split("</details>", 1)[1]


def test_an_audit_alone_is_reported_without_images(tmp_path):
    sealed_audit.write(tmp_path / "release_audit", audit_record(method="", method_summary="", caveat=""))
    page = stage.write_release_page(tmp_path / "release_audit")
    assert "a method that is not recorded" in words(page).lower()
    assert "<img" not in page.read_text()
    stage.run(ReportConfig(), [tmp_path / "release_audit"], tmp_path / "page.html")


def edited(**fields):
    """An edit by somebody who writes the digest again."""
    return lambda root: sealed_audit.write(root, replace(artifacts.read(root, ReleaseAuditRecord), **fields))


def of_record(**fields):
    return lambda root: artifacts.write(root, replace(artifacts.read(root, ObfuscationRecord), **fields))


def unsealed(change):
    """The same change without its digest, as somebody with an editor makes it."""

    def changed(root: Path) -> None:
        (path := root / "release_audit.json").write_text(change(path.read_text()))

    return changed


def lower_number(root: Path) -> None:
    """Give the deciding attacker a lower area on the validation split than another one has."""
    record = artifacts.read(root, ReleaseAuditRecord)
    first, worst = record.attackers
    edited(attackers=(first, replace(worst, valid_auroc=0.5)))(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(checksums="0" * 64), r"is that of another release \(hidden/release_audit\.json\)"),
        (edited(checksums=""), "does not say which release was attacked"),
        (edited(source=Origin(run="", data="c" * 64)), "audited against another dataset"),
        (edited(method="blur"), "by another method"),
        (edited(verdict="passed"), "verdict does not follow"),
        (edited(target=0.7), "verdict does not follow"),
        (edited(chosen="wide"), "another attacker than the one named"),
        (edited(attackers=(attacker("kernel", 0.8, 0.8, low=0.9, high=0.7),)), "cannot be"),
        (edited(attackers=(attacker("kernel", 0.8, 0.3),)), "cannot be"),
        (edited(static=(attacker("kernel", 0.8, 0.8),)), "mixed with others"),
        (edited(classes=("F", "X")), "other classes of the attribute"),
        (edited(attackers=(attacker("kernel", 0.85, 0.83, classes={"X": 9}),)), "tells other classes apart"),
        (edited(labels=("effusion",)), "about other labels"),
        (edited(asked=(AskedTarget(target=0.6, verdict="failed"),)), "not the one that was asked for first"),
        (edited(asked=(AskedTarget(target=0.0, verdict="passed"),)), "asked for last does not follow"),
        (unsealed(lambda text: text.replace('"seed": 0', '"seed": 1')),
         r"release_audit\.json was changed since the audit \(hidden\)"),
        (lambda root: (root / "release_audit.sha256").unlink(), r"release_audit\.sha256 is missing"),
        (lower_number, "another attacker than the one named"),
        (of_record(caveat="hides everything"), r"the record says otherwise .*\(hidden/obfuscation\.json\)"),
        (of_record(checksums="0" * 64), "not the one that the record names"),
        (lambda root: (root / "checksums.sha256").unlink(), "not the one that the record names"),
        (lambda root: (root / "manifest.csv").write_text((root / "manifest.csv").read_text() + "\n"),
         r"manifest\.csv is missing, or was changed since the release"),
    ],
)  # fmt: skip
def test_a_record_that_was_edited_or_belongs_elsewhere_is_refused_by_name(hidden, tmp_path, change, message):
    change(hidden)
    with pytest.raises(DataError, match=message):
        stage.write_release_page(hidden)
    with pytest.raises(DataError, match=message):
        stage.run(ReportConfig(), [hidden], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_record_of_another_version_is_refused_with_what_to_do(hidden):
    for name in ("release_audit.json", "obfuscation.json"):
        table = json.loads((hidden / name).read_text())
        del table["published"]
        (hidden / name).write_text(json.dumps(table))
        with pytest.raises(DataError, match=rf"another version .*{name}.*make the release again with --over"):
            stage.write_release_page(hidden)
        (hidden / "release_audit.json").unlink(missing_ok=True)


def test_the_audit_of_one_release_in_the_folder_of_another_is_refused(hidden, tmp_path):
    other = write_release(tmp_path / "other", audit=audit_record(), patients=13)
    shutil.copy(hidden / "release_audit.json", other)
    with pytest.raises(DataError, match=r"is that of another release \(other/release_audit\.json\)"):
        stage.run(ReportConfig(), [other], tmp_path / "page.html")


def test_text_in_records_is_shown_and_never_run(tmp_path):
    name = f"{HOSTILE}\u202e"
    found = attacker(name, 0.9, 0.83, knows=name, question=name, classes={name: 3}, refusal="")
    refused = attacker("b", 0.1, 0.83, auroc=None, low=None, high=None, refusal=name)
    audit = audit_record(
        method="x", method_summary=HOSTILE, caveat=HOSTILE, attribute=name, classes=(name, "F", "M"),
        attackers=(found, refused), labels=(name,), published=(name,), not_measured=(name,),
        certificates=(certificate(groups=(name, name), sentence=name),), splits={name: 3},
        utility=(loss(name, "drop-in", 0.1), loss("nodule", "retrained", 0.1, name)),
        released=Origin(run="", data="b" * 64, made=name, command=(name,), versions={name: name}),
    )  # fmt: skip
    root = write_release(
        tmp_path / "hidden", audit=audit, method="x", method_summary=HOSTILE, caveat=HOSTILE, attribute="sex",
        classes=(name,), utility=(name,), facts={name: [name]}, settings={"budget": name}, made=name,
    )  # fmt: skip
    stage.run(ReportConfig(), [root], tmp_path / "page.html")
    for page in (stage.write_release_page(root), tmp_path / "page.html"):
        text = page.read_text()
        assert "<script" not in text
        assert "\u202e" not in text
        assert "alert(1)" in text


def test_originals_of_patients_are_not_on_the_page_and_released_images_are(tmp_path):
    root = write_release(tmp_path / "hidden", audit=audit_record(synthetic=False))
    record = artifacts.read(root, ObfuscationRecord)
    manifest = Manifest.read(root)
    relist(root, record, synthetic=False)
    put(root, synthetic=False)
    (root / "private").mkdir()
    sheet = np.zeros((1, min(12, len(manifest)) * 16, 3 * 16), dtype=np.uint8)
    png.write(root / "private" / "comparison.png", Image(sheet))
    page = stage.write_release_page(root)
    assert "released images of the test split" in words(page)
    assert "Before (top)" not in words(page)
    relist(root, record, synthetic=True)
    put(root, synthetic=True)
    assert "Before (top)" in words(stage.write_release_page(root))


def test_a_page_replaces_no_file_of_a_person(hidden):
    (hidden / "report.html").write_text("<html>mine</html>")
    with pytest.raises(UsageError, match="is not a page of meninx"):
        stage.write_release_page(hidden)


def test_verify_finds_an_audit_that_was_edited(hidden):
    assert "measured AUROC 0.830" in meninx.verify(hidden).summary()
    edited(verdict="passed")(hidden)
    found = meninx.verify(hidden)
    assert not found.ok
    assert "the verdict does not follow from the numbers" in found.summary()


def test_a_page_of_a_person_is_found_before_anything_slow(hidden, tmp_path):
    (hidden / "report.html").write_text("<html>mine</html>")
    with pytest.raises(UsageError, match="is not a page of meninx"):
        workflow.obfuscate(ObfuscateConfig(), tmp_path / "no such dataset", hidden)
    with pytest.raises(UsageError, match="is not a page of meninx"):
        workflow.audit_release(ReleaseAuditConfig(), tmp_path / "no such dataset", hidden)


def test_a_page_that_was_edited_is_refused_by_verify_and_report(hidden, tmp_path):
    page = stage.write_release_page(hidden)
    assert meninx.verify(hidden).ok
    page.write_text(page.read_text().replace("0.830", "0.530"))
    assert "report.html was changed since the audit" in meninx.verify(hidden).summary()
    with pytest.raises(DataError, match=r"report\.html was changed since the audit"):
        stage.run(ReportConfig(), [hidden], tmp_path / "page.html")
    page.unlink()
    assert "0.830" in words(stage.write_release_page(hidden))


def test_with_the_private_room_an_edit_with_its_digest_is_refused_too(hidden):
    (hidden / "private").mkdir(mode=0o700)
    put(hidden)
    record = artifacts.read(hidden, ReleaseAuditRecord)
    copy = (hidden / "private" / "release_audit.sha256").read_text()
    edited(attackers=(QUIET,), chosen="kernel", verdict="measured")(hidden)
    (hidden / "private" / "release_audit.sha256").write_text(copy)
    with pytest.raises(DataError, match="is not the list that private/ holds"):
        stage.write_release_page(hidden)
    for name in ("release_audit.json", "release_audit.sha256"):
        (hidden / name).unlink()
    stage.write_release_page(hidden)
    assert card(hidden).colour == "grey"
    assert "release_audit.json is missing, and the release was audited" in card(hidden).detail
    assert "release_audit.json is missing" in meninx.verify(hidden).summary()
    assert not meninx.verify(hidden).ok
    assert record.attackers != (QUIET,)


def test_the_headline_names_the_chosen_attacker_and_the_highest_of_all(hidden):
    pooled = attacker("kernel, all images of a patient", 0.9, 0.91)
    put(hidden, per_patient=(pooled,))
    text = words(stage.write_release_page(hidden))
    assert "AUROC 0.830 [0.770, 0.890] by the attacker chosen on validation (kernel); highest of all" in text
    assert "(kernel, all images of a patient): 0.910" in text
    assert "worst" not in text
    put(hidden, validation={"F": 9, "M": 9})
    assert "too few patients to choose an attacker; highest of all attackers" in card(hidden).detail


def test_the_first_target_decides_and_later_ones_are_shown(hidden):
    first = finished(audit_record(target=0.6))
    later = finished(replace(audit_record(), target=0.95), first.asked)
    assert (later.target, later.verdict) == (0.6, "failed")
    assert [item.verdict for item in later.asked] == ["failed", "passed"]
    sealed_audit.write(hidden, replace(later, checksums=integrity.digest_of(hidden)))
    assert card(hidden).colour == "red"
    assert "targets: 0.60 missed; 0.95 asked later" in card(hidden).detail
    assert "targets: 0.60 missed; 0.95 asked later; the first one decides" in audit_lines(later)
    quiet = finished(audit_record(target=0.6, attackers=(attacker("kernel", 0.5, 0.5),)), first.asked)
    assert (quiet.verdict, quiet.reason) == ("failed", "an earlier audit of this release missed the target")
    without = finished(audit_record(target=0.95), finished(audit_record()).asked)
    assert (without.target, without.verdict) == (0.0, "measured")


def test_what_was_not_measured_has_a_row(hidden):
    put(hidden, not_measured=("average of several releases: its private room is not here",))
    text = words(stage.write_release_page(hidden))
    assert "average of several releases: its private room is not here" in text
    lines = audit_lines(artifacts.read(hidden, ReleaseAuditRecord))
    assert "  not measured: average of several releases: its private room is not here" in lines


def test_the_terminal_lists_every_attacker_that_decides():
    more = {name: (attacker(name, 0.7, 0.7),) for name in ("code_attacks", "per_patient", "with_columns")}
    text = "\n".join(audit_lines(audit_record(columns=(attacker("published columns", 0.6, 0.6),), **more)))
    for name in ("wide", "kernel", "published columns", *more):
        assert f"  {name}: 0." in text


def test_a_folder_without_a_release_has_no_page(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no obfuscated dataset"):
        stage.write_release_page(tmp_path / "empty")


def test_a_method_that_met_its_target_is_still_not_called_hidden_from_all(hidden):
    put(hidden, target=0.95)
    assert "Attackers find a lower limit: another one may find more." in words(
        stage.write_release_page(hidden)
    )


def test_an_unknown_dataset_sentence_alone_is_a_release_of_which_nothing_is_known(tmp_path):
    root = write_release(tmp_path / "bare")
    (root / "obfuscation.json").unlink()
    found = obfuscated_datasets.read(root, "bare", Manifest.read(root).info)
    assert isinstance(found, ObfuscatedDataset)
    assert found.record is None
    assert "not attacked: nothing is known" in found.caveat()
    assert obfuscation_record(root).sentence() in words(stage.write_release_page(root))
