"""The page of a dossier: what the PDF shows, too, as one self-contained HTML file without a script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from meninx.core.dossier_records import DossierRecord, Fact, Heading
from meninx.core.findings import LINES
from meninx.dossier.facts import every, shown
from meninx.dossier.headings import NO_CLAIM

GLANCE = (
    "guarantee/epsilon",
    "guarantee/delta",
    "guarantee/unit",
    "selection/epsilon",
    "selection/candidates",
    "selection/inside",
    *(f"audit/line/{line}" for line in LINES),
    "bounds/membership/auc",
    "bounds/membership/tpr@0.01",
    "bounds/worst/1 of 10",
    "implementation/verdict",
    "implementation/control",
    "membership/verdict",
    "membership/rmia/auc",
    "membership/negative/auc",
    "membership/positive/auc",
    "deid/1/residual",
)
"""Facts that an output checker reads first."""
OPEN = "open question for a person"
NOTHING = (
    "No check of this program speaks against a release. That is no approval: read on, and see the limits."
)
DECISION = (
    "decision.json is the form for the decision: approve, approve with conditions, or refuse. Fill in a copy "
    "outside this folder and check it with: meninx verify DOSSIER --decision COPY"
)


@dataclass(frozen=True)
class DossierRow:
    """One line of a table of facts, as both documents show it.

    Attributes:
        words: what it is.
        value: its value with its interval.
        remark: how it was computed, or why it is not shown.
        source: path of its file in the dossier; empty where nothing is shown.
        shown: whether a file shows it.
    """

    words: str
    value: str
    remark: str
    source: str
    shown: bool


def row(fact: Fact) -> DossierRow:
    """Return a fact as a line."""
    source = fact.source if fact.shown else ""
    return DossierRow(fact.words, shown(fact), fact.remark, source, fact.shown)


def glance(record: DossierRecord) -> list[DossierRow]:
    """Return the lines that an output checker reads first, as far as the dossier has such facts."""
    facts = {fact.key: fact for fact in every(record.parts)}
    return [row(facts[key]) for key in GLANCE if key in facts]


def evidence_words(heading: Heading, record: DossierRecord) -> str:
    """Return the facts that speak to a heading, and those that would, in words."""
    facts = {fact.key: fact for fact in every(record.parts)}
    lines = [
        f"{facts[key].words.rstrip('?')}: {shown(facts[key])}" for key in heading.evidence if key in facts
    ]
    gone = [facts[key].words.rstrip("?") for key in heading.missing if key in facts]
    lines = lines or [OPEN]
    return "; ".join([*lines, *([f"not shown: {', '.join(gone)}"] if gone else [])])


def norms(record: DossierRecord) -> Iterator[tuple[str, list[Heading]]]:
    """Yield every norm with its headings."""
    for norm in dict.fromkeys(heading.norm for heading in record.headings):
        yield norm, [heading for heading in record.headings if heading.norm == norm]


def render(record: DossierRecord) -> str:
    """Return the page."""
    engine = Environment(
        loader=PackageLoader("meninx.dossier"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return engine.get_template("dossier.html.j2").render(
        record=record,
        glance=glance(record),
        parts=[(part, [row(fact) for fact in part.facts]) for part in record.parts],
        norms=[
            (norm, [(item, evidence_words(item, record)) for item in found]) for norm, found in norms(record)
        ],
        nothing=NOTHING,
        no_claim=NO_CLAIM,
        decision=DECISION,
    )
