"""The cohort with identities: which invented person is a patient of which hospital, and each visit's identifiers."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Final

from meninx.core.randomness import child
from meninx.imaging.phantom import people
from meninx.imaging.phantom.config import PhantomConfig
from meninx.imaging.phantom.instances import Visit, uid
from meninx.imaging.phantom.key import Truth
from meninx.imaging.phantom.people import Hospital, Person
from meninx.imaging.phantom.subjects import FINDINGS, OLDEST, Subject, subjects

DAYS_BETWEEN: Final = 100
PADDED: Final = 1


@dataclass(frozen=True)
class Member:
    """One patient of one hospital.

    Attributes:
        number: position among the hospital's patients.
        subject: body and findings.
        home: the hospital.
        who: the identity.
    """

    number: int
    subject: Subject
    home: Hospital
    who: Person

    @property
    def key(self) -> str:
        """Name of the patient in the answer key."""
        return f"{self.home.key}/{self.number}"

    def date(self, study: int) -> datetime.date:
        """Return the date of a study; studies are a hundred days apart."""
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
    """Return which study of the patient an image belongs to: two images to a study."""
    return image // 2


def members(config: PhantomConfig) -> tuple[Member, ...]:
    """Return all patients; patient i goes to hospital i modulo the number of hospitals.

    The oldest of the first hospital is made 93 years old; the patient with the padded ID gets a second image,
    without padding.
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
        result.append(Member(number, one, home, who))
    return tuple(result)


def visit(
    member: Member, seed: int, study: int, series: str, *, instance: int = 1, plain_id: bool = True
) -> Visit:
    """Return the identifiers of one instance.

    Args:
        member: the patient.
        seed: public seed of the cohort.
        study: number of the study.
        series: name of the series within the study.
        instance: number of the instance within the series.
        plain_id: False writes the PatientID with its padding, where the patient has one.
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
