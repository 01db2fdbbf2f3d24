"""Free text reduced to phrases that say what the original said, or nothing.

Two things must not happen when words are taken out of a description. A name must not stay, and the rest must
not say something else: ``W/O Smith CONTRAST`` may become ``CONTRAST`` in no case. Each token is therefore
removed or retained by what it is *and* by what becomes of its neighbours:

* a negation, a "with" or a "pre" needs the token behind it; without that token the phrase goes up to the next
  break;
* a finding and a mention of contrast need both neighbours inside their phrase;
* a side needs one neighbour, or both where its phrase has two sides; its neighbours go with it;
* a word that few people are called goes beside an unknown word of letters;
* a word that is also a name, a single letter and a bare number need both neighbours wherever these are;
* a number beside the name of a month or an age goes.

Tokens that stay keep what stands between them (``W/WO``, ``T1+C``, ``SpinEcho_AP``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from meninx.deid.wording.vocabulary import (
    AGES,
    B_VALUES,
    FIRST_NAMES,
    HALVES,
    LAST_NAMES,
    MEASURE,
    MONTHS,
    RARE_NAMES,
    RELATIONS,
    Role,
    kind_of,
)

# What is an identifier by its form, whatever its parts mean: addresses of the web, dates,
# initials with dots.
_IDENTIFIERS = re.compile(
    r"""
      (?<!\S)[^\s@]+@\S*
    | [^\s@]{0,64}@\S*
    | (?:https?://|www\.)\S*
    | (?<![0-9])[0-9]{4}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}(?![0-9])
    | (?<![0-9])[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ][0-9]{2,4}(?![0-9])
    | (?<![0-9.])[0-9]{1,2}\.[0-9]{1,2}\.(?![0-9])
    | (?<![^\W_])[^\W\d_](?:[ ]?[._-][ ]?[^\W\d_])?\.(?![0-9])(?:[ ]?[^\W\d_]\.(?![0-9]))*
    | (?<![^\W_])[^\W\d_]\.[ ]?[^\W\d_](?![^\W_])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ABBREVIATIONS = frozenset({"w.o.", "w.o", "w."})
_TOKENS = re.compile(
    rf"""
      (?P<without>(?<![^\W_])w[ ]?[/._\\-][ ]?o(?:ut)?(?![^\W_]))
    | (?P<phase>(?<![^\W_])in[ ]?[/&+-][ ]?out(?![^\W_]))
    | (?P<measure>{MEASURE.pattern})
    | (?P<decimal>[0-9]+(?:\.[0-9]+)+)
    | (?P<word>[^\W_]+(?:['’][^\W_]+)*)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BREAKS = re.compile(r"[,;:|()\[\]{}\n\r]|\s-+\s|\.\s")
_DOTTED = re.compile(r"(?:[^\W\d_][ ]?\.[ ]?)+")
_TITLES_TEXT = "dr drs doctor prof professor mr mrs ms miss mister herr frau mme sig sra dott dra mlle"
_TITLES = frozenset(_TITLES_TEXT.split())
_MAY_BE_NAMES = frozenset({Role.WORD, Role.RARE, Role.NAME, Role.FINDING})
_LONGEST = 64  # tokens of a phrase in which the meaning of a side or of contrast is looked for
_LETTERS = re.compile(r"[^0-9]*[^\W\d_][^0-9]*")
_ENDS = re.compile(r"[;|()\[\]{}\n\r]")  # what is never between the two parts of a name
_BARE_JOINS = re.compile(r"[-/+ ]")
_SEPARATOR = re.compile(r"[ -\[\]-~\n\r\t]{0,8}")
_CHAIN = frozenset({Role.RELATION, Role.LINK})
_NEEDS_PHRASE = frozenset({Role.FINDING, Role.CONTRAST})
_NEEDS_NEIGHBOURS = frozenset({Role.NAME, Role.LETTER, Role.NUMBER})
_STATES = RELATIONS - {"pre", "post", "before", "after", "prior"}


@dataclass(slots=True)
class Phrases:
    """The tokens of one text and which of them stay.

    Attributes:
        text: the original.
        words: casefolded tokens.
        spans: where they are.
        kinds: what they are.
        stays: whether each stays.
        breaks: whether a phrase ends before each token.
        ranges: the range of tokens of each token's phrase, once it was asked for.
    """

    text: str
    words: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    kinds: list[Role] = field(default_factory=list)
    stays: list[bool] = field(default_factory=list)
    breaks: list[bool] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, end: int, kind: Role) -> None:
        """Add the next token."""
        between = self.text[self.spans[-1][1] : start] if self.spans else ""
        self.breaks.append(not self.spans or bool(_BREAKS.search(between)))
        self.words.append(self.text[start:end].casefold())
        self.spans.append((start, end))
        self.kinds.append(kind)
        self.stays.append(kind != Role.UNKNOWN)

    def between(self, index: int) -> str:
        """Return what stands before a token, up to the token before it."""
        return self.text[self.spans[index - 1][1] if index else 0 : self.spans[index][0]]

    def settle(self) -> None:
        """Remove tokens until every rule holds."""
        order, changed = range(len(self.words)), True
        while changed:
            changed = False
            for index in order:
                changed |= self.stays[index] and self._settle_one(index)
            order = order[::-1]  # a removal spreads to either side in one pass
            changed = changed or self._settle_pairs()

    def _settle_pairs(self) -> bool:
        """Remove what is left of a statement that has two halves; return whether anything was removed.

        "Plain and with contrast" without "plain" is another examination, wherever the halves stand.
        Sides are left out: "left chest" stays true without what was said of the right forearm.
        """
        removed = False
        for halves in HALVES:
            places = [index for index, word in enumerate(self.words) if word in halves]
            stay = [index for index in places if self.stays[index]]
            gone = {halves[self.words[index]] for index in places if not self.stays[index]}
            if gone - {halves[self.words[index]] for index in stay}:
                for index in stay:
                    self._remove_with_object(index)
                    removed = True
        return removed

    def _remove_with_object(self, index: int) -> None:
        """Remove a token and, if it says what is present or absent, what it says so of."""
        self.stays[index] = False
        each = index + 1
        while self.words[index] in RELATIONS and each < len(self.words) and not self.breaks[each]:
            if self.kinds[each] == Role.RELATION:
                return
            self.stays[each] = False
            each += 1

    def _settle_one(self, index: int) -> bool:
        """Remove a token (a phrase, if it begins with this token) that may not stay; return whether."""
        kind = self.kinds[index]
        if kind in _CHAIN:
            return self._settle_chain(index)
        if kind == Role.SIDE:
            return self._settle_side(index)
        goes = kind in _NEEDS_PHRASE and self._is_cut_off(index, inside=True)
        if kind == Role.RARE or self.words[index] in RARE_NAMES:
            goes |= self._is_beside_a_stranger(index) or self._is_name(index)
        if kind in _NEEDS_NEIGHBOURS:
            goes = self._is_cut_off(index, inside=False) or self._is_name(index)
        self.stays[index] = not goes
        return goes

    def _is_cut_off(self, index: int, *, inside: bool) -> bool:
        """Return whether a neighbour was removed.

        ``inside`` leaves a neighbour behind a break aside.
        """
        before = index > 0 and not (inside and self.breaks[index]) and not self.stays[index - 1]
        behind = index + 1
        last = behind == len(self.words) or (inside and self.breaks[behind])
        if self.kinds[index] == Role.CONTRAST and self._is_stated(index):
            last = True  # "without contrast": what follows cannot turn it round
        return before or not (last or self.stays[behind])

    def _settle_side(self, index: int) -> bool:
        """Remove a side, and the words that it may have belonged to; return whether."""
        beside = [index - 1] if not self.breaks[index] else []
        beside += [index + 1] if index + 1 < len(self.words) and not self.breaks[index + 1] else []
        gone = [each for each in beside if not self.stays[each]]
        # "Smith left knee": no other side could be meant.
        if not gone or (len(gone) < len(beside) and self._is_only_side(index)):
            return False
        self._remove_side(index)
        return True

    def _remove_side(self, index: int) -> None:
        """Remove a side and what stands beside it; a side there takes what stands beside it with it."""
        for each in range(max(index - 1, 0), min(index + 2, len(self.words))):
            stood, self.stays[each] = self.stays[each], False
            if self.kinds[each] == Role.RELATION:
                self.stays[each : self._phrase(each)[1]] = [False] * (self._phrase(each)[1] - each)
                self._remove_states(each)
            elif stood and each != index and self.kinds[each] == Role.SIDE:
                self._remove_side(each)

    def _is_beside_a_stranger(self, index: int) -> bool:
        """Return whether an unknown word of letters is beside this one: together they may be a name."""
        for other in (index - 1, index + 1):
            if not 0 <= other < len(self.words) or self.stays[other] or self.kinds[other] != Role.UNKNOWN:
                continue
            if _LETTERS.fullmatch(self.words[other]) and not _ENDS.search(self.between(max(index, other))):
                return True
        return False

    def _is_only_side(self, index: int) -> bool:
        start, end = self._phrase(index)
        return end - start < _LONGEST and self.kinds[start:end].count(Role.SIDE) == 1

    def _phrase(self, index: int) -> tuple[int, int]:
        """Return the range of the tokens between two breaks."""
        if len(self.ranges) != len(self.words):
            first = [each for each, breaks in enumerate(self.breaks) if breaks]
            pairs = pairwise([*first, len(self.words)])
            self.ranges = [pair for pair in pairs for _ in range(*pair)]
        return self.ranges[index]

    def _is_stated(self, index: int) -> bool:
        for _ in range(min(index, _LONGEST)):
            if self.breaks[index] or not self.stays[index - 1]:
                return False
            index -= 1
            if self.words[index] in _STATES:
                return True
            if self.kinds[index] not in (Role.CONTRAST, Role.LINK, Role.RELATION):
                return False
        return False

    def _is_name(self, index: int) -> bool:
        """Return whether a word is beside another one with which it makes a person's name."""
        word = self.words[index]
        for other in (index - 1, index + 1):
            if not 0 <= other < len(self.words) or not self.stays[other]:
                continue
            beside = self.words[other]
            initial = self.kinds[other] == Role.LETTER
            if (initial and word in RARE_NAMES) or (
                self.kinds[index] == Role.LETTER and beside in RARE_NAMES
            ):
                return True
            if word in LAST_NAMES and (beside in FIRST_NAMES or initial):
                return True
            if (word in FIRST_NAMES or self.kinds[index] == Role.LETTER) and beside in LAST_NAMES:
                return True
        return False

    def _settle_chain(self, index: int) -> bool:
        """Remove a chain (``with and without``) that lost its object, and the rest of the phrase."""
        if index > 0 and not self.breaks[index] and self.kinds[index - 1] in _CHAIN and self.stays[index - 1]:
            return False  # the first token of the chain decides
        end = index + 1
        while end < len(self.words) and not self.breaks[end] and self.kinds[end] in _CHAIN:
            end += 1
        alone = end == len(self.words) or self.breaks[end]
        before_is_gone = index > 0 and not self.breaks[index] and not self.stays[index - 1]
        whole = all(self.stays[index:end])
        states = any(self.kinds[each] == Role.RELATION for each in range(index, end))
        lost = before_is_gone if alone else not self.stays[end]
        if whole and not lost and (states or not before_is_gone):
            return False
        while states and end < len(self.words) and not self.breaks[end] and self.kinds[end] != Role.RELATION:
            end += 1
        stated = any(word in _STATES for word in self.words[index:end])
        self.stays[index:end] = [False] * (end - index)
        if stated:
            self._remove_states(index)
        return True

    def _remove_states(self, index: int) -> None:
        """Remove what else a phrase says of contrast and the like: half of "without, then with" is wrong."""
        start, end = self._phrase(index)
        stated = False
        for each in range(start, end):
            stated |= self.words[each] in _STATES
            if stated or self.kinds[each] == Role.CONTRAST:
                self.stays[each] = False

    def result(self) -> str:
        """Return the tokens that stay, with what stood between neighbours; a blank or a comma marks a gap."""
        parts: list[str] = []
        last = -1
        for index, (start, end) in enumerate(self.spans):
            if not self.stays[index]:
                continue
            between = self.between(index)
            if index == 0 or self.stays[index - 1]:
                parts.append(between if _SEPARATOR.fullmatch(between) else " ")
            else:
                sign = re.search(r"(?:^|(?<=\s))[+-]+$", between)
                gap = self.text[self.spans[last][1] : start] if last >= 0 else ""
                parts.append((", " if _BREAKS.search(gap) else " ") + (sign[0] if sign else ""))
            parts.append(self.text[start:end])
            last = index
            follows = self.text[end : self.spans[index + 1][0]] if index + 1 < len(self.spans) else ""
            if index + 1 < len(self.spans) and not self.stays[index + 1]:
                sign = re.match(r"[+-]+(?=\s)", follows)
                parts.append(sign[0] if sign else "")
        tail = self.text[self.spans[-1][1] :] if self.spans else ""
        if self.spans and self.stays[-1] and _SEPARATOR.fullmatch(tail):
            parts.append(tail)
        return "".join(parts).strip()


def parsed(text: str) -> Phrases:
    """Return the phrases of a text with every rule applied that needs the text only."""
    phrases = Phrases(text)
    at = 0
    for found in _IDENTIFIERS.finditer(text):
        if found[0].strip().casefold() in _ABBREVIATIONS or found.start() < at:
            continue
        _add_tokens(phrases, at, found.start())
        phrases.add(*found.span(), Role.UNKNOWN)
        at = found.end()
    _add_tokens(phrases, at, len(text))
    _remove_numbers(phrases)
    _remove_titled(phrases)
    phrases.settle()
    return phrases


def _add_tokens(phrases: Phrases, start: int, end: int) -> None:
    for token in _TOKENS.finditer(phrases.text, start, end):
        if token["word"]:
            kind = kind_of(token[0])
        elif token["without"]:
            kind = Role.RELATION
        elif token["phase"]:
            kind = Role.WORD
        else:
            kind = Role.MEASURE if token["measure"] and token[0].isascii() else Role.UNKNOWN
        phrases.add(*token.span(), kind)


def _remove_numbers(phrases: Phrases) -> None:
    """Remove bare numbers that may be part of a date, an age, a phone number or an address."""
    words, kinds = phrases.words, phrases.kinds
    numeric = [kinds[i] == Role.NUMBER or word.isdigit() for i, word in enumerate(words)]
    index = 0
    while index < len(words):
        if not numeric[index]:
            index += 1
            continue
        end = index + 1
        while end < len(words) and numeric[end]:
            end += 1
        beside = {*words[max(index - 1, 0) : index], *words[end : end + 1]}
        after_cue = index > 0 and words[index - 1] in B_VALUES and kinds[index - 1] != Role.UNKNOWN
        if after_cue and all(_is_b_value(word) for word in words[index:end]):
            for each in range(index - 1, end):
                kinds[each], phrases.stays[each] = Role.MEASURE, True
        elif beside & (AGES | MONTHS) or not (end - index == 1 or _is_pair(phrases, index, end)):
            phrases.stays[index:end] = [False] * (end - index)
            for each in (index - 1, end):
                if 0 <= each < len(words) and words[each] in MONTHS:
                    phrases.stays[each] = False
        index = end


def _remove_titled(phrases: Phrases) -> None:
    """Remove words behind a title, and words beside an initial with a dot."""
    for index, word in enumerate(phrases.words):
        dotted = phrases.kinds[index] == Role.UNKNOWN and _DOTTED.fullmatch(word)
        beside = [index - 1, index + 1] if dotted else []
        if word in _TITLES:
            beside = [index + 1]
        for each in beside:
            if not 0 <= each < len(phrases.words) or not phrases.words[each].isalpha():
                continue
            if phrases.kinds[each] in _MAY_BE_NAMES:
                phrases.stays[each] = False


def _is_b_value(word: str) -> bool:
    return len(word) <= 4 and word == str(int(word)) and (len(word) <= 2 or int(word) % 10 == 0)


def _is_pair(phrases: Phrases, index: int, end: int) -> bool:
    """Return whether two numbers are single digits with one sign between them, as in ``2-3``."""
    digits = all(len(word) == 1 for word in phrases.words[index : index + 2])
    return end - index == 2 and digits and bool(_BARE_JOINS.fullmatch(phrases.between(index + 1)))


@lru_cache(maxsize=4096)
def _reduced(text: str) -> tuple[str, bool]:
    clean = parsed(text).result()
    return clean, clean == text.strip()


def reduce_text(
    text: str,
    keyed: Callable[[str], str] | None,
    limit: int | None,
    identifies: Callable[[str], bool] | None,
) -> str:
    """Return what is harmless of a text; see :func:`meninx.deid.wording.text.clean_text`."""
    clean, whole = _reduced(text)
    named = identifies is not None and identifies(clean)
    if not named and (limit is None or len(clean) <= limit) and (whole or keyed is None):
        return clean
    suffix = "#" + keyed(text.strip()) if keyed is not None and text.strip() else ""
    room = len(text) if limit is None else limit - len(suffix) - bool(suffix)
    if named or len(clean) > room:
        clean = _shorter(text, room, identifies)
    return f"{clean} {suffix}".strip()


def _shorter(text: str, room: int, identifies: Callable[[str], bool] | None) -> str:
    """Return the text without words that hold an identifier, cut to ``room`` characters by whole phrases."""
    phrases = parsed(text)
    if identifies is not None:
        for index, (start, end) in enumerate(phrases.spans):
            phrases.stays[index] = phrases.stays[index] and not identifies(text[start:end])
        phrases.settle()
        if identifies(phrases.result()):
            return ""
    while len(phrases.result()) > room:
        last = max(index for index, stays in enumerate(phrases.stays) if stays)
        phrases.stays[last] = False
        phrases.settle()
    return phrases.result()
