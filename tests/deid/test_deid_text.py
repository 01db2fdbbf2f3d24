from __future__ import annotations

import pytest
from deid_samples import image, item, one
from pydicom.sequence import Sequence

from meninx.deid.wording.text import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("CT CHEST w/o contrast, Dr. Quillfeather 14.03.2019", "CT CHEST w/o contrast"),
        ("Thorax-axial", "Thorax-axial"),
        ("Marigold", ""),
        ("PET-CT (Quillfeather nativ u. mit KM)", "PET-CT"),
        ("W CONTRAST LIVER, W/O Quillfeather", ""),
        ("Quillfeather LEFT LEFT CHEST", ""),
        ("ABD, ART Quillfeather, VEN", ""),
        ("TK bez kontrastu i z quillfeather", ""),
        ("AX FE IN/OUT PH-Quillfeather", "AX IN/OUT"),
        ("T2 FLAIR 0000123", "T2 FLAIR"),
        ("胸部 chest", "chest"),
        ("MRI ABDOMEN PELVIS W+WO CONT", "MRI ABDOMEN PELVIS W+WO CONT"),
        ("LIVER-PELVIS/HASTE_AXIAL_P", "LIVER-PELVIS/HASTE_AXIAL_P"),
        ("5/3 1.5T 10% b1000 TE30 T2 L3-L4 2D 3D 3mm", "5/3 1.5T 10% b1000 TE30 T2 L3-L4 2D 3D 3mm"),
        ("CHEST PA Miller 12.3.", "CHEST PA"),
        ("AX T2 14 Mar 1957", "AX T2"),
        ("AX T2 25 Oct 2003", "AX T2"),
        ("BODY 233 414 2050 mm", "BODY"),
        ("CHEST 617-555-0199", "CHEST"),
        ("CHEST scan 12 Quillfeather", "CHEST scan"),
        ("CHEST 93 Y", "CHEST"),
        ("(13443/4/121)-(13443/3/121)", "/4/121)-(/3/121)"),
        ("DWI 50/400/800 AX", "DWI 50/400/800 AX"),
        ("bVals=0: 140 Quillfeather Street", "bVals"),
        ("bVals Quillfeather =0,600,800", "bVals"),
        ("DWI MRN1554833 50/400/1400", "DWI 50/400/1400"),
        ("13 Dec 1956,3X3 AXIAL", "AXIAL"),
        ("SkullBase headnecklung CostaL CeCe", "SkullBase headnecklung"),
        ("Abdomen^01_Routine", "Abdomen^01_Routine"),
        ("ACRIN-6698 WIP576 3 MIP's", "ACRIN-6698 WIP576 3 MIP's"),
        ("Axial FOREARM Vibe, Quillfeather", "Axial FOREARM"),
    ],
)
def test_only_harmless_words_and_numbers_stay(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("CT SPINE W/O Quillfeather CONTRAST", ""),
        ("CT Quillfeather HEAD", "CT"),
        ("MRI BREAST WO THEN W CONTRAST", "MRI BREAST WO THEN W CONTRAST"),
        ("MRI BREAST WO Quillfeather W CONTRAST", ""),
        ("CONTRAST Quillfeather; 3 mm, CHEST", "3 mm, CHEST"),
        ("LEFT Quillfeather CHEST", ""),
        ("CHEST LEFT Quillfeather", ""),
        ("LEFT CHEST Quillfeather RIGHT FOREARM", ""),
        ("LEFT 5512347 FOREARM", "LEFT FOREARM"),
        ("Quillfeather LEFT FOREARM", "LEFT FOREARM"),
        ("Izquierdo, Quillfeather FOREARM", ""),
        ("FOREARM WITHOUT MRN5512347", ""),
        ("T1 AX FS POST Quillfeather", ""),
        ("Recon 2: ABD PELVIS WITHOUT Quillfeather", "Recon"),
        ("T1 PRE, AX T1 POST Quillfeather, T2", "T2"),
        ("CHEST W CONTRAST Quillfeather ABD", "CHEST W CONTRAST ABD"),
        ("LEFT_Quillfeather_6667/RIGHT_CA_3", ""),
        ("SIN CHEST", ""),
        ("ABD SIN CONTRASTE", "ABD SIN CONTRASTE"),
        ("RIGHT Quillfeather, CHEST", "CHEST"),
        ("AX T1 C- Quillfeather", ""),
        ("Quillfeather CONTRAST", ""),
        ("NON-CONTRAST CT", "NON-CONTRAST CT"),
        ("ohne Kontrast", "ohne Kontrast"),
        ("without CHEST Quillfeather without", ""),
        ("CHEST W_O CONTRAST", "CHEST W_O CONTRAST"),
        ("no Quillfeather fracture", ""),
    ],
)
def test_a_statement_keeps_all_its_parts_or_its_whole_phrase_goes(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("AX FSE T2/S.J./", "AX FSE T2"),
        ("T1/H.Z./CHEST", "T1"),
        ("J. Brain CHEST", "CHEST"),
        ("CHEST Dr Role: AXIAL", "CHEST, AXIAL"),
        ("Brain Zweygardt CHEST", "CHEST"),
        ("Zweygardt, Brain CHEST", "CHEST"),
        ("MRI Brain CHEST", "MRI Brain CHEST"),
        ("CHEST 17 March 1955 %", "CHEST"),
        ("AX B6476 B1000 T2", "AX B1000 T2"),
        ("LILIENFELD CHEST", "CHEST"),
        ("t5of9MRI CHEST", "t5of9MRI CHEST"),
        ("T2FSE tse2d1 ep2d AXIALS", "T2FSE tse2d1 ep2d AXIALS"),
        (
            "KT KLATKI PIERSIOWEJ ZE WZMOCNIENIEM KONTRASTOWYM",
            "KT KLATKI PIERSIOWEJ ZE WZMOCNIENIEM KONTRASTOWYM",
        ),
    ],
)
def test_initials_titles_and_words_that_are_names_go(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("1e-3 mm", ""),
        ("1.5e-3 mm", ""),
        ("3Smith.5mm", ""),
        ("Quillfeather.5mm", ""),
        ("Quillfeather-3 mm", ""),
        ("crea 0,9 mg/dl", "0,9 mg/dl"),
        ("CHEST 0,9 mg/Quillfeather", "CHEST"),
        ("G1.0e#1.60+0.20,MDR0.2AM0.6", ""),
        ("T2 1.5/3mm", "T2"),
        ("T2 3.5mm 3ml/s", "T2 3.5mm 3ml/s"),
        ("CHEST Quillfeather 3mm", "CHEST 3mm"),
        ("w_J. arterial", ""),
        ("J_w. arterial", ""),
        ("w_J. arterial, without pelvis", ""),
        ("S/P right mastectomy", "S/P right mastectomy"),
        ("S/P Quillfeather right mastectomy", ""),
        ("discard chest", "discard chest"),
        ("discard Quillfeather chest", ""),
        ("B Ax Flair(10000 TR)", "B Ax Flair, TR"),
    ],
)
def test_a_number_a_statement_or_a_bracket_is_never_taken_apart(text, clean):
    assert clean_text(text) == clean


def test_series_that_lost_a_part_stay_distinct_and_fit():
    def keyed(original):
        return "BX4T" + "MN"["Quill" in original]

    first, second = (clean_text(f"AX T2 {name}", keyed) for name in ("Quill", "Feather"))
    assert (first, second) == ("AX T2 #BX4TN", "AX T2 #BX4TM")
    assert clean_text("AX T2 FLAIR", keyed) == "AX T2 FLAIR"
    short = clean_text("CHEST FOREARM Quill", keyed, limit=16)
    assert short == "CHEST #BX4TN"
    assert clean_text("FEMUR Quill LUNG T2", keyed, limit=12) == "FEMUR #BX4TN"


def test_words_that_hold_an_identifier_go_with_their_phrase():
    clean = clean_text("CT CHEST WITHOUT CONTRAST", identifies=lambda text: "CONTRAST" in text)
    assert clean == ""


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
