"""The page: sections in the order a reader needs, drawn by one template into one file."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meninx.core import names, provenance
from meninx.core.artifacts import ReleaseComparisonRecord
from meninx.report import (
    release_pareto,
    section_audit,
    section_deid,
    section_fairness,
    section_federated,
    section_limits,
    section_obfuscation,
    section_overview,
    section_privacy,
    section_utility,
)
from meninx.report.audits import Audit
from meninx.report.context import ReportContext
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.table_model import Picture, Section, Verdict
from meninx.report.verdict import verdicts

_LONG_WORD = 16  # letters that fit into the narrowest column
_BETWEEN = re.compile(r"([ -])")  # where a browser breaks lines by itself
_SEAM = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[_./:=@])(?=[^_./:=@])")
SIGNS = {"green": "✓", "amber": "!", "red": "✗", "grey": "?"}


def render(context: ReportContext) -> str:
    """Return the report as one self-contained HTML page: no script, no address outside itself."""
    reproduction, configs = section_limits.reproduction(context)
    parts = section_federated.federated(context)
    sections = (
        section_overview.overview(context),
        *([parts] if parts is not None else []),
        section_deid.deid(context),
        section_utility.utility(context),
        section_privacy.privacy(context),
        section_audit.audit(context),
        *section_obfuscation.obfuscation(context.releases, context.obfuscated_runs),
        section_fairness.fairness(context),
        section_limits.limits(context),
        reproduction,
    )
    return _drawn(
        title=context.config.title,
        date=context.date,
        banner=context.not_for_release,
        verdicts=verdicts(context),
        sections=sections,
        configs=configs,
        headline=context.headline,
        holds=_holds(context),
    )


def render_audit(name: str, audit: Audit) -> str:
    """Return the page of one audit, with the same template as a report.

    Args:
        name: of the run.
        audit: its audit.
    """
    record = audit.record
    return _drawn(
        title=f"Audit of run {name}",
        date=record.origin.made[:10] or "time not recorded",
        banner=(),
        verdicts=section_audit.line_cards(record),
        sections=section_audit.sections(audit),
        configs=(("the plan, audit/plan.toml", audit.plan),),
        headline=None,
        holds="It holds no image, no model and no value of a single person.",
    )


def render_release(found: ObfuscatedDataset, sheet: Picture | None = None) -> str:
    """Return the page of one obfuscated dataset, with the same template as a report.

    Args:
        found: the release.
        sheet: pictures that the page may show; None for none.
    """
    known = found.record.made if found.record is not None else ""
    made = known or (found.audit.released.made if found.audit is not None else "")
    shown = "images of nobody" if found.synthetic else "released images"
    held = shown if sheet is not None else "no image"
    return _drawn(
        title=f"Hidden attribute: release of {found.name}",
        date=names.printable(made)[:10] or "time not recorded",
        banner=(found.name,) if found.deterministic else (),
        verdicts=(section_obfuscation.verdict_of_release(found, anchor="part-what"),),
        sections=section_obfuscation.sections(found, sheet),
        configs=(),
        headline=None,
        holds=f"It holds {held}, no model and no value of a single person.",
    )


def render_comparison(record: ReleaseComparisonRecord, releases: Sequence[ObfuscatedDataset]) -> str:
    """Return the page of a comparison of releases, with the same template as a report.

    Args:
        record: the comparison.
        releases: what is compared.
    """
    made = max((item.audit.released.made for item in releases if item.audit is not None), default="")
    return _drawn(
        title=f"Releases that hide {record.attribute}, compared",
        date=names.printable(made)[:10] or "time not recorded",
        banner=tuple(item.name for item in releases if item.deterministic),
        verdicts=release_pareto.cards(releases),
        sections=release_pareto.sections(record),
        configs=(),
        headline=None,
        holds="It holds no image, no model and no value of a single person.",
    )


def render_sections(
    *, title: str, date: str, verdicts: Sequence[Verdict], sections: Sequence[Section], holds: str
) -> str:
    """Return a page of given cards and sections, with the same template as a report.

    Args:
        title: heading.
        date: printed above it.
        verdicts: cards that come first.
        sections: the other parts.
        holds: a sentence that says what the page holds of single persons.
    """
    return _drawn(
        title=title,
        date=date,
        banner=(),
        verdicts=verdicts,
        sections=sections,
        configs=(),
        headline=None,
        holds=holds,
    )


def _drawn(**values: object) -> str:
    """Return the template filled with values."""
    version = provenance.packages().get("meninx", "")
    return environment().get_template("report.html.j2").render(**values, version=version, signs=SIGNS)


def _holds(context: ReportContext) -> str:
    """Return what the page holds of single persons, in a sentence."""
    pictures = "pictures of training images" if context.config.contact_sheet else ""
    measured = [run.evidence.test for run in context.runs if run.evidence.test is not None]
    cases = context.config.case_plots and any(item.case_values for item in measured)
    values = "the Dice of single test cases, without their names" if cases else ""
    held = " and ".join(part for part in (pictures, values) if part)
    if held:
        return f"It holds no model, and {held}."
    return "It holds no image, no model and no value of a single person."


@functools.cache
def environment() -> Environment:
    """Return the template engine: every value is escaped.

    A name that is not given is an error, never an empty string.
    """
    engine = Environment(
        loader=PackageLoader("meninx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["breakable"] = breakable
    return engine


def breakable(text: str) -> Markup:
    """Return a text, escaped, with places where its long words may break in a narrow cell.

    >>> breakable("count_noise_multiplier <b>")
    Markup('count_<wbr>noise_<wbr>multiplier &lt;b&gt;')
    """
    words = _BETWEEN.split(text.replace(" %", "\u00a0%"))
    return Markup("").join(
        Markup("<wbr>").join(_parts(word)) if len(word) > _LONG_WORD else word for word in words
    )


def _parts(word: str) -> list[str]:
    """Return the parts of a long word: split behind marks and before capitals, else every few letters."""
    return [
        part[start : start + _LONG_WORD]
        for part in _SEAM.split(word)
        for start in range(0, len(part), _LONG_WORD)
    ]
