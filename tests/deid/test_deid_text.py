from __future__ import annotations

import pytest
from deid_samples import image, item, one
from pydicom.sequence import Sequence

from meninx.deid.text import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("CT CHEST w/o contrast, Dr. Quillfeather 14.03.2019", "CT CHEST contrast"),
        ("Thorax-axial", "Thorax axial"),
        ("Marigold", ""),
        ("T2 FLAIR 0000123", "T2 FLAIR"),
        ("胸部 chest", "chest"),
    ],
)
def test_only_words_of_the_vocabulary_stay(text, clean):
    assert clean_text(text) == clean


def _code(value, scheme, meaning):
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def test_published_codes_stay_and_a_hospitals_own_become_pseudonyms(tmp_path):
    codes = [
        _code("39607008", "SCT", "Lung of Marigold"),
        _code("XQ-Smithers", "99WILLOW", "Smithers chest protocol"),
        _code("T-28000", "SRT", "Lung"),
    ]
    new = one(tmp_path, image(AnatomicRegionSequence=Sequence(codes)))
    lung, own, old = new.AnatomicRegionSequence
    assert (lung.CodeValue, lung.CodeMeaning) == ("39607008", "Lung")
    assert old.CodeMeaning == "Lung"
    assert own.CodingSchemeDesignator == "99MENINX"
    assert len(own.CodeValue) == 16
    assert own.CodeMeaning == "chest protocol"


def test_structured_reports_keep_numbers_and_lose_people(tmp_path):
    content = [
        item(ValueType="PNAME", PersonName="Quillfeather^Marigold"),
        item(ValueType="TEXT", TextValue="Lung nodule, reported by Zacharias"),
        item(ValueType="TEXT", TextValue="Zacharias"),
        item(
            ValueType="NUM",
            MeasuredValueSequence=Sequence(
                [
                    item(
                        NumericValue="12.5",
                        MeasurementUnitsCodeSequence=Sequence([_code("mm", "UCUM", "mm")]),
                    )
                ]
            ),
        ),
        item(ValueType="UIDREF", UID="1.2.826.0.1.3680043.10.999.3.1.1.1"),
        item(ValueType="DATE", Date="20190314"),
    ]
    ds = image(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22",
        Modality="SR",
        PixelData=None,
        ContentSequence=Sequence(content),
    )
    new = one(tmp_path, ds)
    person, text, gone, number, uid, day = new.ContentSequence
    assert str(person.PersonName) == "REMOVED"
    assert text.TextValue == "Lung nodule"
    assert gone.TextValue == "REMOVED"
    assert number.MeasuredValueSequence[0].NumericValue == 12.5
    assert number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert new.SOPInstanceUID == uid.UID
    assert day.Date == new.StudyDate
