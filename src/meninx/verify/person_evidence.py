"""What a file says of a person: names in the form of a person's, full birth dates, addresses.

A tool that de-identifies leaves a marker, or replaces names by codes and words such as ``REMOVED``. A
file that says nowhere that it is de-identified, and still names a person, is therefore an original, or as
good as one. Neither originals nor a list are needed to see that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import date

from meninx.deid import dates
from meninx.deid.identifiers import is_common
from meninx.dicomfile.instance import PATIENT_ID, Instance

PATIENT_NAME, BIRTH_DATE = 0x00100010, 0x00100030
REMOVED, METHOD, METHOD_CODES = 0x00120062, 0x00120063, 0x00120064
_OTHER_PEOPLE = (0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00321032)
_OF_THE_PATIENT = (0x00101040, 0x00102154, 0x00101000, 0x00101001, 0x00101005, 0x00101060)
_PLACES = (0x00080080, 0x00080081)
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*\.?")


def has_marker(one: Instance) -> bool:
    """Return whether a file says of itself that it is de-identified, in any of three attributes."""
    coded = any(element.tag == METHOD_CODES and element.items for element in one.elements)
    return one.text(REMOVED).upper() == "YES" or bool(one.text(METHOD)) or coded


def is_person_name(text: str) -> bool:
    """Return whether a PN value has the form of a person's name, and not of a code or placeholder.

    >>> names = ("Smithson^Ann", "ANON^PATIENT", "SUBJ^0042", "Smithson", "青山^花子")
    >>> [is_person_name(name) for name in names]
    [True, False, False, False, True]
    """
    words = _words(text)
    if words is None or is_common(" ".join(words)):
        return False
    letters = [sign for word in words for sign in word if sign.isalpha()]
    latin = all("LATIN" in unicodedata.name(sign, "LATIN") for sign in letters)
    return not latin or ("^" in text.strip("^= ") and sum(len(word) > 1 for word in words) >= 2)


def is_word_name(text: str) -> bool:
    """Return whether a PN value consists of words that a person may be called, in any form.

    >>> [is_word_name(name) for name in ("Smithson", "Ann Smithson", "P1234", "REMOVED", "XXX")]
    [True, True, False, False, False]
    """
    words = _words(text)
    if words is None or is_common(" ".join(words)):
        return False
    return any(len(word) > 2 and len(set(word.casefold())) > 1 for word in words)


def is_birth_date(text: str) -> bool:
    """Return whether a DA value is a day on which somebody may be born.

    The first of January is left out: tools that keep the year write it.

    >>> [is_birth_date(day) for day in ("19610502", "00010101", "19610101", "1961", "")]
    [True, False, False, False, False]
    """
    day = dates.parse(text.strip(" \0")) if re.fullmatch(r"[0-9]{8}", text.strip(" \0")) else None
    return day is not None and day.year >= 1880 and day <= date.today() and (day.month, day.day) != (1, 1)


def names_a_person(one: Instance) -> bool:
    """Return whether the header names a person: by the patient's name, or by two weaker signs.

    The name in the form ``family^given``, or in another script than Latin, is enough. Of these weaker signs
    two are needed, one of them about the patient: a name of other form, a full birth date, an address,
    telephone number, other ID or other name of the patient; the name of another person; an institution.
    """
    name = one.text(PATIENT_NAME)
    if name == one.text(PATIENT_ID):
        name = ""
    if is_person_name(name):
        return True
    of_patient = [
        is_word_name(name),
        is_birth_date(one.text(BIRTH_DATE)),
        _has_text(one, _OF_THE_PATIENT),
    ]
    others = [any(is_word_name(one.text(tag)) for tag in _OTHER_PEOPLE), _has_text(one, _PLACES)]
    return any(of_patient) and sum((*of_patient, *others)) >= 2


def _words(text: str) -> list[str] | None:
    """Return the words of a name; None where it holds a digit or a sign that no name has."""
    parts = [part for part in re.split(r"[\^=\s,]+", text.strip("\0 ^=")) if part]
    return parts if parts and all(_WORD.fullmatch(part) for part in parts) else None


def _has_text(one: Instance, tags: Iterable[int]) -> bool:
    return any(re.search(r"\w{2}", text) and not is_common(text) for text in map(one.text, tags))
