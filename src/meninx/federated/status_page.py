"""The page that shows a study while it runs: HTML from a status, without a server.

:func:`page` gives the page that :mod:`.status_server` serves, :func:`write_snapshot` writes it as one file:

>>> from meninx.federated.study_status import status_of
>>> html = page(status_of([]), now=0.0)
>>> "not started" in html, "<script>" in html
(True, False)

Every value is escaped by the template engine. The snapshot holds no script and no address outside itself.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from meninx.core import files, plain
from meninx.federated import event_words
from meninx.federated.study_status import (
    AttemptResult,
    RoundAttempt,
    SiteStatus,
    SiteStep,
    StudyPhase,
    StudyStatus,
)

SNAPSHOT, SNAPSHOT_JSON = "status.html", "status.json"
DASH = "–"
_TONES = {
    StudyPhase.NOT_STARTED: "grey",
    StudyPhase.WAITING: "amber",
    StudyPhase.ROUND_RUNNING: "green",
    StudyPhase.BETWEEN_ROUNDS: "green",
    StudyPhase.FINISHED: "green",
    StudyPhase.STOPPED: "grey",
    StudyPhase.FAILED: "red",
}
_LITTLE_LEFT = 0.1  # share of a privacy budget below which the card turns amber


@dataclass(frozen=True, kw_only=True)
class StatusCard:
    """One of the boxes at the top of the page.

    Attributes:
        title: what it is about.
        tone: green, amber, red or grey; the words say the same.
        value: the figure.
        detail: what the figure means.
    """

    title: str
    tone: str
    value: str
    detail: str


def page(status: StudyStatus, *, now: float, live: bool = True, problem: str = "") -> str:
    """Return the page of a status.

    Args:
        status: as the viewer may see it.
        now: seconds since 1970.
        live: for the server, with its script and style as files; otherwise one file without a script.
        problem: why the status may be out of date; empty when it is not.
    """
    style = "" if live else stylesheet()
    return (
        _environment()
        .get_template("status.html.j2")
        .render(
            status=status,
            cards=cards(status, now),
            now=now,
            live=live,
            problem=problem,
            style=style,
            policy=f"default-src 'none'; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'",
        )
    )


def write_snapshot(status: StudyStatus, folder: Path, *, now: float) -> None:
    """Write ``status.html`` and ``status.json`` into a folder, readable by the owner only.

    Args:
        status: as the owner of the folder may see it.
        folder: the study's or the site's folder.
        now: seconds since 1970.

    Raises:
        StorageError: the disk refused.
    """
    files.write_text(folder / SNAPSHOT, page(status, now=now, live=False), mode=files.PRIVATE_MODE)
    files.write_text(folder / SNAPSHOT_JSON, plain.to_json(status), mode=files.PRIVATE_MODE)


def cards(status: StudyStatus, now: float) -> list[StatusCard]:
    """Return what matters most: study, sites, time, privacy budget and refusals, in this order."""
    found = [_phase_card(status), _sites_card(status), _time_card(status, now), _budget_card(status)]
    return [*found, _refusals_card(status)]


def step(site: SiteStatus) -> str:
    """Return how far a site is in the current round, in words."""
    if site.numbers is None:
        return DASH
    if site.numbers.withdrawn:
        return "takes no further part"
    where = "" if site.up or site.numbers.step is SiteStep.IDLE else ", when last seen"
    return f"{site.numbers.step}{where}"


def epsilon(site: SiteStatus) -> str:
    """Return what is left of a site's budget, in words."""
    budget = site.numbers.budget if site.numbers else None
    if budget is None:
        return DASH
    if budget.left is None:
        return f"{budget.epsilon:.3g} spent"
    return f"{budget.left:.3g} left"


def clock(time: float, *, seconds: bool = True) -> str:
    """Return a time of the day at this machine."""
    local = _local(time)
    return local.strftime("%H:%M:%S" if seconds else "%H:%M") if local else DASH


@functools.cache
def stylesheet() -> str:
    """Return the style of the report with that of this page."""
    own = resources.files("meninx.federated") / "templates" / "status.css"
    report = resources.files("meninx.report") / "templates" / "style.css"
    return report.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")


def static_file(name: str) -> str:
    """Return the text of a file beside the template, e.g. ``status.js``."""
    return (resources.files("meninx.federated") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    engine = Environment(
        loader=PackageLoader("meninx.federated"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words: dict[str, Callable[..., str]] = {
        "size": event_words.size,
        "share": event_words.share,
        "duration": event_words.duration,
        "clock": clock,
        "day": _day,
        "iso": _iso,
        "epsilon": epsilon,
        "step": step,
        "result": _result,
        "metrics": _metrics,
    }
    engine.filters.update(words)
    return engine


def _digest(style: str) -> str:
    """Return what a content security policy calls an inline style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _phase_card(status: StudyStatus) -> StatusCard:
    value = str(status.phase)
    if status.phase is StudyPhase.ROUND_RUNNING and status.current is not None:
        value = f"round {status.current.round + 1} is running"
    detail = f"{status.rounds_accepted} of {status.rounds_planned} rounds gave a model"
    if status.viewer is not None and status.over and status.rounds_accepted < status.rounds_planned:
        detail += ", as far as this site knows"  # it hears nothing of rounds without it
    if not status.study:
        detail = "its terms are not known here"
    if status.attempts_aborted:
        detail += f"; {status.attempts_aborted} without one"
    return StatusCard(title="Study", tone=_TONES[status.phase], value=value, detail=detail)


def _sites_card(status: StudyStatus) -> StatusCard:
    up = sum(site.up for site in status.sites)
    detail = f"a round needs {status.quorum}" if status.quorum else "the quorum is not known here"
    value = f"{up} of {len(status.sites)}"
    if status.over and status.viewer is not None:
        value, detail = DASH, "the study is over"
    if status.over or not status.sites:
        tone = "grey"
    elif up < status.quorum:
        tone = "red"
    else:
        tone = "green" if up == len(status.sites) else "amber"
    return StatusCard(title="Sites connected", tone=tone, value=value, detail=detail)


def _time_card(status: StudyStatus, now: float) -> StatusCard:
    title = "Time left"
    if status.expected_end is None or status.seconds_per_round is None:
        detail = "the study is over" if status.over else "known after the first model"
        return StatusCard(title=title, tone="grey", value=DASH, detail=detail)
    each = f"a round takes {event_words.duration(status.seconds_per_round)}"
    left = status.expected_end - now
    if left < 0:
        late = f"{event_words.duration(-left)} later than expected"
        return StatusCard(title=title, tone="amber", value="late", detail=f"{late}; {each}")
    value = f"about {_roughly(left)}"
    detail = f"until {clock(status.expected_end, seconds=False)}; {each}"
    return StatusCard(title=title, tone="green", value=value, detail=detail)


def _budget_card(status: StudyStatus) -> StatusCard:
    title = "ε left"
    budgets = [(site, site.numbers.budget) for site in status.sites if site.numbers and site.numbers.budget]
    limited = [(site, budget) for site, budget in budgets if budget.left is not None and budget.limit]
    if not budgets:
        return StatusCard(title=title, tone="grey", value=DASH, detail=_asked(status))
    if not limited:
        worst = max(budget.epsilon for _, budget in budgets)
        detail = f"no limit is known here; at most {worst:.3g} is spent per patient over all runs"
        return StatusCard(title=title, tone="grey" if status.over else "amber", value=DASH, detail=detail)
    site, budget = min(limited, key=lambda pair: pair[1].left or 0.0)
    left, limit = budget.left or 0.0, budget.limit or 0.0
    low = "amber" if left > 0 else "red"
    tone = low if left < _LITTLE_LEFT * limit else "green"
    if status.over:
        tone = "grey"  # a run that ends as planned has nothing left
    where = "" if status.viewer is not None else f"at {site.name}, the lowest; "
    spent = f"{budget.epsilon:.3g} of {limit:.3g} spent per patient over all runs"
    detail = f"{where}{spent}, δ = {budget.delta:.2g}"
    return StatusCard(title=title, tone=tone, value=f"{left:.3g}", detail=detail)


def _asked(status: StudyStatus) -> str:
    """Return what the study asks, where no spending is known."""
    terms = status.terms
    if terms is None:
        return "not known here; each hospital keeps its own account"
    if not terms.private:
        return "the study asks for no differential privacy"
    where = "each hospital keeps its own account" if status.viewer is None else "nothing is spent yet"
    if terms.epsilon is None:
        return f"{where}; the study sets the noise"
    delta = "" if terms.delta is None else f" at δ = {terms.delta:.2g}"
    return f"{where}; the study asks for {terms.epsilon:.3g}{delta} per patient"


def _refusals_card(status: StudyStatus) -> StatusCard:
    known = [site.numbers for site in status.sites if site.numbers is not None]
    refused = sum(numbers.refused for numbers in known)
    differing = sum(numbers.differing for numbers in known)
    if differing:
        detail = "a site computed another sum than the coordinator published"
        return StatusCard(title="Alarms", tone="red", value=str(differing), detail=detail)
    final = any(refusal.final for numbers in known for refusal in numbers.refusals)
    detail = "reasons are below" if refused else "nothing was refused"
    if final:
        detail = "a site takes no further part; reasons are below"
    if not refused and status.viewer is not None:
        detail = "this site refused nothing"
    tone = "amber" if refused else "green"
    return StatusCard(title="Refusals", tone=tone, value=str(refused), detail=detail)


def _roughly(seconds: float) -> str:
    """Return an estimated duration: no seconds once it is minutes, no minutes once it is days."""
    if seconds < 90:
        return event_words.duration(seconds)
    unit = 60 if seconds < 86400 else 3600
    return event_words.duration(round(seconds / unit) * unit)


def _local(time: float) -> datetime.datetime | None:
    """Return a time in the time zone of this machine; None for one that no calendar holds."""
    try:
        return datetime.datetime.fromtimestamp(time).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _day(time: float) -> str:
    local = _local(time)
    return local.strftime("%d %B %Y, %H:%M:%S %Z") if local else DASH


def _iso(time: float) -> str:
    local = _local(time)
    return local.isoformat(timespec="seconds") if local else ""


def _result(attempt: RoundAttempt) -> str:
    if attempt.result is AttemptResult.ABORTED and attempt.reason is not None:
        return f"no model: {attempt.reason}"
    if attempt.result is AttemptResult.ACCEPTED:
        return "new model"
    return str(attempt.result)


def _metrics(attempt: RoundAttempt) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(attempt.metrics.items())) or DASH
