"""What de-identified files still tell about a patient: attributes that stay, by what they tell.

    >>> from meninx.core.artifacts import DeidRecord
    >>> record = DeidRecord(profile="research", actions={"PatientSex": {"K": 4}, "PatientID": {"Z": 4}})
    >>> [(row.title, row.stays, row.goes) for row in remaining([record]) if row.stays or row.goes]
    [('sex', 4, 0), ('names, numbers, date of birth', 0, 4)]

The actions in ``deid.json`` carry the letters of DICOM PS3.15 Annex E. K and C leave something behind, all
others nothing of the original. Attributes are sorted by their keyword and value representation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR, tag_for_keyword

from meninx.core.artifacts import DeidRecord

STAYING = ("K", "C")


@dataclass(frozen=True)
class PersonalTopic:
    """Something about a person that attributes can tell.

    Attributes:
        title: in a few words.
        pattern: matches the keywords of its attributes as a whole.
        kept: what remains of values with action K.
        cleaned: what remains of values with action C; empty where it is the same.
        vrs: value representations whose attributes belong to it, too, if no subject before it has them.
    """

    title: str
    pattern: re.Pattern[str]
    kept: str
    cleaned: str = ""
    vrs: frozenset[str] = frozenset()


@dataclass
class Remaining:
    """What stays of one subject.

    Attributes:
        title: what the attributes tell.
        what: what remains of their values, in words; empty when nothing does.
        staying: keyword -> action letter -> values, of attributes of which something stays.
        going: keyword -> action letter -> values, of the others.
    """

    title: str
    what: str = ""
    staying: dict[str, Counter[str]] = field(default_factory=dict)
    going: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def stays(self) -> int:
        """Number of values of which something stays."""
        return sum(counts[letter] for counts in self.staying.values() for letter in STAYING)

    @property
    def goes(self) -> int:
        """Number of values of which nothing stays."""
        every = sum(sum(counts.values()) for part in (self.staying, self.going) for counts in part.values())
        return every - self.stays


def _subject(title: str, pattern: str, kept: str, cleaned: str = "", *, vrs: str = "") -> PersonalTopic:
    return PersonalTopic(title, re.compile(pattern), kept, cleaned, frozenset(vrs.split()))


_CODED = re.compile(r"(Long|URN)?Code(Value|Meaning)|CodingScheme.*|MappingResource.*")  # terms of a standard
_KNOWN_WORDS = "known words of the field; all other words were removed"
_AS_WRITTEN = "as written, without the patient's own identifiers"
SUBJECTS = (
    _subject("sex", r"PatientSex(Neutered)?|SexParameters.*|Gender.*|ThirdPerson.*|.*Pronoun.*", "the value"),
    _subject("age", r"PatientAge", "exact"),
    _subject("weight", r"PatientWeight|PatientLeanBodyMass", "exact"),
    _subject("height", r"PatientSize|PatientBodyMassIndex|PatientBodySurfaceArea", "exact"),
    _subject(
        "ethnic group, origin, religion",
        r"EthnicGroup.*|PatientSpecies.*|PatientReligiousPreference|(Country|Region)OfResidence"
        r"|PatientPrimaryLanguage.*|MilitaryRank|BranchOfService",
        "the value",
    ),
    _subject(
        "pregnancy",
        r"PregnancyStatus|LastMenstrualDate",
        "the value",
        "status as it is, dates shifted",
    ),
    _subject("smoking", r"SmokingStatus", "the value"),
    _subject(
        "history and condition",
        r"AdditionalPatientHistory|MedicalAlerts|Allergies|PatientState|SpecialNeeds|Occupation|PreMedication"
        r"|.*Diagnos[ie]s.*|ReasonFor.*|Impressions",
        _AS_WRITTEN,
        _KNOWN_WORDS,
    ),
    _subject(
        "names, numbers, date of birth",
        r"Patient(Name|BirthName|MotherBirthName|Address|Tele.*|BirthDate.*|BirthTime|InsurancePlan.*)"
        r"|.*PatientID.*|OtherPatientNames|AccessionNumber|StudyID|AdmissionID|MedicalRecordLocator"
        r"|ClinicalTrialSubject.*|NameToUse|PersonNamesToUse.*",
        "as written",
        "dates of birth shifted like all others",
    ),
    _subject(
        "staff and institution",
        r".*(Physician|Operator|Observer|Person|Performer|Institution|Department|Requesting|Reviewer).*",
        _AS_WRITTEN,
        _KNOWN_WORDS,
        vrs="PN",
    ),
    _subject(
        "dates and times",
        r"TimezoneOffsetFromUTC",
        "exact",
        "shifted by whole days, by one number for all dates of a patient; intervals and times of day stay",
        vrs="DA DT TM",
    ),
    _subject(
        "device and place",
        r"StationName|.*SerialNumber|.*(Device|Detector|Gantry|Plate|Cassette|Generator)ID|DeviceUID|GPS.*"
        r"|.*Manufacturer.*|.*ModelName|.*SoftwareVersions|(Receive|Transmit)CoilName",
        "as written",
        vrs="AE",
    ),
    _subject("private and unknown attributes", r"PrivateElement|UnknownElement", "those listed as safe"),
    _subject("descriptions and other text", r"(?!)", _AS_WRITTEN, _KNOWN_WORDS, vrs="LO LT SH ST UC UT"),
)
"""In the order of the page: a keyword belongs to the first subject whose pattern it matches."""


def remaining(records: Sequence[DeidRecord]) -> list[Remaining]:
    """Return what stays of every subject over all archives, in the order of the page.

    Attributes that belong to no subject (rows, columns, UIDs, technical settings) are left out; see
    :func:`others`.
    """
    found = {subject.title: Remaining(subject.title) for subject in SUBJECTS}
    for keyword, counts in merged(record.actions for record in records).items():
        subject = subject_of(keyword)
        if subject is not None:
            mine = found[subject.title]
            (mine.staying if stays(counts) else mine.going)[keyword] = counts
    limit = max((record.max_age for record in records), default=0)
    for subject in SUBJECTS:
        found[subject.title].what = _what(subject, found[subject.title], limit)
    return list(found.values())


def others(records: Sequence[DeidRecord]) -> dict[str, Counter[str]]:
    """Return keyword -> action letter -> values of the attributes that belong to no subject."""
    every = merged(record.actions for record in records)
    return {keyword: counts for keyword, counts in every.items() if subject_of(keyword) is None}


def merged(tables: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """Return keyword -> action letter -> values, summed over archives, sorted by keyword."""
    every: dict[str, Counter[str]] = {}
    for table in tables:
        for keyword, counts in table.items():
            every.setdefault(keyword, Counter()).update(counts)
    return dict(sorted(every.items()))


def subject_of(keyword: str) -> PersonalTopic | None:
    """Return what an attribute tells about a person; None when it is technical."""
    if _CODED.fullmatch(keyword):
        return None
    vr = _vr(keyword)
    return next((item for item in SUBJECTS if item.pattern.fullmatch(keyword) or vr in item.vrs), None)


def _vr(keyword: str) -> str:
    """Return the value representation of an attribute; a guess for one that the dictionary lacks."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        return "DT" if keyword.endswith(("Date", "Time")) else "LO"
    return dictionary_VR(tag)


def stays(counts: Mapping[str, int]) -> bool:
    """Return whether something of an attribute stays in some file, by its actions."""
    return any(counts.get(letter, 0) for letter in STAYING)


def _what(subject: PersonalTopic, mine: Remaining, max_age: int) -> str:
    letters = {letter for counts in mine.staying.values() for letter in STAYING if counts[letter]}
    words = [subject.kept] if "K" in letters else []
    if "C" in letters and (subject.cleaned or subject.kept) not in words:
        words.append(subject.cleaned or subject.kept)
    if words and subject.title == "age":
        words.append(f"older than {max_age} years written as {max_age + 1}")
    return "; ".join(words)
