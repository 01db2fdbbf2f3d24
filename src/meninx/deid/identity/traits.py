"""Name, birth date and sex as keyed digests, to notice that one PatientID may mean two people.

The identity of a patient is the PatientID with its domain; name, birth date and sex never decide it. Where
they contradict each other under one PatientID, a person has to look: two people may share the ID, or somebody
corrected an entry. The rule is conservative:

- Names contradict each other if no part of one, e.g. family or given name, is a part of the other. Case,
  accents, order, titles, parts of fewer than three letters and usual spellings of one sound (Meyer and Maier,
  Mueller and Müller) do not count. Only names of two parts or more in one script are compared.
  Names that do not decode are compared byte by byte, in any case of ASCII letters.
- Birth dates contradict each other if they are two days. The first of January often stands for an unknown
  day, so then only the years count; 1900 and earlier stand for an unknown date.
- ``M`` and ``F`` contradict each other.

Example:
    >>> from functools import partial
    >>> from meninx.deid.identity.keys import SiteKey
    >>> from meninx.deid.identity.pseudonyms import Pseudonyms
    >>> digest = partial(Pseudonyms(SiteKey(bytes(range(32)), "north")).trait, b"7001")
    >>> one, two, three = (
    ...     traits(digest, name=name, birth_date="19800312", sex="F")
    ...     for name in ("Meyer^Anna", "ANNA MAIER", "Okafor^Peter")
    ... )
    >>> contradictions([one, two]), contradictions([one, two, three])
    ((), ('name',))
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping

from meninx.core.value_caches import cached
from meninx.deid import dates
from meninx.dicomfile.charset import UNDECODED

Traits = Mapping[str, Collection[str]]
"""Kind -> keyed digests. The kinds of a name are ``name`` and a script."""

NAME, BIRTH_DATE, SEX = "name", "birth date", "sex"
_YEAR, _DAY = "year", "day"
_LONGEST, _MOST_PARTS, MOST_VARIANTS = 512, 12, 50
_LETTERS = re.compile(r"[^\W\d_]+")
_BYTES = re.compile(rb"[\0-@\[-`{-\x7f]+")  # between words of bytes that are not decoded
_UNKNOWN_YEAR = 1900  # and earlier
# Different spellings of one sound, in Latin letters without accents; applied in this order.
_SOUNDS = (
    ("ß", "s"), ("æ", "a"), ("ø", "o"), ("œ", "o"), ("ł", "l"), ("đ", "d"), ("ph", "f"), ("ck", "k"),
    ("c", "k"), ("q", "k"), ("dt", "t"), ("z", "s"), ("w", "v"), ("h", ""), ("y", "i"),
    ("j", "i"), ("ai", "ei"),
)  # fmt: skip


def traits(
    digest: Callable[[str, str], str], *, name: str, birth_date: str, sex: str
) -> dict[str, list[str]]:
    """Return what a file says of its patient, as keyed digests; a kind that it leaves open is missing.

    Args:
        digest: (kind, text) -> keyed digest.
        name: PatientName; what does not decode as :func:`meninx.dicomfile.charset.distinct` gives it.
        birth_date: PatientBirthDate.
        sex: PatientSex.
    """
    found = {
        f"{NAME} {script}": sorted(digest(NAME, part) for part in parts)
        for script, parts in sorted(_parts(name).items())
        if len(parts) > 1
    }
    day = dates.parse(birth_date)
    if day is not None and day.year > _UNKNOWN_YEAR:
        found[_YEAR] = [digest(_YEAR, str(day.year))]
        if (day.month, day.day) != (1, 1):
            found[_DAY] = [digest(_DAY, f"{day.month}-{day.day}")]
    if sex.strip().upper() in ("M", "F"):
        found[SEX] = [digest(SEX, sex.strip().upper())]
    return found


def variant_of(found: Traits) -> str:
    """Return the traits of a file as one text; equal texts are equal traits."""
    return json.dumps({kind: list(digests) for kind, digests in found.items()}, sort_keys=True)


class TraitVariants:
    """What the files of each patient say of the patient, added file by file.

    Some 300 bytes per patient.
    """

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._more: dict[str, dict[str, None]] = {}

    def add(self, patient: str, found: Traits) -> None:
        """Add a file of a patient."""
        variant = variant_of(found)
        first = self._first.setdefault(patient, variant)
        if variant != first and len(self._more.setdefault(patient, {})) < MOST_VARIANTS:
            self._more[patient][variant] = None

    def contradicting(self) -> dict[str, tuple[str, ...]]:
        """Return patient -> in what the patient's files contradict each other, for those whose files do."""
        found = {
            patient: contradictions([json.loads(one) for one in (self._first[patient], *more)])
            for patient, more in self._more.items()
        }
        return {patient: kinds for patient, kinds in found.items() if kinds}


def contradictions(variants: Collection[Traits]) -> tuple[str, ...]:
    """Return in which of name, birth date and sex any two files of a patient contradict each other.

    Args:
        variants: the distinct traits of the patient's files; of very many the first fifty are compared.
    """
    pairs = itertools.combinations(itertools.islice(variants, MOST_VARIANTS), 2)
    found = {kind for one, other in pairs for kind in _between(one, other)}
    return tuple(kind for kind in (NAME, BIRTH_DATE, SEX) if kind in found)


def _between(one: Traits, other: Traits) -> set[str]:
    differ = {kind for kind in one.keys() & other.keys() if not set(one[kind]) & set(other[kind])}
    names = {kind for kind in one.keys() & other.keys() if kind.startswith(NAME)}
    found = {NAME} if names and names <= differ else set()
    return found | ({BIRTH_DATE} if differ & {_YEAR, _DAY} else set()) | differ & {SEX}


@cached(maxsize=64)  # the files of a patient come one after the other
def _parts(name: str) -> Mapping[str, set[str]]:
    """Return script -> the parts of a name in the form in which they are compared.

    Prefix and suffix, the fourth and fifth component, are left out.
    """
    if name.startswith(UNDECODED):
        parts = _BYTES.split(bytes.fromhex(name[1:])[:_LONGEST].lower())[:_MOST_PARTS]
        return {"undecoded": {part.hex() for part in parts if len(part) >= 3}}
    found: dict[str, set[str]] = {}
    groups = (group.split("^")[:3] for group in name[:_LONGEST].split("="))
    for word in itertools.islice(_LETTERS.findall(" ".join(itertools.chain(*groups))), _MOST_PARTS):
        script = unicodedata.name(word[0], "unknown").split()[0]
        plain = unicodedata.normalize("NFKD", word).casefold()
        plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
        if script == "LATIN":
            if len(plain) < 3:
                continue
            plain = _sounded(plain)
        if plain:
            found.setdefault(script.lower(), set()).add(plain)
    return found


def _sounded(word: str) -> str:
    word = re.sub("(?<=[aou])e", "", word)  # as in Mueller
    for spelling, sound in _SOUNDS:
        word = word.replace(spelling, sound)
    return re.sub(r"(.)\1+", r"\1", word)
