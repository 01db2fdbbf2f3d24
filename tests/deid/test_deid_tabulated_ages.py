from __future__ import annotations

import pytest
from deid_samples import image, item, one
from pydicom.sequence import Sequence

AGE, SIZE = ("DCM", "121033", "Subject Age"), ("99HOSP", "S", "Size")
YEARS, MILLIMETERS = ("UCUM", "a", "year"), ("UCUM", "mm", "millimeter")


def code(scheme, value, meaning):
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def axis(number, concept, unit, place="TableColumnNumber"):
    new = item(ConceptNameCodeSequence=Sequence([code(*concept)]))
    if number is not None:
        setattr(new, place, number)
    if unit:
        new.MeasurementUnitsCodeSequence = Sequence([code(*unit)])
    return new


def cell(row, column, **value):
    return item(TableRowNumber=row, TableColumnNumber=column, **value)


def table(columns, cells, rows=()):
    values = item(NumberOfTableRows=9, NumberOfTableColumns=9, CellValuesSequence=Sequence(cells))
    values.TableColumnDefinitionSequence = Sequence(columns)
    if rows:
        values.TableRowDefinitionSequence = Sequence(rows)
    held = item(ValueType="TABLE", ConceptNameCodeSequence=Sequence([code("99HOSP", "T", "Table")]))
    held.TabulatedValuesSequence = Sequence([values])
    return held


def cleaned(tmp_path, *given, **attributes):
    ds = image(AcquisitionContextSequence=Sequence([table(*given)]), **attributes)
    new = one(tmp_path, ds)
    return new, new.AcquisitionContextSequence[0].TabulatedValuesSequence[0].CellValuesSequence


def values(cells):
    return [{e.keyword: e.value for e in one if e.keyword.startswith("Selector")} for one in cells]


@pytest.mark.parametrize(
    "value",
    [
        {"SelectorDSValue": "95"},
        {"SelectorDSValue": "9.5E1"},
        {"SelectorDSValue": ["45", "95"]},
        {"SelectorISValue": "95"},
        {"SelectorFDValue": 95.0},
        {"SelectorFLValue": 95.0},
        {"SelectorUSValue": 95},
        {"SelectorSLValue": 95},
        {"SelectorUVValue": 95},
        {"SelectorCSValue": "95"},
        {"SelectorCSValue": "95Y"},
        {"SelectorODValue": b"\0\0\0\0\0\xc0\x57\x40"},
    ],
)
def test_a_cell_of_an_age_column_states_no_age_above_the_limit(tmp_path, value):
    given = [cell(1, 1, **value), cell(2, 1, SelectorDSValue="45"), cell(1, 2, SelectorDSValue="95")]
    columns = [axis(1, AGE, YEARS), axis(2, SIZE, MILLIMETERS)]
    _, cells = cleaned(tmp_path, columns, given)
    assert values(cells) == [{}, {"SelectorDSValue": 45}, {"SelectorDSValue": 95}]


@pytest.mark.parametrize(
    ("columns", "rows", "stays"),
    [
        ([axis(1, SIZE, YEARS)], [], False),  # by its unit
        ([axis(1, ("99HOSP", "A", "PatientAge"), None)], [], False),  # by its concept
        ([axis(2, SIZE, MILLIMETERS)], [axis(1, AGE, YEARS, "TableRowNumber")], False),  # by its row
        ([axis(1, SIZE, YEARS)], [axis(1, SIZE, ("UCUM", "1", "no units"), "TableRowNumber")], False),
        ([axis(None, AGE, YEARS)], [], False),  # nobody knows which column it is
        ([axis(1, SIZE, MILLIMETERS), axis(None, AGE, YEARS)], [], False),
        ([axis(7, AGE, YEARS)], [], False),  # the cell's column is not defined
        ([axis(1, SIZE, MILLIMETERS), axis(7, AGE, YEARS)], [], True),
        ([axis(1, SIZE, MILLIMETERS)], [], True),
    ],
)
def test_column_and_row_say_what_is_an_age(tmp_path, columns, rows, stays):
    _, cells = cleaned(tmp_path, columns, [cell(1, 1, SelectorDSValue="95")], rows)
    assert values(cells) == [{"SelectorDSValue": 95} if stays else {}]


def test_a_cell_without_a_place_belongs_to_all_columns(tmp_path):
    columns = [axis(1, SIZE, MILLIMETERS), axis(2, AGE, YEARS)]
    _, cells = cleaned(tmp_path, columns, [item(TableRowNumber=1, SelectorDSValue="95")])
    assert values(cells) == [{}]


def test_a_code_in_a_cell_of_an_age_tells_none_above_the_limit(tmp_path):
    given = [cell(1, 1, SelectorCodeSequenceValue=Sequence([code("99HOSP", "K", "95")]))]
    _, cells = cleaned(tmp_path, [axis(1, AGE, YEARS)], given)
    assert cells[0].SelectorCodeSequenceValue[0].CodeMeaning == "REMOVED"


def test_years_of_birth_go_and_measurements_stay(tmp_path):
    columns = [axis(1, ("99HOSP", "B", "Birth_Year"), None), axis(2, SIZE, None), axis(3, SIZE, MILLIMETERS)]
    given = [
        cell(1, 1, SelectorUSValue=1931),
        cell(1, 2, SelectorUSValue=1928),
        cell(1, 3, SelectorUSValue=1928),
    ]
    _, cells = cleaned(tmp_path, columns, given, PatientBirthDate="19280314")
    assert values(cells) == [{}, {}, {"SelectorUSValue": 1928}]


@pytest.mark.parametrize(
    ("age", "stays"),
    [
        ({"SelectorDSValue": "95"}, False),
        ({"SelectorASValue": "095Y"}, False),
        ({"SelectorDSValue": "45"}, True),
    ],
)
def test_an_age_in_a_table_removes_a_shifted_birth_date(tmp_path, age, stays):
    held = table([axis(1, AGE, YEARS)], [cell(1, 1, **age)])
    ds = image(PatientBirthDate="19280314", StudyDate="20100101", AcquisitionContextSequence=Sequence([held]))
    ds.PatientAge = "081Y"
    rules = tmp_path / "rules.toml"
    rules.write_text('PatientBirthDate = "C"\n')
    assert bool(one(tmp_path, ds, overrides=rules).get("PatientBirthDate", "")) == stays
