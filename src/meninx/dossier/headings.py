"""Headings of norms: which facts speak to each, and the question that stays open for a person.

No heading is ever met by a program, and the dossier claims conformity with none. The table is
``headings.toml``; clauses are named so that a reader finds them, and their text is not repeated.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from meninx.core.dossier_records import DossierPart, Heading
from meninx.dossier.facts import every

NO_CLAIM = "The dossier claims conformity with none of these norms. It lists evidence and open questions."


@dataclass(frozen=True)
class Clause:
    """One heading.

    Attributes:
        norm: name and version of the norm.
        clause: its clause.
        title: what it asks about.
        facts: keys of the facts that speak to it.
        question: for a person.
    """

    norm: str
    clause: str
    title: str
    facts: tuple[str, ...]
    question: str


@functools.cache
def clauses() -> tuple[Clause, ...]:
    """Return all headings, in the order of the page."""
    text = (resources.files("meninx.dossier") / "headings.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    groups: dict[str, list[str]] = table["groups"]
    found = []
    for row in table["heading"]:
        names = [
            name for item in row["facts"] for name in (groups[item[1:]] if item.startswith("@") else [item])
        ]
        facts = tuple(dict.fromkeys(names))
        found.append(Clause(row["norm"], row["clause"], row["title"], facts, row["question"]))
    return tuple(found)


def mapped(parts: Sequence[DossierPart]) -> tuple[Heading, ...]:
    """Return every heading with the facts that are shown and those that are not."""
    known = {fact.key: fact.shown for fact in every(tuple(parts))}
    return tuple(
        Heading(
            norm=clause.norm,
            clause=clause.clause,
            title=clause.title,
            evidence=tuple(key for key in clause.facts if known.get(key)),
            missing=tuple(key for key in clause.facts if not known.get(key)),
            question=clause.question,
        )
        for clause in clauses()
    )
