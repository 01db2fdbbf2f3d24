from __future__ import annotations

import pytest

from meninx.core.errors import DataError, LayoutError
from meninx.deid import pseudonyms
from meninx.deid.output import csv_line

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
    ],
)
def test_a_wrong_table_is_refused_by_row_and_without_values(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + rows)
    with pytest.raises(DataError, match=r"row \d") as caught:
        pseudonyms.read_lookup(path)
    assert "X" not in str(caught.value).replace("ID", "")


def test_a_table_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("old,new\na,b\n")
    for wrong in (path, tmp_path / "absent.csv"):
        with pytest.raises(LayoutError):
            pseudonyms.read_lookup(wrong)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "t.csv"
    rows = [pseudonyms.LOOKUP_COLUMNS, ("A,1", "X1", "9,9", "N1"), ('B"2', "X2", "", "")]
    path.write_bytes(b"".join(map(csv_line, rows)))
    table = pseudonyms.read_lookup(path)
    assert table.patients == {"a,1": "X1", 'b"2': "X2"}
    assert table.accessions == {("X1", "9,9"): "N1"}
    path.write_text("old_patient_id,new_patient_id\nP1,X1\n")
    assert pseudonyms.read_lookup(path).patients == {"p1": "X1"}
