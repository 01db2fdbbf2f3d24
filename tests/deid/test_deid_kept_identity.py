"""No override keeps who the patient is; settings without effect are refused; guards of the stage."""

from __future__ import annotations

import pydicom
import pytest
from deid_samples import KEY, clean, image, images, save
from pydicom.datadict import tag_for_keyword

from meninx.cli import app
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.deid import Deidentifier, options, worker
from meninx.deid.config import DeidConfig, profile_with
from meninx.deid.identifiers import _kind
from meninx.deid.profile import rows

MUST_GO = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientAddress",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ResponsiblePerson",
    "PatientComments",
    "MedicalRecordLocator",
    "AdmissionID",
    "AccessionNumber",
    "IssuerOfPatientID",
    "PersonTelephoneNumbers",
    "PatientTelecomInformation",
    "PatientTelephoneNumbers",
    "OtherPatientIDsSequence",
    "ReferringPhysicianName",
    "OperatorsName",
    "NameToUse",
    "IdentifyingComments",
    "TelephoneNumberTrial",
    "GPSLatitude",
]
FULL = frozenset({options.Option.RETAIN_FULL_DATES})  # under which K on a date is no question of shifts


def refused(tag: int) -> bool:
    try:
        profile_with(FULL, {f"{tag:08X}": "K"})
    except PrivacyRefusal:
        return True
    return False


@pytest.mark.parametrize("keyword", MUST_GO)
def test_an_override_that_keeps_who_the_patient_is_is_refused(keyword):
    with pytest.raises(PrivacyRefusal, match="name, an ID or an address"):
        profile_with(FULL, {keyword: "K"})


def test_every_row_of_the_table_is_refused_or_names_nobody():
    wrong = []
    for tag, row in rows().items():
        names_nobody = _kind(tag, row.vr) in (
            "text",
            "day",
            "uid",
            "bulk",
        )
        by_the_standard = "K" in row.cells.values()  # device and institution, which the options keep
        if not (refused(tag) or names_nobody or by_the_standard):
            wrong.append(row.keyword)
        if (
            row.keyword.startswith(("Study", "Series", "Device", "Institution"))
            and row.vr != "PN"
            and refused(tag)
        ):
            assert row.keyword == "StudyID" or not by_the_standard, row.keyword
    assert wrong == []
    assert sum(map(refused, rows())) >= 60
    assert not refused(tag_for_keyword("StudyDescription"))
    assert not refused(tag_for_keyword("InstitutionName"))


def test_a_highest_age_without_effect_is_refused(tmp_path):
    for overrides in ({}, {"StudyDescription": "K"}, {"PatientAge": "X"}):
        with pytest.raises(ConfigError, match="no effect where ages are removed"):
            Deidentifier(key=KEY, site="north", profile="basic", max_age=60, overrides=overrides)
    save(image(), tmp_path / "in" / "a")
    with pytest.raises(ConfigError, match="no effect where ages are removed"):
        clean(tmp_path, profile="basic", max_age=60)
    words = ["deid", str(tmp_path / "in"), str(tmp_path / "out"), "--key", str(tmp_path / "new.key")]
    assert app.run([*words, "--new-key", "--site", "n", "--profile", "basic", "--max-age", "60"]) == 2
    assert not (tmp_path / "new.key").exists()
    DeidConfig(profile="basic", max_age=60, options=("retain-patient-characteristics",)).compiled()
    DeidConfig(profile="basic").compiled()
    DeidConfig(max_age=60).compiled()


def test_an_override_that_keeps_the_age_gives_the_highest_age_its_effect(tmp_path):
    ds = image(PatientAge="071Y", PatientBirthDate="19480101")
    rules = tmp_path / "rules.toml"
    rules.write_text('PatientAge = "K"\n')
    for max_age, age in ((60, "061Y"), (89, "071Y")):
        given = {"profile": "basic", "max_age": max_age}
        tool = Deidentifier(key=KEY, site="north", overrides={"PatientAge": "K"}, **given)
        assert tool.deidentify(ds).dataset.PatientAge == age
        save(ds, tmp_path / "in" / "a")
        clean(tmp_path, f"out{max_age}", overrides=rules, **given)
        assert pydicom.dcmread(images(tmp_path / f"out{max_age}")[0]).PatientAge == age
        assert "removed, with birth dates" not in (tmp_path / f"out{max_age}" / "statement.html").read_text()


def test_the_statement_says_what_was_done_about_ages(tmp_path):
    save(image(), tmp_path / "in" / "a")
    clean(tmp_path, profile="basic", out="basic")
    clean(tmp_path, max_age=60, out="research")
    assert "removed, with birth dates" in (tmp_path / "basic" / "statement.html").read_text()
    assert "above 60 years: capped" in (tmp_path / "research" / "statement.html").read_text()


def test_public_texts_of_a_folder_run_are_searched(tmp_path, monkeypatch):
    save(image(PatientID="4711001"), tmp_path / "in" / "a")
    texts = worker.CleanInstance.public_texts
    monkeypatch.setattr(
        worker.CleanInstance, "public_texts", lambda self, path: (*texts(self, path), "of 4711001")
    )
    result = clean(tmp_path)
    assert result.files_written == 0
    assert sum(result.quarantined.values()) == 1


def test_a_registry_inside_the_output_folder_is_refused(tmp_path):
    save(image(), tmp_path / "in" / "a")
    with pytest.raises(PrivacyRefusal, match="registry"):
        clean(tmp_path, registry=tmp_path / "out" / "site.registry")
    assert not (tmp_path / "out").exists()
