"""Which coded and technical values are known to be harmless: defined terms, words of products, shapes.

A CS value stays if the standard defines it for the attribute, or if it consists of words of defined terms and
of the vocabulary. A technical text (maker, model, version, sequence, kernel, coil, ...) keeps the parts
between blanks that consist of such words, of words of products, and of short groups of letters and digits.
Everything else may be a person's name, a phone number, a date or an identifier and goes.

References:
    ``tables/defined_terms.csv`` and ``tables/product_words.csv``, written by ``tools/build_value_tables.py``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from meninx.core.value_caches import cached
from meninx.deid.profile import read_table
from meninx.deid.wording.text import CORE_WORDS

_RUNS = re.compile(r"[^\W\d_]+|[0-9]+")
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SIGNS = re.compile(r"[A-Za-z0-9 _./+*#:;,()\[\]&%^'\"=<>@|!?~-]*")
_MONTHS = (
    "jan|feb|m[aä]r|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez|janv|f[eé]v|avr|juin|juil|ao[uû]t|d[eé]c|ene|abr|"
    "ago|dic|gen|mag|giu|lug|set|ott"
)
# Days in any usual way of writing, and whatever can be dialled.
_DAYS = re.compile(
    rf"(?<![0-9a-z])(?:[0-9]{{1,2}}(?:st|nd|rd|th)?[ ./_,-]*(?:{_MONTHS})[a-z]*[ ./_,-]*(?:[0-9]{{2}}){{1,2}}"
    rf"|(?:{_MONTHS})[a-z]*[ ./_-]*[0-9]{{1,2}}(?:st|nd|rd|th)?[ ./_,-]+(?:[0-9]{{2}}){{1,2}}"
    rf"|(?:19|20)[0-9]{{2}}[ ./_-]*(?:{_MONTHS})[a-z]*[ ./_-]*[0-9]{{1,2}}"
    r"|[0-9]{1,2}[./_-][0-9]{1,2}[./_-](?:19|20)[0-9]{2}"
    r"|[0-9]{1,2}[/-][0-9]{1,2}[/-][0-9]{2}"
    r"|(?:19|20)[0-9]{2}[./_-][0-9]{1,2}[./_-][0-9]{1,2}"
    r"|(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[1-9]|[12][0-9]|3[01])(?:0[1-9]|1[0-2])(?:19|20)[0-9]{2}"
    r")(?![0-9])",
    re.IGNORECASE,
)
_SHORT_DAYS = re.compile(
    r"(?<![0-9.])(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|[12]\d|3[01])\.\d{2}(?![0-9.])", re.ASCII
)
_PHONES = re.compile(
    r"(?<![0-9.])(?:\+?\(?[0-9](?:[ ()/-]{0,3}[0-9]){6,14}(?![0-9.])"
    r"|[0-9]{3}[ ./-]?[0-9]{3,4}[ ./-]?[0-9]{4}(?![0-9]))"
)
_ADDRESSES = re.compile(r"\S*(?:@|://|\bwww\.)\S*", re.IGNORECASE)
_SEQUENCES = re.compile(
    r"\*?(?:h|fl|tfl|qfl|fm|fq|se|tse|qtse|tir|tirB|qtir|ep|epfid|epse|epir|spc|spcR|spcir|spcirR|tfi|qtfi|ci|tgse|de|"
    r"fi|fid|me|mep|r|pc|gre|swi|vibe|fldyn|b|re|rm|svs|csi|ed|ir|cv|mbep|pcasl|WIP)_?[1-4][dD]?[0-9]{0,4}[a-z]{0,3}[0-9]{0,3}"
    r"(?:[_.][0-9]{0,4}[a-z]{0,2}){0,3}|\*?ep_b[0-9]{1,4}(?:[#t][0-9]{1,3})*"
)
_VERSIONS = frozenset(
    {
        "SoftwareVersions",
        "SecondaryCaptureDeviceSoftwareVersions",
        "ApplicationVersion",
        "CodingSchemeVersion",
        "InteroperabilityVersion",
        "EXIFVersion",
    }
)
_SHAPES = {
    "PatientOrientation": re.compile(r"[APRLHF]{1,3}|(?:LE|RT|D|V|CR|CD|R|M|DI|PR){1,3}"),
    "ContextIdentifier": re.compile(r"[0-9]{1,5}"),
    "TemplateIdentifier": re.compile(r"[0-9]{1,5}"),
    "ImagedNucleus": re.compile(r"[0-9]{1,3}[A-Z][a-z]?"),
    "MIMETypeOfEncapsulatedDocument": re.compile(r"(?:application|image|text|model|video)/[a-z0-9.+-]{2,24}"),
    "SequenceName": _SEQUENCES,
    "PulseSequenceName": _SEQUENCES,
    "ImageDisplayFormat": re.compile(
        r"(?:STANDARD|ROW|COL|SLIDE|SUPERSLIDE|CUSTOM)(?:\\[0-9]{1,2}(?:,[0-9]{1,2}){0,9})?"
    ),
    "Manufacturer": re.compile(r"G\.E\.|G\. ?E\. MEDICAL SYSTEMS"),
    "ApplicableSafetyStandardDescription": re.compile(r"(?:IEC|EN|ISO)?[ ]?60601-2-33"),
}
_ETHNIC_WORDS = """
    african alaska alaskan american arab arabic asian black caribbean caucasian central chinese declined
    east eastern ethnicity european filipino group hawaiian hindu hispanic indian indigenous islander
    japanese jewish korean latin latina latino latinx maori mestizo middle mixed more multiple
    multiracial native non north not or other pacific patient race races refused romani south southeast
    specified than two unknown vietnamese western white
"""
_ETHNIC = frozenset(_ETHNIC_WORDS.split())
ETHNIC_KEYWORDS = frozenset({"EthnicGroup", "EthnicGroups"})  # free texts that an option keeps
_MOST_LONE = 2  # groups of one or two letters that are no words: initials of a name need no more


@lru_cache(maxsize=1)
def _defined() -> dict[str, frozenset[str]]:
    """Return keyword -> its defined terms; under ``*`` those of any attribute."""
    terms = {row["keyword"]: frozenset(row["terms"].split("\\")) for row in read_table("defined_terms.csv")}
    return terms


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    """Return the words of the vocabulary and of all defined terms, casefolded."""
    terms = " ".join(term for found in _defined().values() for term in found)
    return CORE_WORDS | {word.casefold() for word in _RUNS.findall(terms) if word.isalpha()}


@lru_cache(maxsize=1)
def _product_words() -> frozenset[str]:
    return _words() | {row["word"] for row in read_table("product_words.csv")}


@cached(maxsize=8192)
def is_term(value: str, keyword: str) -> bool:
    """Return whether a CS value may stay: a defined term of the attribute, or known words and few digits.

    Args:
        value: one value.
        keyword: of its attribute; empty for a private one.

    >>> is_term("HFS", "PatientPosition"), is_term("KNEE MILLER", "ContentLabel")
    (True, False)
    """
    term = value.strip(" \0")
    known = _defined()
    if not term or term in known.get(keyword, ()) or term in known["*"]:
        return True
    shape = _SHAPES.get(keyword)
    if shape is not None and shape.fullmatch(term):
        return True
    return len(term) <= 16 and _SIGNS.fullmatch(term) is not None and _is_known(term, _words(), digits=3)


@cached(maxsize=8192)
def is_harmless(text: str) -> bool:
    """Return whether a text consists of known words, units and at most three digits.

    >>> is_harmless("millimeter"), is_harmless("seen by Quentinsson")
    (True, False)
    """
    fits = len(text) <= 256 and _SIGNS.fullmatch(text) is not None and not _private_parts(text)
    return fits and _is_known(text, _product_words(), digits=3)


def technical_text(value: str, keyword: str) -> str:
    """Return what may stay of a technical text, in its order and spelling; often an empty string.

    Guarantee: every part between blanks of the result consists of words of the vocabulary, of defined terms
        or of products, and of groups of at most three letters with digits beside them; no part is a day, a
        phone number, an address, or a number of more than four digits (five in a version).

    Args:
        value: one value, decoded.
        keyword: of its attribute; empty for a private one.

    >>> technical_text("SIEMENS Quentinsson 617-555-0199", "Manufacturer")
    'SIEMENS'
    >>> technical_text("syngo MR E11", "SoftwareVersions"), technical_text("*tfl3d1_16ns", "SequenceName")
    ('syngo MR E11', '*tfl3d1_16ns')
    """
    term = value.strip(" \0")
    known = _defined()
    shape = _SHAPES.get(keyword)
    if term in known.get(keyword, ()) or (shape is not None and shape.fullmatch(term)):
        return value
    if len(term) > 1024 or keyword in ETHNIC_KEYWORDS:
        return value if all(word.casefold() in _ETHNIC for word in _RUNS.findall(term)) else ""
    version = keyword in _VERSIONS
    for pattern in (_ADDRESSES, _DAYS, _PHONES, *(() if version else (_SHORT_DAYS,))):
        term = _without(pattern, term)
    parts = [part for part in term.split() if _fits(part, shape, version=version)]
    if sum(len(run) for run in _lone(" ".join(parts))) > 2 * _MOST_LONE:
        parts = [part for part in parts if not _lone(part)]
    if sum(part.isdigit() for part in parts) > 2 or sum(map(len, filter(str.isdigit, parts))) > 5:
        parts = [part for part in parts if not part.isdigit()]
    kept = " ".join(parts)
    return value if kept == value.strip(" \0") else kept


def _without(pattern: re.Pattern[str], text: str) -> str:
    """Return a text without what a pattern finds, and without the rest of the words around it."""
    for found in reversed(list(pattern.finditer(text))):
        before, after = text[: found.start()], text[found.end() :]
        start = len(before) - len(before.split(" ")[-1])
        text = f"{before[:start]} {after[len(after.split(' ')[0]) :]}"
    return text


def _private_parts(text: str) -> bool:
    return any(pattern.search(text) for pattern in (_ADDRESSES, _DAYS, _PHONES, _SHORT_DAYS))


def _fits(part: str, shape: re.Pattern[str] | None, *, version: bool) -> bool:
    """Return whether one part between blanks of a technical text may stay."""
    if shape is not None and shape.fullmatch(part):
        return True
    if len(part) > 64 or not _SIGNS.fullmatch(part):
        return False
    runs = _RUNS.findall(part)
    digits = [run for run in runs if run.isdigit()]
    if part.strip("()[].,:;") in map(str, range(1900, 2100)):
        return False
    dashed = not any(run.isalpha() for run in runs) and "." not in part
    most = 16 if version else 6
    if dashed:
        most = 4
    if sum(map(len, digits)) > most or max(map(len, digits), default=0) > (5 if version else 4):
        return False
    loose = [run for run in runs if run.isalpha() and not _is_word(run, _product_words())]
    beside = 3 if digits else 2
    return all(len(run) <= beside for run in loose) and len(loose) <= (3 if digits else 1)


def _lone(text: str) -> list[str]:
    """Return the groups of letters that are no words and stand without digits."""
    parts = " ".join(part for part in text.split() if not any(sign.isdigit() for sign in part))
    return [run for run in _RUNS.findall(parts) if not _is_word(run, _product_words())]


def _is_known(text: str, words: frozenset[str], *, digits: int) -> bool:
    """Return whether a text consists of known words, at most two single letters and so many digits."""
    runs = _RUNS.findall(text)
    if sum(len(run) for run in runs if run.isdigit()) > digits:
        return False
    loose = [run for run in runs if run.isalpha() and not _is_word(run, words)]
    return all(len(run) == 1 and run.isascii() for run in loose) and len(loose) <= _MOST_LONE


def _is_word(run: str, words: frozenset[str]) -> bool:
    """Return whether a run of letters is a word, or several written in one (``HeadNeck``)."""
    if run.casefold() in words:
        return len(run) > 1
    parts = _CAMEL.findall(run)
    return len(parts) > 1 and all(len(part) > 2 and part.casefold() in words for part in parts)
