"""Values are read so that two of them are never taken for one by a failed decoding."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import python_encoding

from meninx.dicomfile.charset import UNDECODED, decode, distinct, encodings_of, exact

TERMS = sorted(python_encoding)
EXTENDED = ("\\ISO 2022 IR 87", "ISO 2022 IR 100\\ISO 2022 IR 144", "ISO 2022 IR 13\\ISO 2022 IR 87")
values = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=6).map(lambda text: text.encode("utf-8")),
    st.text("ИванОлег王李йЙA\xad\u200b77 ", max_size=6).flatmap(
        lambda text: st.sampled_from(("cp1251", "gb18030", "euc_kr", "iso2022_jp", "shift_jis")).map(
            lambda name: text.encode(name, "ignore")
        )
    ),
)


@given(values, values, st.sampled_from([*TERMS, *EXTENDED]))
def test_two_values_are_the_same_only_as_the_same_text(one, other, term):
    encodings = encodings_of(term.encode())
    texts = [exact(value, encodings) for value in (one, other)]
    told = [distinct(value, encodings) for value in (one, other)]
    if told[0] == told[1]:
        assert one.strip(b" \0") == other.strip(b" \0") or None not in texts
    for value, text, shown in zip((one, other), texts, told, strict=True):
        if text is None:
            assert bytes.fromhex(shown.removeprefix(UNDECODED)) == value.strip(b" \0")
        else:
            assert shown == text
            assert UNDECODED not in text
            seen = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
            assert seen == decode(value, encodings)  # what a person is called did not change


@pytest.mark.parametrize("term", TERMS)
def test_no_two_values_of_two_bytes_are_one_text(term):
    encodings = encodings_of(term.encode())
    pairs = map(bytes, itertools.product(range(0x40, 256, 3), range(0x40, 256)))
    texts = [text for value in pairs if (text := exact(value, encodings, undeclared="ascii")) is not None]
    assert len(texts) == len(set(texts)) > 0


def test_without_a_character_set_only_ascii_is_certain():
    for term in (b"", b"ISO_IR 6", b"no such set", b"utf_7"):
        assert exact(b"M\xfcller", encodings_of(term), undeclared="ascii") is None
        assert exact(b"M\xfcller", encodings_of(term)) == "Müller"
        assert exact(b"7001", encodings_of(term), undeclared="ascii") == "7001"


@pytest.mark.parametrize(
    ("value", "term"),
    [
        ("Иван77".encode("cp1251"), "ISO_IR 192"),
        (b"77\xef\xbf\xbd", "ISO_IR 192"),  # damaged by an earlier program
        (b"\x1b-A77", "ISO_IR 192"),
        (b"\x1b-A77", "ISO_IR 100"),  # one character set has no escape sequences
        (b"\x1b-L\xb8", "ISO 2022 IR 100\\ISO 2022 IR 87"),  # of a set that is not declared
    ],
)
def test_what_is_no_text_has_no_text(value, term):
    assert exact(value, encodings_of(term.encode())) is None


def test_code_extensions_are_read():
    declared = encodings_of(b"\\ISO 2022 IR 87")
    assert exact(b"77\x1b$B;3ED\x1b(B77", declared) == "77山田77"
    declared = encodings_of(b"ISO 2022 IR 6\\ISO 2022 IR 100\\ISO 2022 IR 144")
    assert exact(b"\x1b-A\xfc\\\x1b-L\xb8", declared) == "ü\\И"
