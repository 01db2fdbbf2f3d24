from __future__ import annotations

import pytest

from meninx.core.errors import DataError, LayoutError
from meninx.deid.identity import lookup
from meninx.deid.identity.issuer_policy import IssuerPolicy
from meninx.deid.output import csv_line

OWN, APART = IssuerPolicy("north"), IssuerPolicy("north", "separate")
HEAD = "old_patient_id,new_patient_id,old_accession_number,new_accession_number\n"


@pytest.mark.parametrize(
    "rows",
    [
        "a,X,,\na,Y,,\n",  # one patient, two new IDs
        "a,X,,\nb,X,,\n",  # two patients would become one
        "a,,,\n",
        "a,X\\Y,,\n",
        "a,Xé,,\n",
        f"a,{'X' * 65},,\n",
        "a,X,1,\n",
        f"a,X,1,{'9' * 17}\n",
        "a,X,1,2\na,X,1,3\n",
        "a,1,X,2,3\n",  # a comma that should be quoted
        "a,A ,,\n",  # the original one
        "0000123,S-0000123,,\n",  # the original one inside
        "ab-1234,TRIAL AB1234,,\n",  # without its hyphen
        "a,b,,\nb,X,,\n",  # another patient's original one
        "b,X,,\na,B,,\n",
        "a,X^Y,,\n",  # a name
        "a,Xaver Young,,\n",
        '"a","Young, Xaver",,\n',
        "a,TRIAL-X,,\nb,trial-x,,\n",  # one folder on many disks
        "a,X1,778812,N778812X\n",  # an accession number inside
        "a,X1,X2,X2\n",
        "a,TRIAL-55512,55512,N1\n",  # the accession number in the patient's new ID
        "55512,X1,A1,N55512\n",  # and the other way about
    ],
)
def test_a_wrong_table_is_refused_by_row_and_without_values(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + rows)
    with pytest.raises(DataError, match=r"row \d") as caught:
        lookup.read_lookup(path, OWN)
    assert "X" not in str(caught.value).replace("ID", "")


def test_a_table_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("old,new\na,b\n")
    for wrong in (path, tmp_path / "absent.csv"):
        with pytest.raises(LayoutError):
            lookup.read_lookup(wrong, OWN)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "t.csv"
    rows = [lookup.COLUMNS, ("A,1", "X1", "9,9", "N1", ""), ('B"2', "X2", "", "", "PACS")]
    path.write_bytes(b"".join(map(csv_line, rows)))
    table = lookup.read_lookup(path, OWN)
    assert table.patients == {("", "a,1"): "X1", ("", 'b"2'): "X2"}
    assert table.accessions == {("X1", "9,9"): "N1"}
    path.write_text("old_patient_id,new_patient_id\nP1,X1\n")
    assert lookup.read_lookup(path, OWN).patients == {("", "p1"): "X1"}


@pytest.mark.parametrize("issuer", ["issuer", "old_issuer"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_an_id_of_two_issuers_is_two_patients(tmp_path, issuer, separator):
    path = tmp_path / "t.csv"
    rows = [
        ("old_patient_id", issuer, "new_patient_id"),
        ("123", "X", "S-1"),
        ("123", "Y", "S-2"),
        ("9", "", "S-3"),
    ]
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n", encoding="utf-8-sig")
    table = lookup.read_lookup(path, APART)
    assert table.patients == {("x", "123"): "S-1", ("y", "123"): "S-2", ("", "9"): "S-3"}
    assert table.names_issuers
    assert not table.lacks_issuer("z", "9")
    with pytest.raises(DataError, match=r"row 3\); .*--issuers separate"):
        lookup.read_lookup(path, OWN)
    with pytest.raises(DataError, match="row 2"):
        lookup.read_lookup(path, IssuerPolicy("north", "listed"))


def test_a_table_of_excel_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbfsep=;\r\nold_patient_id;new_patient_id;remark\r\n7;S-1;a, b\r\n\r\n8;S-2;\r\n"
    )
    table = lookup.read_lookup(path, OWN)
    assert table.patients == {("", "7"): "S-1", ("", "8"): "S-2"}
    assert table.lacks_issuer("east", "7 ")
    assert not table.lacks_issuer("east", "77")
    path.write_text("sep=;\nold_patient_id;new_patient_id\n7;S-1\n7;S-2\n")
    with pytest.raises(DataError, match="row 4"):
        lookup.read_lookup(path, OWN)


@pytest.mark.parametrize(
    "again", ["old_patient_id", "issuer,issuer", "old_issuer,old_issuer", "issuer,old_issuer"]
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, again):
    path = tmp_path / "t.csv"
    path.write_text(f"old_patient_id,new_patient_id,{again}\n")
    with pytest.raises(LayoutError, match="twice"):
        lookup.read_lookup(path, OWN)


def test_no_original_is_shown(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "0000123,S-1,,\n")
    assert "0000123" not in repr(lookup.read_lookup(path, OWN))
