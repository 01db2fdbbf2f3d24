"""In words, what reviewers decided about text in pixels: the same in terminal, statement and report.

>>> counts = ReviewCounts(layouts={"accept": 2, "undecided": 1}, images={"accept": 40, "undecided": 3},
...     persons={2: 2})
>>> decided(counts)
'2 of 3 layouts decided (40 of 43 images), each by 2 persons: 2 accepted (40 images)'
>>> left(counts)
('NOT agreed on by two persons: 1 layout; its 3 images are kept out',)
"""

from __future__ import annotations

from collections.abc import Mapping

from meninx.core.summaries import ReviewCounts, number_of

UNDECIDED, NOT_REVIEWED = "undecided", "not-reviewed"
DECIDED: Mapping[str, str] = {
    "accept": "accepted",
    "redact": "with more redacted",
    "keep": "with some text kept",
    "quarantine": "kept out",
}
"""Choices of reviewers, and what was done by them."""


def decided(counts: ReviewCounts) -> str:
    """Return how many layouts were decided, by how many persons, and how."""
    layouts, images = counts.layouts, counts.images
    ways = [
        f"{layouts[choice]:,} {done} ({number_of(images.get(choice, 0), 'image')})"
        for choice, done in DECIDED.items()
        if layouts.get(choice)
    ]
    return (
        f"{sum(layouts.get(choice, 0) for choice in DECIDED):,} of "
        f"{number_of(sum(layouts.values()), 'layout')} decided "
        f"({sum(images.get(choice, 0) for choice in DECIDED):,} of "
        f"{number_of(sum(images.values()), 'image')})"
        + (f", {_persons(counts.persons)}" if counts.persons else "")
        + (f": {', '.join(ways)}" if ways else "")
    )


def _persons(persons: Mapping[int, int]) -> str:
    """Return by how many persons each layout was decided."""
    who = {
        number: f"by {number_of(number, 'person')}" if number else "by persons who are not named"
        for number in sorted(persons, reverse=True)
    }
    if len(who) == 1:
        return f"each {next(iter(who.values()))}"
    return ", ".join(f"{persons[number]:,} {words}" for number, words in who.items())


def left(counts: ReviewCounts) -> tuple[str, ...]:
    """Return what became of layouts without a decision: a sentence per kind, none if there are none."""
    found = []
    if layouts := counts.layouts.get(UNDECIDED, 0):
        images = _images(layouts, counts.images.get(UNDECIDED, 0), "kept out")
        found.append(f"NOT agreed on by two persons: {number_of(layouts, 'layout')}; {images}")
    if layouts := not_reviewed(counts):
        images = _images(layouts, counts.images.get(NOT_REVIEWED, 0), "written without anybody's decision")
        found.append(f"NOT reviewed: {number_of(layouts, 'layout')}; {images}")
    return tuple(found)


def unused(counts: ReviewCounts) -> str:
    """Return how many decisions had no effect, because no image has their layout; empty for none."""
    if not counts.unused:
        return ""
    verb = "fits" if counts.unused == 1 else "fit"
    return f"{counts.unused:,} of {number_of(counts.decisions, 'decision')} {verb} no image of this source"


def not_reviewed(counts: ReviewCounts) -> int:
    """Return how many layouts no decision is about."""
    return counts.layouts.get(NOT_REVIEWED, 0)


def _images(layouts: int, images: int, what: str) -> str:
    whose = "its" if layouts == 1 else "their"
    return f"{whose} {number_of(images, 'image')} {'is' if images == 1 else 'are'} {what}"
