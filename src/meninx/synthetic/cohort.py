"""The cohort: its settings, its patients at their hospitals, and the identifiers of their visits."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Final

from meninx.core import check
from meninx.core.errors import ConfigError, expected
from meninx.core.randomness import child
from meninx.synthetic import people
from meninx.synthetic.instances import Visit, uid
from meninx.synthetic.key import Truth
from meninx.synthetic.people import FINDINGS, OLDEST, Hospital, Person, Subject, subjects


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Settings of a cohort of invented patients and of the identifiers planted in the headers.

    Attributes:
        patients: number of patients with 1 to 4 radiographs each, assigned to the hospitals in turn.
        hospitals: names of the hospitals, which are also folder names.
        seed: public seed; the same settings give the same bytes.
        size: rows and columns of a radiograph, at least 64 (burned-in text would not be legible below).
        attribute_correlation: -1 to 1; how much more often men have each finding than women, 0 for
            independent.
        prevalence: probability of each finding for a patient.
        contrast: factor of the findings' attenuation, above 0; 1 is subtle.
        disparity: 0 to 1; share by which the findings of women are fainter, so that a model finds fewer.
        ct_patients: number of patients who also have a CT series, taken from the hospitals in turn.
        ct_size: columns, rows and slices of a CT series.
        planted: plant identifiers in every kind of place in a header; False leaves only the usual attributes
            of an identified file.
        burned_in_fraction: share of the radiographs with the patient's name and birth date in the pixels.
    """

    patients: int = 60
    hospitals: tuple[str, ...] = ("north", "south", "east")
    seed: int = 0
    size: int = 128
    attribute_correlation: float = 0.0
    prevalence: float = 0.3
    contrast: float = 1.0
    disparity: float = 0.0
    ct_patients: int = 6
    ct_size: tuple[int, int, int] = (48, 48, 24)
    planted: bool = True
    burned_in_fraction: float = 0.1

    def __post_init__(self) -> None:
        check.positive(contrast=self.contrast)
        check.probability(
            prevalence=self.prevalence, burned_in_fraction=self.burned_in_fraction, disparity=self.disparity
        )
        if not -1 <= self.attribute_correlation <= 1:
            raise ConfigError(
                expected(
                    "-1 <= attribute_correlation <= 1",
                    got=self.attribute_correlation,
                    where="attribute_correlation",
                )
            )
        if (
            not self.hospitals
            or len(set(self.hospitals)) != len(self.hospitals)
            or not all(map(_plain, self.hospitals))
        ):
            raise ConfigError(
                expected(
                    "distinct hospitals named by letters, digits, - and _",
                    got=self.hospitals,
                    where="hospitals",
                )
            )
        for name, value, least in (
            ("patients", self.patients, len(self.hospitals)),
            ("size", self.size, 64),
            ("ct_patients", self.ct_patients, 0),
            ("ct_size", min(self.ct_size), 8),
        ):
            if value < least:
                raise ConfigError(expected(f"{name} of at least {least}", got=value, where=name))
        if self.ct_patients > self.patients or len(self.ct_size) != 3:
            raise ConfigError(
                expected("ct_patients <= patients and three sizes", got=self.ct_patients, where="ct_patients")
            )


def _plain(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and name.isascii()


DAYS_BETWEEN: Final = 100
PADDED: Final = 1


@dataclass(frozen=True)
class CohortMember:
    """One patient of one hospital.

    Attributes:
        number: position among the hospital's patients.
        subject: body and findings.
        home: hospital of the patient.
        who: invented identity.
    """

    number: int
    subject: Subject
    home: Hospital
    who: Person

    @property
    def key(self) -> str:
        """Key of the patient in the answer key."""
        return f"{self.home.key}/{self.number}"

    def date(self, study: int) -> datetime.date:
        """Return the date of a study; consecutive studies are a hundred days apart."""
        return self.who.first_study + datetime.timedelta(days=DAYS_BETWEEN * study)

    def truth(self, *, ct: bool) -> Truth:
        """Return the patient's row of the truth table."""
        last = study_of(len(self.subject.images) - 1)
        dates = [self.date(study).strftime("%Y%m%d") for study in range(last + 1 + int(ct))]
        found = tuple(name for name, flag in zip(FINDINGS, self.subject.has, strict=True) if flag)
        birth = self.who.birth_date.strftime("%Y%m%d")
        age = self.subject.age
        return Truth(
            self.key, self.home.key, self.who.patient_id, self.subject.sex, age, birth, tuple(dates), found
        )


def study_of(image: int) -> int:
    """Return the number of the study that an image belongs to; each study has up to two images."""
    return image // 2


def members(config: PhantomConfig) -> tuple[CohortMember, ...]:
    """Return all patients; patient i goes to hospital i modulo the number of hospitals.

    The oldest patient of the first hospital gets the age of 93 years, and the patient with the padded ID a
    second image without padding, so that both difficult cases occur in every cohort.
    """
    drawn = subjects(
        config.patients,
        config.seed,
        prevalence=config.prevalence,
        attribute_correlation=config.attribute_correlation,
    )
    count = len(config.hospitals)
    homes = [people.hospital(position, key, config.seed) for position, key in enumerate(config.hospitals)]
    oldest = max(drawn[::count], key=lambda one: one.age).index
    result = []
    for index, one in enumerate(drawn):
        home, number = homes[index % count], index // count
        if index == oldest:
            one = replace(one, age=OLDEST)
        if number == PADDED and len(one.images) < 2:
            one = replace(one, images=one.images * 2)
        who = people.person(home, number, one.sex, one.age, config.seed)
        result.append(CohortMember(number, one, home, who))
    return tuple(result)


def visit(
    member: CohortMember, seed: int, study: int, series: str, *, instance: int = 1, plain_id: bool = True
) -> Visit:
    """Return the identifiers of one instance.

    Args:
        member: the patient.
        seed: public seed of the cohort.
        study: number of the study.
        series: name of the series within the study.
        instance: number of the instance within the series.
        plain_id: False writes the PatientID with its padding, if the patient has one.
    """
    who, names = member.who, (member.home.key, member.number, study)
    rng = child(seed, "visit", *names)
    date = member.date(study)
    born = who.birth_date
    age = date.year - born.year - ((date.month, date.day) < (born.month, born.day))
    return Visit(
        home=member.home,
        who=who,
        patient=member.key,
        sex=member.subject.sex,
        age=age,
        date=date,
        time=f"{int(rng.integers(7, 19)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}",
        accession=f"{member.home.key[:2].upper()}{int(rng.integers(10**9, 10**10))}",
        study_uid=uid(seed, *names),
        series_uid=uid(seed, *names, series),
        sop_uid=uid(seed, *names, series, instance),
        frame_uid=uid(seed, *names, series, "frame"),
        patient_id=who.patient_id if plain_id else who.padded_id,
        instance_number=instance,
    )
