from __future__ import annotations

import pytest

from meninx.core.errors import ConfigError, DataError
from meninx.imaging import tags


@pytest.mark.parametrize("name", ["ImageComments", "(0020,4000)", "0020,4000", "00204000", "(0020, 4000)"])
def test_every_spelling_of_a_tag(name):
    assert tags.keyword_of(name) == "ImageComments"


def test_unknown_tags_get_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'ImageComments'"):
        tags.keyword_of("ImageComment")
    for name in ("(0009,1001)", "__import__('os')", ""):
        with pytest.raises(ConfigError):
            tags.keyword_of(name)


@pytest.mark.parametrize(
    "keyword", ["PixelData", "ReferencedStudySequence", "PixelSpacing", "SmallestImagePixelValue"]
)
def test_tags_that_cannot_hold_one_text(keyword):
    with pytest.raises(ConfigError, match=keyword):
        tags.vr_of(keyword)


@pytest.mark.parametrize(
    ("text", "keyword", "value"),
    [
        ("benign", "ImageComments", "benign"),
        ("7", "SeriesNumber", "7"),
        ("3", "ReferencedSegmentNumber", 3),
        ("0.5", "RealWorldValueSlope", 0.5),
        ("20200131", "ContentDate", "20200131"),
        ("PA", "ViewPosition", "PA"),
    ],
)
def test_values_take_the_type_of_their_attribute(text, keyword, value):
    assert tags.typed(text, keyword) == value


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("planted" * 3, "AccessionNumber"),
        ("planted", "ViewPosition"),
        ("x\\planted", "SeriesDescription"),
        ("70000", "ReferencedSegmentNumber"),
        ("planted", "ReferencedSegmentNumber"),
        ("planted", "RealWorldValueSlope"),
        ("planted", "ContentDate"),
        ("7.5planted", "SeriesNumber"),
        ("planted" * 10, "SeriesDescription"),
        ("PLANTÉD", "ViewPosition"),
    ],
)
def test_values_that_do_not_fit_name_the_attribute_only(text, keyword):
    with pytest.raises(DataError, match=keyword) as caught:
        tags.typed(text, keyword)
    assert "planted" not in str(caught.value).lower()


def test_letters_need_a_character_set():
    assert tags.can_spell("plain", None)
    assert not tags.can_spell("gutartig-ä", None)
    assert tags.can_spell("gutartig-ä", "ISO_IR 100")
    assert tags.can_spell("良性", ["", "ISO_IR 192"])
    assert not tags.can_spell("良性", "ISO_IR 100")
