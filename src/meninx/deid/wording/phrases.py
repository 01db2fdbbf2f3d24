"""Free text reduced to phrases that say what the original said, or nothing.

Two things must not happen when words are taken out of a description. A name must not stay, and the rest must
not say something else: ``W/O Smith CONTRAST`` may become ``CONTRAST`` in no case. Each token is therefore
removed or retained by what it is *and* by what becomes of its neighbours:

* what states something (a negation, "with", "pre", a side, contrast) needs the tokens beside it in its
  phrase, and a statement with two halves (with and without, pre and post, in and out of phase, arterial and
  venous) needs both. Otherwise its whole phrase goes, and the next phrase if the word stands at its border.
  What follows "without contrast" may go;
* what excludes, denies or compares ("excl.", "denies", "rule out", "less than", ``<``) is such a statement as
  well. A word of this kind that cannot stay (``nongated``, ``contrastless``, "but", which is a name, too)
  takes its phrase along;
* a correction ("wrong", "cancelled", "actually") may be about any part of the text, so a text with one stays
  whole or goes; one with "should be", "says" or a word for a relative goes;
* of two halves (left and right, inspiration and expiration, upper and lower), one does not stay alone;
* a word goes with what a hyphen joins to it ("Lungs-GTV");
* a finding needs both neighbours inside its phrase;
* a word that is also a name goes beside an unknown word of letters. One that is seldom used goes as well
  where it is written like no other word of the text (``Axial CHEST foot``);
* a word that many people are called, a single letter and a bare number need both neighbours wherever these
  are;
* a number beside the name of a month or an age goes;
* a number goes with a part that it is written together with.

Tokens that stay keep what stands between them (``W/WO``, ``T1+C``, ``SpinEcho_AP``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from meninx.core.value_caches import cached
from meninx.deid.wording.joints import style_of, without_lone_brackets, written_together
from meninx.deid.wording.vocabulary import (
    AGES,
    B_VALUES,
    ENGLISH_SIDES,
    FIRST_NAMES,
    HALVES,
    LAST_NAMES,
    MEASURE,
    MONTHS,
    NAMED_NEGATIONS,
    RARE_NAMES,
    RELATIONS,
    SELDOM,
    STATED,
    STATED_OR_IN,
    Role,
    corrects,
    kind_of,
)

# Identifiers by their form, whatever their parts mean: addresses of the web, dates, initials with dots.
_IDENTIFIERS = re.compile(
    r"""
      (?<!\S)[^\s@]+@\S*
    | [^\s@]{0,64}@\S*
    | (?:https?://|www\.)\S*
    | (?<![0-9])[0-9]{4}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}(?![0-9])
    | (?<![0-9])[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ][0-9]{2,4}(?![0-9])
    | (?<![0-9])[0-9]{3}[-.][0-9]{2,3}[-.][0-9]{4}(?![0-9])
    | (?<![0-9.])[0-9]{1,2}\.[0-9]{1,2}\.(?![0-9])
    | (?<![^\W_])[^\W\d_](?:[ ]?[._-][ ]?[^\W\d_])?\.(?![0-9])(?:[ ]?[^\W\d_]\.(?![0-9]))*
    | (?<![^\W_])[^\W\d_]\.[ ]?[^\W\d_](?![^\W_])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ABBREVIATIONS = frozenset({"w.o.", "w.o", "w."})
_TOKENS_TEXT = rf"""
      (?P<without>(?<![^\W_])w[ ]?[/._\\-][ ]?o(?:ut)?(?![^\W_]))
    | (?P<phase>(?<![^\W_])in[ ]?[/&+-][ ]?out(?![^\W_]))
    | (?P<measure>{MEASURE.pattern})
    | (?P<decimal>[0-9]+(?:\.[0-9]+)+)
    | (?P<word>[^\W_]+(?:['’][^\W_]+)*)
    """
_TOKENS = re.compile(_TOKENS_TEXT, re.VERBOSE | re.IGNORECASE)
# Words and signs that state something together. Few texts have one, and none has one without a cue of these.
_CUES = (
    "than",
    "out",
    "breath",
    "<",
    ">",
    "!=",
    "=/",
    "/o",
    "/ o",
    "s/p",
    "s / p",
    "/-",
    "/ -",
    "least",
    "most",
)
_TOGETHER_TEXT = r"""
      (?P<stated>(?<![^\W_])(?:rul(?:e|es|ed|ing)[ _-]{1,2}out|r[ ]?/[ ]?o|s[ ]?/[ ]?p|at[ _]+(?:least|most)
        |(?:less|more|greater|fewer|larger|bigger|smaller)[ _]+than)(?![^\W_]))
    | (?P<breathing>(?<![^\W_])free[ _-]{1,2}breath(?:e|ing)?(?![^\W_]))
    | (?P<compared>(?<![-=])[<>]=?(?=\s*[0-9])|!=|=/=|\+[ ]?/[ ]?-
        |[\u00b1\u00ac\u2213\u2243-\u2249\u2260-\u2281])
"""
_ALL_TOKENS = re.compile(_TOGETHER_TEXT + "|" + _TOKENS_TEXT, re.VERBOSE | re.IGNORECASE)
# How a subtraction is called after its two images: (examination/series/image)-(examination/series/image).
# The number of the examination identifies a study.
_IMAGE = r"(?P<exam{0}>[0-9]{{3,6}})?(?P<image{0}>/[0-9]{{1,4}}/[0-9]{{1,4}}(?:\.\.[0-9]{{1,4}})?)"
_SUBTRACTIONS = re.compile(rf"\(?{_IMAGE.format(1)}\)[+-]\({_IMAGE.format(2)}\)")
# A letter that states something ("w", "c", "l", "r", Polish "z") glued to an initial: ``w_J.``.
_STATED_INITIALS = re.compile(r"(?:[wczlr][ ]?[_-][ ]?(?=\w)|\w[ ]?[_-][ ]?(?=[wczlr]\.))", re.IGNORECASE)
_CUT_SHORT = frozenset({"excl", "exkl", "excld", "exc", "w", "wo"})  # the dot behind them ends no phrase
_BREAKS = re.compile(r"[,;:|()\[\]{}\n\r]|\s-+\s|\.\s")
_DOTTED = re.compile(r"(?:[^\W\d_][ ]?\.[ ]?)+")
_TITLES_TEXT = "dr drs doctor prof professor mr mrs ms miss mister herr frau mme sig sra dott dra mlle"
_TITLES = frozenset(_TITLES_TEXT.split())
_MAY_BE_NAMES = frozenset({Role.WORD, Role.RARE, Role.NAME, Role.FINDING})
_NEGATED = frozenset({Role.CONTRAST, Role.FINDING, Role.RELATION, Role.LINK})
_STYLED = frozenset({Role.WORD, Role.RARE, Role.FINDING, Role.CONTRAST, Role.SIDE, Role.RELATION})
_HIGHEST_B_VALUE = 5000
_LONGEST = 64  # tokens of a phrase in which the meaning of a side or of contrast is looked for
_LETTERS = re.compile(r"[^0-9]*[^\W\d_][^0-9]*")
_DIFFUSION = re.compile(r"e?dwi|diff(?:usion)?|adc|b[0-9]{1,4}|[0-9]b")
_TRIALS = re.compile(r"(?:acrin|calgb|ecog|nrg|nsabp|rtog|swog) [0-9]{4}")
_BORN = re.compile(r"(?<![^\W_])[*\u2020] ?\Z")  # "*28": born, died
_ENDS = re.compile(r"[;|()\[\]{}\n\r]")  # what is never between the two parts of a name
_BARE_JOINS = re.compile(r"[-/+ ]")
_SEPARATOR = re.compile(r"[ -\[\]-~\n\r\t]{0,8}")
_ODD_SEPARATORS = re.compile(r"[\W_]{9}|[^ -\[\]-~\n\r\t\w]")  # what _SEPARATOR does not match
_STATEMENTS = frozenset({Role.RELATION, Role.CONTRAST, Role.SIDE, Role.DENIAL})
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*|[a-z]{0,4}[0-9]{4,}", re.IGNORECASE)
_NEEDS_NEIGHBOURS = frozenset({Role.NAME, Role.LETTER, Role.NUMBER})
_CONDITIONAL = _STATEMENTS | _NEEDS_NEIGHBOURS | {Role.LINK, Role.FINDING, Role.RARE}
_GO_ALONE = frozenset({Role.NAME, Role.LETTER, Role.FINDING, Role.RARE})  # even where everything else stays
_STATES = RELATIONS - {"pre", "post", "before", "after", "prior"}


@dataclass(slots=True)
class Phrases:
    """The tokens of one text and which of them stay.

    Attributes:
        text: the original.
        together: whether it may have words or signs that state something together ("rule out").
        words: casefolded tokens.
        spans: where they are.
        kinds: what they are.
        stays: whether each stays.
        breaks: whether a phrase ends before each token.
        ranges: the range of tokens of each token's phrase, once it was asked for.
        gone: whether the phrase that begins with a token was removed as a whole.
        styles: how the long words are written, once it was asked for.
    """

    text: str
    words: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    kinds: list[Role] = field(default_factory=list)
    stays: list[bool] = field(default_factory=list)
    breaks: list[bool] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    gone: list[bool] = field(default_factory=list)
    styles: list[str] | None = None
    together: bool = False

    def add(self, start: int, end: int, kind: Role) -> None:
        """Add the next token."""
        between = self.text[self.spans[-1][1] : start] if self.spans else ""
        if between[:1] == "." and self.words[-1] in _CUT_SHORT:
            between = between[1:]
        self.breaks.append(not self.spans or bool(_BREAKS.search(between)))
        self.words.append(self.text[start:end].casefold())
        self.spans.append((start, end))
        self.kinds.append(kind)
        self.stays.append(kind not in (Role.UNKNOWN, Role.DENIAL))
        self.gone.append(False)

    def between(self, index: int) -> str:
        """Return what stands before a token, up to the token before it."""
        return self.text[self.spans[index - 1][1] if index else 0 : self.spans[index][0]]

    def settle(self) -> None:
        """Remove tokens until every rule holds."""
        if all(self.stays) and _GO_ALONE.isdisjoint(self.kinds):
            return
        strange = Role.UNKNOWN in self.kinds
        order = [
            index
            for index, kind in enumerate(self.kinds)
            if self.stays[index] and (kind in _CONDITIONAL or (strange and kind == Role.WORD))
        ]
        stated = [
            index
            for index, kind in enumerate(self.kinds)
            if kind in _STATEMENTS or self.words[index] in STATED_OR_IN
        ]
        numbers = written_together(self.words, list(map(self.between, range(len(self.words)))))
        changed = True
        while changed:
            changed = False
            for index, other in numbers:
                if self.stays[index] and not self.stays[other]:
                    self.stays[index], changed = False, True
            numbers = numbers[::-1]
            for index in order:
                changed |= self.stays[index] and self._settle_one(index)
            order = order[::-1]  # a removal spreads to either side in one pass
            changed = (bool(stated) and self._settle_statements(stated)) or changed
        if corrects(self.words) and not all(self.stays):
            self.stays = [False] * len(self.words)

    def _settle_statements(self, stated: list[int]) -> bool:
        """Remove the phrases of statements that lost a part; return whether anything was removed."""
        gone = [index for index in stated if not self.stays[index]]
        if not gone:
            return False
        removed = False
        for index in gone:
            if self.kinds[index] in _STATEMENTS or self.words[index] in STATED:
                removed |= self._remove_phrase(index)
        for halves in HALVES:
            places = [index for index in stated if self.words[index] in halves]
            stay = [index for index in places if self.stays[index]]
            lost = {halves[self.words[index]] for index in places if not self.stays[index]}
            if lost - {halves[self.words[index]] for index in stay}:
                for index in stay:
                    removed |= self._remove_phrase(index)
        return removed

    def _remove_phrase(self, index: int) -> bool:
        """Remove the phrase of a token that states something, and the phrase that this token borders on.

        Return whether anything was removed.
        """
        start, end = self._phrase(index)
        if self.gone[start] and not (index == start or index == end - 1):
            return False
        ranges = [(start, end)]
        if index == start > 0:
            ranges.append(self._phrase(index - 1))
        if index == end - 1 and end < len(self.words):
            ranges.append(self._phrase(end))
        removed = False
        for first, last in ranges:
            if not self.gone[first]:
                self.gone[first], removed = True, True
                self.stays[first:last] = [False] * (last - first)
        return removed

    def _settle_one(self, index: int) -> bool:
        """Remove a token (its phrase, if it states something) that may not stay; return whether."""
        kind = self.kinds[index]
        if kind in _STATEMENTS:
            foreign = kind == Role.SIDE and self.words[index] not in ENGLISH_SIDES
            broken = self._is_broken(index) or (foreign and self._is_beside_a_stranger(index))
            return broken and self._remove_phrase(index)
        if kind == Role.LINK:
            goes = not (self._stays_beside(index, -1) and self._stays_beside(index, 1))
            self.stays[index] = not goes
            return goes
        goes = kind == Role.WORD and self._is_part_of_a_name(index)
        goes |= kind == Role.FINDING and self._is_cut_off(index, inside=True)
        if kind == Role.RARE or self.words[index] in RARE_NAMES:
            goes |= self._is_beside_a_stranger(index) or self._is_name(index)
            goes |= self.words[index] in SELDOM and self._is_inserted(index)
        if kind in _NEEDS_NEIGHBOURS:
            goes = self._is_cut_off(index, inside=False) or self._is_name(index)
        self.stays[index] = not goes
        return goes

    def _is_broken(self, index: int) -> bool:
        """Return whether a token that states something lost a word that it stands beside in its phrase."""
        last = index + 1 == len(self.words) or self.breaks[index + 1]
        # "Smith left kidney": in English a side stands before what it belongs to.
        alone = not last and self.words[index] in ENGLISH_SIDES and self._is_only_side(index)
        if index and not self.breaks[index] and not alone and not self._stays_beside(index, -1):
            return True
        if last or self._stays_beside(index, 1):
            return False
        return self.kinds[index] != Role.CONTRAST or not self._is_stated(index)

    def _is_only_side(self, index: int) -> bool:
        start, end = self._phrase(index)
        return end - start < _LONGEST and self.kinds[start:end].count(Role.SIDE) == 1

    def _stays_beside(self, index: int, step: int) -> bool:
        """Return whether the neighbour of a token stays, if its phrase goes on.

        A removed number is passed over: a number qualifies nothing, so "left 5512347 knee" is "left knee".
        """
        start, end = self._phrase(index)
        if step > 0 and not self.words[index][0].isalnum():
            return index + 1 < end and self.stays[index + 1]  # a sign of comparison needs its number
        needs = step > 0 and self.kinds[index] == Role.RELATION and index + 1 < end
        needs = needs and not self.words[index + 1].isdigit()  # "without MRN5512347": of what, is unknown
        index += step
        while start <= index < end and not self.stays[index] and _NUMBERS.fullmatch(self.words[index]):
            index += step
        return self.stays[index] if start <= index < end else not needs

    def _is_cut_off(self, index: int, *, inside: bool) -> bool:
        """Return whether a neighbour was removed.

        ``inside`` leaves a neighbour behind a break aside.
        """
        before = index > 0 and not (inside and self.breaks[index]) and not self.stays[index - 1]
        behind = index + 1
        last = behind == len(self.words) or (inside and self.breaks[behind])
        return before or not (last or self.stays[behind])

    def _is_beside_a_stranger(self, index: int) -> bool:
        """Return whether an unknown word of letters is beside this one: together they may be a name."""
        for other in (index - 1, index + 1):
            if not 0 <= other < len(self.words) or self.stays[other] or self.kinds[other] != Role.UNKNOWN:
                continue
            if _LETTERS.fullmatch(self.words[other]) and not _ENDS.search(self.between(max(index, other))):
                return True
        return False

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

    def _is_part_of_a_name(self, index: int) -> bool:
        """Return whether a short word begins with a capital and so does an unknown word beside it."""
        if style_of(self.text[slice(*self.spans[index])]) != "Aa" or len(self.words[index]) > 5:
            return False
        return any(
            0 <= other < len(self.words)
            and self.kinds[other] == Role.UNKNOWN
            and style_of(self.text[slice(*self.spans[other])]) == "Aa"
            and not _ENDS.search(self.between(max(index, other)))
            for other in (index - 1, index + 1)
        )

    def _is_inserted(self, index: int) -> bool:
        """Return whether a word that is also a name looks as if somebody put it into the text.

        It begins like no other long word of the text (``foot`` in ``Axial CHEST foot``), or a blank and the
        sign between the parts of a person's name are beside it.
        """
        start, end = self.spans[index]
        if self.text[max(start - 2, 0) : start] == " ^" or self.text[end : end + 2] in (" ^", "^ "):
            return True
        if not (style := style_of(self.text[start:end])):
            return False
        if self.styles is None:
            self.styles = [
                style_of(self.text[slice(*span)])
                if self.kinds[each] in _STYLED and span[1] - span[0] > 3
                else ""
                for each, span in enumerate(self.spans)
            ]
        others = {found for each, found in enumerate(self.styles) if found and each != index}
        begins = index == 0 and style == "Aa" and "a" in others  # as a sentence does
        return bool(others) and style not in others and not begins

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

    def result(self) -> str:
        """Return the tokens that stay, with what stood between neighbours; a blank or a comma marks a gap."""
        if self.spans and all(self.stays) and not _ODD_SEPARATORS.search(self.text):
            return self.text.strip()
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
                comma = ", " if _BREAKS.search(gap) else " "
                comma = "" if "".join(parts[-2:]).endswith("(") else comma
                parts.append(comma + (sign[0] if sign else ""))
            parts.append(self.text[start:end])
            last = index
            follows = self.text[end : self.spans[index + 1][0]] if index + 1 < len(self.spans) else ""
            if index + 1 < len(self.spans) and not self.stays[index + 1]:
                sign = re.match(r"[+-]+(?=\s)", follows)
                parts.append(sign[0] if sign else "")
        tail = self.text[self.spans[-1][1] :] if self.spans else ""
        if self.spans and self.stays[-1] and _SEPARATOR.fullmatch(tail):
            parts.append(tail)
        clean = "".join(parts).strip()
        return clean if _SUBTRACTIONS.search(self.text) else without_lone_brackets(clean)


def parsed(text: str) -> Phrases:
    """Return the phrases of a text with every rule applied that needs the text only."""
    phrases = Phrases(text, together=not text.isascii() or any(map(text.casefold().__contains__, _CUES)))
    at = 0
    for found in _SUBTRACTIONS.finditer(text) if ")" in text else ():
        _add_part(phrases, at, found.start())
        for number, end in (("1", found.start("exam2")), ("2", found.end("image2"))):
            if found[f"exam{number}"]:
                phrases.add(*found.span(f"exam{number}"), Role.UNKNOWN)
            start = found.start(f"image{number}")
            phrases.add(start, end if end > start else found.start("image2"), Role.MEASURE)
        at = found.end("image2")
    _add_part(phrases, at, len(text))
    _remove_numbers(phrases)
    _remove_titled(phrases)
    _remove_negations(phrases)
    phrases.settle()
    return phrases


def _add_part(phrases: Phrases, at: int, end: int) -> None:
    """Add the tokens of a part of the text, identifiers first."""
    for found in _IDENTIFIERS.finditer(phrases.text, at, end):
        if found[0].strip().casefold() in _ABBREVIATIONS or found.start() < at:
            continue
        _add_tokens(phrases, at, found.start())
        glued, start, at = _STATED_INITIALS.match(found[0]), *found.span()
        if glued:
            first = kind_of(found[0][0]) if found[0][0].casefold() in "wczlr" else Role.UNKNOWN
            phrases.add(start, start + 1, first)
            start += glued.end()
            at = start if first == Role.UNKNOWN else at
        if at > start:
            phrases.add(start, at, Role.UNKNOWN)
    _add_tokens(phrases, at, end)


def _add_tokens(phrases: Phrases, start: int, end: int) -> None:
    together = phrases.together
    for token in (_ALL_TOKENS if together else _TOKENS).finditer(phrases.text, start, end):
        if token["word"]:
            kind = kind_of(token[0])
        elif together and (token["stated"] or token["compared"]):
            kind = Role.RELATION if token[0].isascii() else Role.DENIAL
        elif together and token["breathing"]:
            kind = Role.WORD
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
        at = phrases.spans[index][0]
        dated = bool(beside & (AGES | MONTHS)) or bool(_BORN.search(phrases.text, max(at - 3, 0), at))
        named = end < len(words) and kinds[end] == Role.UNKNOWN and words[end].isalpha()
        after_cue = index > 0 and words[index - 1] in B_VALUES and kinds[index - 1] != Role.UNKNOWN
        after_cue = after_cue and all(_is_b_value(word) for word in words[index:end])
        if (after_cue or _are_b_values(words, index, end)) and not dated and not named:
            for each in range(index - after_cue, end):
                kinds[each], phrases.stays[each] = Role.MEASURE, True
        elif end - index == 1 and _TRIALS.fullmatch(" ".join(words[max(index - 1, 0) : end])):
            kinds[index], phrases.stays[index] = Role.MEASURE, True
        elif dated or not (end - index == 1 or _is_pair(phrases, index, end)):
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
            modality = phrases.text[slice(*phrases.spans[index])] == "MR"
            if phrases.kinds[each] == Role.NAME or (phrases.kinds[each] in _MAY_BE_NAMES and not modality):
                phrases.stays[each] = False


def _remove_negations(phrases: Phrases) -> None:
    """Remove negations that are also names where they negate nothing that a negation stands before.

    Their phrases go with them.
    """
    for index, word in enumerate(phrases.words):
        if word not in NAMED_NEGATIONS:
            continue
        behind = phrases.kinds[index + 1] if index + 1 < len(phrases.words) else Role.UNKNOWN
        if behind not in _NEGATED:
            phrases.kinds[index], phrases.stays[index] = Role.DENIAL, False


def _is_b_value(word: str) -> bool:
    fits = len(word) <= 2 or (int(word) % 10 == 0 and int(word) <= _HIGHEST_B_VALUE)
    return len(word) <= 4 and word == str(int(word)) and fits


def _are_b_values(words: list[str], index: int, end: int) -> bool:
    """Return whether numbers are a list of b-values behind ``DWI`` or another one: ``B0,50,400,1400``."""
    before = words[max(index - (_LONGEST if end - index > 2 else 1), 0) : index]
    if not any(_DIFFUSION.fullmatch(word) for word in before):
        return False
    values = [int(word) for word in words[index:end] if len(word) <= 4]
    return len(values) == end - index and max(values) >= 100 and all(value % 50 == 0 for value in values)


def _is_pair(phrases: Phrases, index: int, end: int) -> bool:
    """Return whether two numbers are single digits with one sign between them, as in ``2-3``."""
    digits = all(len(word) == 1 for word in phrases.words[index : index + 2])
    return end - index == 2 and digits and bool(_BARE_JOINS.fullmatch(phrases.between(index + 1)))


@cached(maxsize=4096)
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
