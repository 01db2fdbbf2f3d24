"""Status of a study in the text format of Prometheus, version 0.0.4.

>>> from meninx.federated.events import SiteConnected
>>> from meninx.federated.study_status import status_of
>>> text = prometheus(status_of([SiteConnected(site="east")]))
>>> [line for line in text.splitlines() if line.startswith("meninx_site_up")]
['meninx_site_up{site="east"} 1']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from meninx.core import names
from meninx.federated.study_status import SiteNumbers, StudyPhase, StudyStatus

TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels: TypeAlias = Mapping[str, str]
_Sample: TypeAlias = tuple[_Labels, float | None]
_Metric: TypeAlias = tuple[str, str, str, list[_Sample]]  # name, type, help, samples


def prometheus(status: StudyStatus) -> str:
    """Return every number of a status as metrics; a number that is not known has no line.

    Names of studies and sites are labels: on one line, with backslash and quotation mark escaped.
    """
    lines: list[str] = []
    for name, kind, words, samples in _metrics(status):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [f"# HELP meninx_{name} {words}", f"# TYPE meninx_{name} {kind}"]
            lines += [f"meninx_{name}{_braces(labels)} {_number(value)}" for labels, value in known]
    return "\n".join(lines) + "\n"


def _metrics(status: StudyStatus) -> list[_Metric]:
    phases: list[_Sample] = [({"phase": phase}, phase is status.phase) for phase in StudyPhase]
    study: list[tuple[str, str, str, float | None]] = [
        ("study_rounds_planned", "gauge", "Rounds of the study.", status.rounds_planned),
        ("study_rounds_accepted_total", "counter", "Rounds that gave a model.", status.rounds_accepted),
        ("study_attempts_aborted_total", "counter", "Attempts without a model.", status.attempts_aborted),
        ("study_quorum", "gauge", "Sites that a round needs.", status.quorum),
        ("study_round_seconds", "gauge", "Seconds of a round lately.", status.seconds_per_round),
        ("study_expected_end_seconds", "gauge", "Expected end, Unix time.", status.expected_end),
        ("study_last_event_seconds", "gauge", "Time of the last event, Unix time.", status.updated),
    ]
    found: list[_Metric] = [
        ("study_info", "gauge", "Name of the study.", [({"study": status.study, "run": status.run}, 1)]),
        ("study_phase", "gauge", "1 for the phase that the study is in.", phases),
    ]
    found += [(name, kind, words, [({}, value)]) for name, kind, words, value in study]
    up: list[_Sample] = [({"site": site.name}, site.up) for site in status.sites]
    found.append(("site_up", "gauge", "1 while the site is connected.", up))
    own = [(site.name, site.numbers) for site in status.sites if site.numbers is not None]
    for name, kind, words, read in _SITE:
        found.append(
            (f"site_{name}", kind, words, [({"site": site}, read(numbers)) for site, numbers in own])
        )
    return found


def _spent(numbers: SiteNumbers) -> float | None:
    return None if numbers.budget is None else numbers.budget.epsilon


def _left(numbers: SiteNumbers) -> float | None:
    return None if numbers.budget is None else numbers.budget.left


_SITE: tuple[tuple[str, str, str, Callable[[SiteNumbers], float | None]], ...] = (
    ("sent_bytes_total", "counter", "Bytes that left the site.", lambda n: n.sent),
    ("rounds_total", "counter", "Accepted rounds with the update of the site.", lambda n: n.rounds),
    ("missed_rounds_total", "counter", "Accepted rounds without its update.", lambda n: n.missed),
    ("refusals_total", "counter", "Requests that the site refused.", lambda n: n.refused),
    ("sums_matching_total", "counter", "Sums computed again, with the same result.", lambda n: n.recomputed),
    ("sums_differing_total", "counter", "Sums computed again, with another result.", lambda n: n.differing),
    ("epsilon_spent", "gauge", "Epsilon spent per patient over all runs of the study.", _spent),
    ("epsilon_left", "gauge", "Epsilon left until the site stops, over all runs.", _left),
)
"""Name, type and help of each metric of a site, and how to read it from the numbers of the site."""


def _braces(labels: _Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    line = names.printable(value)
    return line.replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))
