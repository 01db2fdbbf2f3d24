"""Contradicting names, birth dates and sexes under one PatientID are noticed; other spellings are not."""

from __future__ import annotations

import csv
from functools import partial

import pytest
from deid_samples import KEY, clean, image, save, tree
from hypothesis import given
from hypothesis import strategies as st

from meninx.cli.app import run
from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.deid import Deidentifier
from meninx.deid.identity.keys import SiteKey
from meninx.deid.identity.pseudonyms import Pseudonyms
from meninx.deid.identity.traits import contradictions, traits

DIGEST = partial(Pseudonyms(SiteKey(KEY, "north")).trait, b"7001")


def of(name: str = "", birth_date: str = "", sex: str = "") -> dict[str, list[str]]:
    return traits(DIGEST, name=name, birth_date=birth_date, sex=sex)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Meyer^Anna", "MAIER^ANNA"),
        ("Meyer^Anna", "Maier^Ana"),
        ("Müller^Jörg", "Mueller^Joerg"),
        ("Smith^John^^Dr", "John Smith"),
        ("Smith^J", "Smith^John"),
        ("Meyer^Anna", "Okafor^Anna"),  # after a marriage
        ("Ivanov^Ivan", "Иванов^Иван"),  # two scripts are not compared
        ("Yamada^Tarou=山田^太郎", "山田^太郎"),
        ("Quillfeather", "Okafor^Peter"),  # one part only
        ("ANONYMOUS^ANONYMOUS", "Okafor^Peter"),
        ("", "Okafor^Peter"),
        ("0000123", "Okafor^Peter"),
    ],
)
def test_other_spellings_are_no_contradiction(one, other):
    assert contradictions([of(one), of(other)]) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Meyer^Anna", "Okafor^Peter"),
        ("Smith^John^^Dr", "Okafor^Peter^^Dr"),
        ("Иванов^Иван", "Петров^Олег"),
        ("Yamada^Tarou=山田^太郎", "Suzuki^Hanako=鈴木^花子"),
    ],
)
def test_names_without_a_common_part_are_a_contradiction(one, other):
    assert contradictions([of(one), of(other)]) == ("name",)


@pytest.mark.parametrize(
    ("one", "other", "contradicts"),
    [
        ("19800312", "19800313", True),
        ("19800312", "1980.03.12", False),
        ("19800312", "19800101", False),  # an unknown day
        ("19810312", "19800101", True),
        ("19800312", "19000101", False),  # an unknown date
        ("19800312", "", False),
        ("19800312", "no date", False),
    ],
)
def test_birth_dates_contradict_each_other_if_they_are_two_days(one, other, contradicts):
    assert contradictions([of(birth_date=one), of(birth_date=other)]) == (
        ("birth date",) if contradicts else ()
    )


def test_sexes_contradict_each_other_only_if_both_are_stated():
    assert contradictions([of(sex="F"), of(sex="M")]) == ("sex",)
    assert contradictions([of(sex="F"), of(sex="O"), of(sex=""), of(sex="f ")]) == ()


@given(st.text(max_size=80), st.text(max_size=10), st.text(max_size=3))
def test_any_text_is_compared_with_itself_without_a_contradiction(name, birth_date, sex):
    found = of(name, birth_date, sex)
    assert contradictions([found, of(name.upper(), birth_date, sex), found]) == ()
    assert all(len(digest) == 16 for digests in found.values() for digest in digests)


def test_a_very_long_name_and_very_many_variants_are_bounded():
    assert sum(len(parts) for parts in of("^".join(map("abc{}".format, "äöüßxyz" * 50000))).values()) <= 12
    assert contradictions([of(birth_date=f"19{year}0312") for year in range(10, 99)]) == ("birth date",)


def test_digests_of_two_patients_cannot_be_compared():
    pseudonyms = Pseudonyms(SiteKey(KEY, "north"))
    one, other = (
        traits(partial(pseudonyms.trait, who), name="", birth_date="", sex="F") for who in (b"a", b"b")
    )
    assert one != other


def test_two_people_with_one_patient_id_are_counted_and_listed_in_the_private_room_only(tmp_path):
    for number in (1, 2):
        save(image(number), tmp_path / "in" / f"a{number}")
    save(image(3, PatientName="QUILLFEATHER^MARIGOLD"), tmp_path / "in" / "b")  # another spelling
    save(image(4, study=2, PatientID="0000999"), tmp_path / "in" / "c")
    assert clean(tmp_path, "one").contradicting == 0
    assert "contradicting" not in (tmp_path / "one" / "statement.html").read_text()
    other = {"PatientName": "Okafor^Peter", "PatientBirthDate": "19440817", "PatientSex": "M"}
    save(image(5, study=3, **other), tmp_path / "in" / "=d")
    for folder in ("one", "two"):  # a run that goes on, and a new one
        result = clean(tmp_path, folder)
        assert (result.contradicting, result.patients) == (1, 2)
        assert "contradicting name, birth date or sex under one PatientID: 1 patient;" in result.summary()
        assert "private/contradictions.csv" in result.summary()
        assert artifacts.read(tmp_path / folder, DeidRecord).contradicting == 1
        assert "under one PatientID: 1 patient." in (tmp_path / folder / "statement.html").read_text()
        with (tmp_path / folder / "private" / "contradictions.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["path"] for row in rows] == ["'=d", "a1", "b"]
        assert {(row["id_old"], row["differs"]) for row in rows} == {("0000123", "name; birth date; sex")}
        public = b"".join(data for path, data in tree(tmp_path / folder).items() if "private" not in path)
        assert not [word for word in (b"Okafor", b"19440817", b"0000123") if word in public]
    assert clean(tmp_path, "three", dry_run=True).contradicting == 1


def test_results_of_an_earlier_version_are_read_again_for_the_comparison(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    save(image(2, PatientSex="M"), tmp_path / "in" / "b")
    clean(tmp_path)
    whole = tree(tmp_path / "out")
    journal = tmp_path / "out" / "private" / "journal.jsonl"
    text = journal.read_text()
    journal.write_text(text.replace('"traits": {', '"traits_of_no_version": {'))
    journal.write_text(
        "".join(
            line[: line.index(', "traits_of')] + line[line.index("}", line.index("traits_of")) + 1 :]
            for line in journal.read_text().splitlines(keepends=True)
        )
    )
    result = clean(tmp_path)
    assert (result.contradicting, result.files_resumed) == (1, 0)
    assert tree(tmp_path / "out") == whole


def test_two_deliveries_and_a_stream_are_compared_by_the_registry(tmp_path, capsys):
    save(image(1), tmp_path / "in" / "a")
    save(image(2, study=2, PatientSex="M"), tmp_path / "later" / "b")
    clean(tmp_path)
    before = tree(tmp_path / "out")
    words = ("deid", "later", "next", "--key", "site.key", "--site", "north")
    assert (
        run([word if word[0] == "-" or i in (0, 6) else str(tmp_path / word) for i, word in enumerate(words)])
        == 0
    )
    told = capsys.readouterr()
    assert "in all deliveries of the site, 1 patient has contradicting name, birth date or sex" in told.err
    assert "contradicting" not in told.out
    assert run(["registry", str(tmp_path / "site.key"), "--site", "north"]) == 0
    assert "1 patient has instances with contradicting name, birth date or sex" in capsys.readouterr().out
    assert clean(tmp_path).contradicting == 0
    assert tree(tmp_path / "out") == before  # a statement that was signed does not change
    engine = Deidentifier(key=tmp_path / "site.key", site="north")
    assert engine.deidentify((tmp_path / "in" / "a").read_bytes()).contradictions == ("sex",)
    other = Deidentifier(key=KEY, site="north")
    assert other.deidentify((tmp_path / "in" / "a").read_bytes()).contradictions == ()
    assert other.deidentify((tmp_path / "later" / "b").read_bytes()).contradictions == ("sex",)


def test_a_lookup_table_of_a_later_delivery_is_no_contradiction(tmp_path):
    save(image(1), tmp_path / "in" / "a")
    clean(tmp_path)
    (tmp_path / "lookup.csv").write_text("old_patient_id,new_patient_id\n0000123,STUDY-1\n")
    clean(tmp_path, "next", lookup=tmp_path / "lookup.csv")
    engine = Deidentifier(key=tmp_path / "site.key", site="north")
    assert engine.deidentify((tmp_path / "in" / "a").read_bytes()).contradictions == ()
