"""The page: sections in the order a reader needs, drawn by one template into one file."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from meninx.core import artifacts
from meninx.report import (
    section_deid,
    section_fairness,
    section_limits,
    section_overview,
    section_privacy,
    section_utility,
)
from meninx.report.context import ReportContext
from meninx.report.verdict import verdicts

SIGNS = {"green": "✓", "amber": "!", "red": "✗", "grey": "?"}


def render(context: ReportContext) -> str:
    """Return the report as one self-contained HTML page: no script, no address outside itself."""
    reproduction, configs = section_limits.reproduction(context)
    sections = (
        section_overview.overview(context),
        section_deid.deid(context),
        section_utility.utility(context),
        section_privacy.privacy(context),
        section_fairness.fairness(context),
        section_limits.limits(context),
        reproduction,
    )
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=context.config.title,
            date=context.date,
            version=artifacts.versions().get("meninx", ""),
            banner=context.not_for_release,
            verdicts=verdicts(context),
            signs=SIGNS,
            sections=sections,
            configs=configs,
            headline=context.headline,
        )
    )


def environment() -> Environment:
    """Return the template engine: every value is escaped.

    A name that is not given is an error, never an empty string.
    """
    return Environment(
        loader=PackageLoader("meninx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
