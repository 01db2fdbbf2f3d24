"""Invented people and hospitals: findings, names in several scripts, numbers and addresses.

None of them exists.

A :class:`Subject` describes the images of a patient, a :class:`Person` the headers. Names are
long and rare, so that a search for them finds no other text.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from meninx.core import check
from meninx.core.errors import ConfigError, expected
from meninx.core.randomness import child

FINDINGS: Final = ("effusion", "pneumothorax", "nodule")
STAYS: Final = 0.85
OLDEST: Final = 93


@dataclass(frozen=True)
class Subject:
    """One invented patient.

    Attributes:
        index: position in the cohort, which selects the patient's random streams.
        sex: ``F`` or ``M``.
        age: whole years at the first image, 18 to 93.
        images: the findings of each image in time order; the first image shows all of the patient's findings.
        has: all findings of the patient, in the order of :data:`FINDINGS`.
    """

    index: int
    sex: str
    age: int
    has: tuple[bool, ...]
    images: tuple[tuple[bool, ...], ...]


def finding_probability(sex: str, prevalence: float, attribute_correlation: float) -> float:
    """Return P(finding | sex): ``prevalence`` plus (men) or minus (women) a term for the correlation.

    At 0 sex and finding are independent, at 1 no woman and at -1 no man has the finding (for a prevalence up
    to one half); the prevalence over both sexes stays the same.
    """
    moved = attribute_correlation * min(prevalence, 1 - prevalence)
    return prevalence + (moved if sex == "M" else -moved)


def subject(
    index: int,
    seed: int,
    *,
    prevalence: float = 0.3,
    attribute_correlation: float = 0.0,
    most_images: int = 4,
) -> Subject:
    """Return patient ``index`` of the cohort of ``seed``, independent of the size of the cohort."""
    rng = child(seed, "subject", index)
    sex = "M" if rng.random() < 0.5 else "F"
    age = int(np.clip(round(rng.normal(56, 18)), 18, OLDEST))
    chance = finding_probability(sex, prevalence, attribute_correlation)
    has = tuple(bool(draw < chance) for draw in rng.random(len(FINDINGS)))
    count = int(rng.integers(1, most_images + 1))
    kept = rng.random((count, len(FINDINGS))) < STAYS
    kept[0] = True
    images = tuple(tuple(bool(a and b) for a, b in zip(has, row, strict=True)) for row in kept)
    return Subject(index, sex, age, has, images)


def subjects(
    count: int, seed: int, *, prevalence: float = 0.3, attribute_correlation: float = 0.0
) -> tuple[Subject, ...]:
    """Return the first ``count`` patients of the cohort of ``seed``."""
    _check(prevalence, attribute_correlation)
    return tuple(
        subject(i, seed, prevalence=prevalence, attribute_correlation=attribute_correlation)
        for i in range(count)
    )


def until(
    images: int, seed: int, *, prevalence: float = 0.3, attribute_correlation: float = 0.0
) -> Iterator[Subject]:
    """Yield patients until they have exactly ``images`` images in total; the last one may have fewer."""
    _check(prevalence, attribute_correlation)
    index = 0
    while images > 0:
        one = subject(index, seed, prevalence=prevalence, attribute_correlation=attribute_correlation)
        yield replace(one, images=one.images[:images])
        images -= len(one.images)
        index += 1


def _check(prevalence: float, attribute_correlation: float) -> None:
    check.probability(prevalence=prevalence)
    if not -1 <= attribute_correlation <= 1:
        raise ConfigError(
            expected(
                "-1 <= attribute_correlation <= 1", got=attribute_correlation, where="attribute_correlation"
            )
        )


_FAMILY: Final = (
    "Quellbrunn",
    "Ostrawind",
    "Fennimore-Wacht",
    "O'Sullibane",
    "Müllenhöfer",
    "Þórsgeirð",
    "Van der Krüppelaar",
    "Ñandubay",
    "Tszekhowna",
    "Bracegirdley",
    "Åkerhjelmson",
    "Zwiebelkron",
    "Delacroisette",
    "Hrdlickova",
    "Mbalangwe",
    "Szymborowicz",
    "Weißenkessel",
    "Da Conceiçãozinha",
    "Papadimoulis",
    "Ravichandrabose",
    "Lindqvistad",
    "Gräfenstolz",
    "Ferranzzani",
    "Kowalczuko",
)
_GIVEN_F: Final = (
    "Brunhildis",
    "Aurelianne",
    "Zsuzsette",
    "Mechthildia",
    "Jorunnveig",
    "Philippina",
    "Ludmillova",
    "Ottolinde",
)
_GIVEN_M: Final = (
    "Bartholomej",
    "Eberhardus",
    "Thaddäus",
    "Casimirow",
    "Leopoldino",
    "Zebulonius",
    "Ragnvaldur",
    "Ignaceous",
)
_STREETS: Final = (
    "Lavendelstieg",
    "Kupferhammerweg",
    "Old Tannery Row",
    "Rue des Chardonnerets",
    "Weidenkätzchengasse",
)
_TOWNS: Final = (
    "Unterpfaffenmoor",
    "Little Swaffwick",
    "Saint-Brieucelle",
    "Hohenwaldlingen",
    "Brackwaterby",
)
_SCRIPTS: Final = {
    "utf-8": ("Yamaderano^Tarouko=山寺野^太郎子=やまでらの^たろうこ", ("ISO_IR 192",)),
    "jis": ("Aoyamakita^Hanakoe=青山北^花子江=あおやまきた^はなこえ", ("", "ISO 2022 IR 87")),
    "cyrillic": ("Синичкинова^Варварина", ("ISO_IR 144",)),
    "hangul": ("Namgungjeon^Gildongsu=南宮田^吉童秀=남궁전^길동수", ("ISO_IR 192",)),
}
_HOSPITALS: Final = (
    ("Klinikum Nordheidemark", "Am Deichgrafenhof 7, 21217 Nordheidemark", "+49 4105 5550100", "NHMRAD_ARCH"),
    (
        "Southmoor Infirmary Trust",
        "Candlewick Parade 88, Southmoor SM4 9QX",
        "+44 1632 960144",
        "SOUTHMOOR_PX",
    ),
    ("Ostbucht Hospitalet", "Fyrtarnsveien 12, 4099 Ostbucht", "+47 5555 0166", "OSTBUCHT_STORE"),
    ("Hopital Valmarande", "9 Quai des Tanneurs, 35999 Valmarande", "+33 19900 1477", "VALMARANDE_AE"),
)
_DEVICES: Final = (
    ("Acme Imaging", "ThoraxStar 3"),
    ("Beltane", "DR-Vista"),
    ("Corvid X-Ray", "Plume 500"),
    ("Dunlin", "Clarus"),
)
_PHYSICIANS: Final = (
    ("Wolkenstaedt^Hedwiga^^Dr.", "Pemberthwaite^Algernon^J^Prof."),
    ("Higginbottomley^Rosamunda^^Dr.", "Thistlewoodd^Cornelian"),
    ("Skjaergaardsen^Torbjornar^^Dr.", "Halvorsrudd^Ingebjorga"),
    ("Beauchampteau^Celestinne^^Dr.", "Montgolfieras^Aristidor"),
)


@dataclass(frozen=True)
class Hospital:
    """One invented hospital and its X-ray machine.

    All fields except ``key``, ``maker`` and ``model`` must be removed by de-identification.
    """

    key: str
    institution: str
    address: str
    phone: str
    ae_title: str
    maker: str
    model: str
    station: str
    serial: str
    physicians: tuple[str, str]


@dataclass(frozen=True)
class Person:
    """One invented identity; de-identification must remove every field."""

    name: str
    charset: tuple[str, ...]
    patient_id: str
    padded_id: str
    issuer: str
    birth_date: datetime.date
    phone: str
    email: str
    address: str
    social: str
    other_id: str
    mother: str
    relative: str
    first_study: datetime.date

    @property
    def family(self) -> str:
        """Family name in the first script."""
        return self.name.split("=")[0].split("^")[0]

    @property
    def given(self) -> str:
        """Given name in the first script."""
        return self.name.split("=")[0].split("^")[1]


def hospital(position: int, key: str, seed: int) -> Hospital:
    """Return the hospital at a position of the list; beyond four, the institutions have a number."""
    rng = child(seed, "hospital", key)
    institution, address, phone, title = _HOSPITALS[position % len(_HOSPITALS)]
    maker, model = _DEVICES[position % len(_DEVICES)]
    again = position // len(_HOSPITALS)
    if again:
        institution, title = f"{institution} {again + 1}", f"{title[:13]}_{again + 1}"
    return Hospital(
        key=key,
        institution=institution,
        address=address,
        phone=phone,
        ae_title=title,
        maker=maker,
        model=model,
        station=f"STN{_digits(rng, 6)}",
        serial=f"SN{_digits(rng, 9)}",
        physicians=_PHYSICIANS[position % len(_PHYSICIANS)],
    )


def person(home: Hospital, number: int, sex: str, age: int, seed: int) -> Person:
    """Return the identity of patient ``number`` of a hospital.

    The difficult cases of the cohort have fixed numbers: 0 has a PatientID that other hospitals also use, 1 a
    padded PatientID, 2 to 5 are written in other scripts.
    """
    rng = child(seed, "person", home.key, number)
    name, charset = _name(rng, number, sex)
    plain = "0000123" if number == 0 else f"{home.key[:1].upper()}{_digits(rng, 8)}"
    if number == 1:
        plain = f"{plain[:4]} {plain[4:]}"
    first = datetime.date(2015, 1, 5) + datetime.timedelta(days=int(rng.integers(0, 2500)))
    birth = first - datetime.timedelta(days=int(age * 365.25) + int(rng.integers(20, 340)))
    mother = f"{plain_letters(_pick(rng, _FAMILY))}^{plain_letters(_pick(rng, _GIVEN_F))}"
    accented = "ISO_IR 100" in charset
    street, town = _pick(rng, _STREETS), _pick(rng, _TOWNS)
    address = (
        f"{street if accented else plain_letters(street)} {int(rng.integers(2, 99))}, {_digits(rng, 5)} "
        f"{town}"
    )
    return Person(
        name=name,
        charset=charset,
        patient_id=plain,
        padded_id=f"  {plain}  " if number == 1 else plain,
        issuer=f"{home.ae_title[:6]}-MRN-{_digits(rng, 4)}",
        birth_date=birth,
        phone=f"+99 {_digits(rng, 3)} 555{_digits(rng, 5)}",
        email=f"{plain_letters(mother.split('^')[0]).lower()}{_digits(rng, 3)}@mailbox.invalid",
        address=address,
        social=f"9{_digits(rng, 2)}-{_digits(rng, 2)}-{_digits(rng, 4)}",
        other_id=f"OID{_digits(rng, 9)}",
        mother=mother,
        relative=f"{plain_letters(_pick(rng, _GIVEN_M))} {plain_letters(_pick(rng, _FAMILY))}",
        first_study=first,
    )


def _name(rng: np.random.Generator, number: int, sex: str) -> tuple[str, tuple[str, ...]]:
    """Return a DICOM person name and its character set."""
    family, given = _pick(rng, _FAMILY), _pick(rng, _GIVEN_F if sex == "F" else _GIVEN_M)
    middle, prefix = _pick(rng, _GIVEN_F + _GIVEN_M), ("Dr.", "", "Prof.")[int(rng.integers(3))]
    if 2 <= number < 2 + len(_SCRIPTS):
        return list(_SCRIPTS.values())[number - 2]
    if number % 3 == 2:
        return f"{plain_letters(family)}^{plain_letters(given)}", ()
    return f"{family}^{given}^{middle}^{prefix}".rstrip("^"), ("ISO_IR 100",)


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _digits(rng: np.random.Generator, count: int) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, count))


def plain_letters(text: str) -> str:
    """Return a text with accented letters replaced by plain ones."""
    table = {
        "ä": "ae",
        "Ä": "Ae",
        "ö": "oe",
        "ü": "ue",  # codespell:ignore ue
        "ß": "ss",
        "Å": "Aa",
        "Þ": "Th",
        "ó": "o",
        "ð": "d",
        "Ñ": "N",
        "ç": "c",
        "ã": "a",
    }
    return "".join(table.get(letter, letter) for letter in text)
