"""Figures of an audit: the risk profile, members found at false accusations, and all methods on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from meninx.core.audit_records import MembershipAudit, OneRunRecord
from meninx.core.audit_summary import NO_GUARANTEE
from meninx.core.findings import GUARANTEED
from meninx.core.percentages import at_most, axis_mark, percent
from meninx.core.reconstruction_records import ReconstructionAudit
from meninx.core.risk_records import BoundPoint, BoundsRecord
from meninx.report import figures
from meninx.report.audits import Audit
from meninx.report.figures import COLOURS, INK
from meninx.report.table_model import Picture

_SHADE, _BOUND = COLOURS[4], COLOURS[3]
_ATTACKS = {"loss": COLOURS[5], "lira": COLOURS[0], "rmia": COLOURS[1]}
_NO_GUARANTEE = "no guarantee"
_LEAST = 1e-6


def risk_profile(record: BoundsRecord, name: str) -> Picture | None:
    """Return the largest success of any attack against epsilon, with the run marked; None without an axis."""
    if not record.points or not record.priors:
        return None
    prior, operating = record.priors[0], record.operating
    line = sorted([*record.points, *([operating] if operating else [])], key=_epsilon)
    epsilons = [point.epsilon for point in line]

    def draw(axes: Axes) -> None:
        vacuous = (1 + prior.kappa) / 2
        axes.axhspan(vacuous, 1.6, color=_SHADE, alpha=0.13, linewidth=0)
        axes.text(0.03, 0.97, _NO_GUARANTEE, transform=axes.transAxes, color=_SHADE, va="top", fontsize=8.5)
        for number, (model, label) in enumerate((("worst", "worst case"), ("relaxed", "relaxed"))):
            values = [max(_LEAST, getattr(point, model)[prior.name].upper) for point in line]
            colour, dash = ((_BOUND, "-"), (COLOURS[1], "--"))[number]
            axes.plot(
                [point.epsilon for point in line], values, dash, color=colour, label=label, linewidth=1.8
            )
        axes.axhline(prior.kappa, color=INK, alpha=0.6, linestyle=":", label="blind guess")
        if operating is not None:
            axes.axvline(operating.epsilon, color=INK, alpha=0.35, linewidth=0.8)
            value = operating.worst[prior.name].upper
            axes.plot([operating.epsilon], [value], "o", color=_BOUND, markersize=6)
            axes.annotate(
                f"this run\nε = {operating.epsilon:.3g}", (operating.epsilon, value), fontsize=8.5,
                xytext=(-6, -8), textcoords="offset points", ha="right", va="top",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", ylim=(prior.kappa / 2, 1.6))
        axes.set_xlim(epsilons[0], epsilons[-1] * 1.0001)
        axes.set_xlabel("epsilon (smaller protects more)")
        axes.set_ylabel(f"largest success, {prior.name}")
        _marked(axes, _EPSILON, _PERCENT)
        axes.legend(loc="lower right", fontsize=8.5)

    where = ""
    if operating is not None:
        most = at_most(operating.worst[prior.name].upper)
        where = f" This run: epsilon {operating.epsilon:.3g}, at most {most}."
    mechanism = record.mechanism
    per_case = "" if record.patient is None else ", for one case and not for a patient"
    caption = (
        f"Risk profile: no attack picks the right one of {prior.name.removeprefix('1 of ')} more often "
        f"(proven, exact{per_case}). The relaxed line is no guarantee: it holds for an attacker who does not "
        f"know the direction of the gradient. Noise is calibrated anew for each epsilon at q = "
        f"{mechanism.sample_rate:.3g}, T = "
        f"{mechanism.steps:,}, delta = {mechanism.delta:g}, {mechanism.sampler} sampling. In the shaded "
        f"region an attack may gain more than half of what guessing leaves: {_NO_GUARANTEE}."
    )
    return Picture(figures.drawn(draw, name, f"Risk profile.{where}", size=(4.6, 3.4)), caption)


def members_found(audit: MembershipAudit, name: str) -> Picture | None:
    """Return the ROC curves of the attacks with that of the guarantee, on logarithmic axes."""
    known = [item.attack for item in audit.attacks]
    curves = {attack: audit.curves[attack] for attack in known if audit.curves.get(attack)}
    if not curves:
        return None
    rates = [point.fpr for point in next(iter(curves.values()))]
    bound = dict(zip(rates, audit.curve_bound, strict=False))
    bound |= {float(fpr): most for fpr, most in audit.bound.items()} if bound else {}
    allowed = sorted(bound.items())
    lowest = min([rates[0], *(fpr for fpr, _ in allowed)])

    def draw(axes: Axes) -> None:
        for attack, points in curves.items():
            known = [point for point in points if point.tpr is not None]
            x = [point.fpr for point in known]
            colour = _colour(attack)
            axes.plot(x, [_floor(point.tpr) for point in known], color=colour, label=attack, linewidth=1.8)
            low, high = [_floor(point.low) for point in known], [_floor(point.high) for point in known]
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        if allowed:
            axes.plot(*zip(*allowed, strict=True), "--", color=_BOUND, linewidth=1.8, label="guarantee")
        axes.plot([lowest, 1], [lowest, 1], ":", color=INK, alpha=0.6, label="chance")
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1.0), ylim=(lowest / 2, 1.4))
        axes.set_xlabel("false accusations (FPR)")
        axes.set_ylabel("members found (TPR)")
        _marked(axes, _PERCENT, _PERCENT)
        axes.legend(loc="lower right", fontsize=8.5)

    first = audit.attacks[0]
    limit = (
        "no attack may lie above the dashed line. " if allowed else "nothing is guaranteed for a patient. "
    )
    caption = (
        f"Members found at false accusations, on logarithmic axes: {limit}{first.members:,} members, "
        f"{first.others:,} non-members, {audit.references} reference models; bands are 95 % intervals. Lower "
        "rates than the curves show need more non-members."
    )
    alt = "; ".join(f"{attack.attack} AUC {attack.auc:.3f}" for attack in audit.attacks)
    return Picture(
        figures.drawn(draw, name, f"ROC curves of membership attacks: {alt}.", size=(4.6, 3.4)), caption
    )


def one_axis(
    bounds: BoundsRecord | None, one_run: OneRunRecord | None, membership: MembershipAudit | None, name: str
) -> Picture | None:
    """Return bound, attacks and canaries by their area under the ROC curve; None without two of them."""
    rows: list[tuple[str, float, float, float, str]] = []
    if membership is not None:
        rows += [
            (
                f"attack {item.attack}",
                item.auc,
                item.auc_low,
                item.auc_high,
                _ATTACKS.get(item.attack, COLOURS[0]),
            )
            for item in membership.attacks
        ]
        planted, fresh = membership.positive, membership.negative
        rows.append(("control: trained on nothing", fresh.auc, fresh.auc_low, fresh.auc_high, INK))
        rows.append(("control: planted leak", planted.auc, planted.auc_low, planted.auc_high, INK))
    if one_run is not None:
        for label, audit, colour in (
            ("made-up patients", one_run.audit, COLOURS[2]),
            ("control: half the noise", one_run.control, INK),
        ):
            rows.append((label, _area(audit.mu), _area(audit.mu_low), _area(audit.mu_high), colour))
    most = bounds.membership.auc.upper if bounds is not None and bounds.membership is not None else None
    if len(rows) < 2:
        return None

    def draw(axes: Axes) -> None:
        axes.axvline(0.5, color=INK, alpha=0.5, linestyle=":", linewidth=1.0)
        if most is not None:
            axes.axvline(most, color=_BOUND, linestyle="--", linewidth=1.8)
            axes.axvspan(most, 1.02, color=_SHADE, alpha=0.1, linewidth=0)
        for place, (_, value, low, high, colour) in enumerate(rows):
            axes.plot([low, high], [place, place], color=colour, linewidth=2.0, alpha=0.7)
            axes.plot([value], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(min(0.35, *(row[2] for row in rows)), 1.02)
        axes.set_xlabel("area under the ROC curve (0.5: guessing)")

    limit = (
        f"The dashed line is the proven bound for one patient, {most:.3f} (exact). The interval of an "
        "attack or of made-up patients may reach over it, and none may lie right of it as a whole; controls "
        "may. "
        if most is not None
        else "Nothing is guaranteed for a patient, so there is no bound to draw. "
    )
    if most is not None and bounds is not None and bounds.patient is not None:
        limit = (
            f"The dashed line is the proven bound for one case, {most:.3f} (exact). An attack on a patient "
            "with several cases may lie right of it. "
        )
    caption = (
        f"Bound, attacks and audit on one axis. {limit}Intervals are 95 %; those of made-up patients are "
        "computed from mu. What attacks find is a lower limit of the risk."
    )
    alt = "; ".join(f"{label} {value:.3f} ({low:.3f} to {high:.3f})" for label, value, low, high, _ in rows)
    size = (4.6, 1.0 + 0.34 * len(rows))
    return Picture(figures.drawn(draw, name, f"Areas under the ROC curve: {alt}.", size=size), caption)


def _colour(attack: str) -> str:
    return _ATTACKS.get(attack, COLOURS[0])


def _epsilon(point: BoundPoint) -> float:
    return point.epsilon


def _area(mu: float) -> float:
    """Return the area under the ROC curve of two unit normals at a distance."""
    return NormalDist().cdf(mu / math.sqrt(2))


def _floor(share: float | None) -> float:
    """Return a share that a logarithmic axis can show."""
    return max(_LEAST, share or 0.0)


def _large(value: float, _: object = None) -> str:
    return f"{value:g}" if value < 10_000 else f"1e{round(math.log10(value))}"


_PERCENT, _EPSILON = FuncFormatter(axis_mark), FuncFormatter(_large)


def _marked(axes: Axes, across: FuncFormatter, up: FuncFormatter) -> None:
    """Put few and plain marks at logarithmic axes."""
    for side, words in ((axes.xaxis, across), (axes.yaxis, up)):
        side.set_major_locator(LogLocator(numticks=6))
        side.set_major_formatter(words)
        side.set_minor_formatter(NullFormatter())


def candidates_named(audit: ReconstructionAudit, name: str) -> Picture | None:
    """Return how often an attacker picks a patient's image out of n, with the bound; None without any."""
    own = next((level.name for level in audit.levels if level.own), "")
    found = [item for item in audit.identification if item.level == own]
    best = {
        count: max((item for item in found if item.candidates == count), key=lambda item: item.success)
        for count in sorted({item.candidates for item in found})
    }
    if not best:
        return None
    counts, points = list(best), list(best.values())

    def draw(axes: Axes) -> None:
        if any(item.bound < 1 for item in points):
            allowed = [item.bound for item in points]
            axes.plot(counts, allowed, "--", color=_BOUND, linewidth=1.8, label="guarantee")
        reached = [item.success for item in points]
        axes.plot(counts, reached, "o-", color=COLOURS[1], linewidth=1.8, label="attack")
        low, high = [_floor(item.low) for item in points], [_floor(item.high) for item in points]
        axes.fill_between(counts, low, high, color=COLOURS[1], alpha=0.15, linewidth=0)
        axes.plot(counts, [item.guess for item in points], ":", color=INK, alpha=0.6, label="blind guess")
        axes.set(xscale="log", yscale="log", ylim=(points[-1].guess / 2, 1.4))
        axes.set_xlabel("images among which the attacker chooses (n)")
        axes.set_ylabel("right choices")
        _marked(axes, FuncFormatter(lambda value, _: f"{value:,.0f}"), _PERCENT)
        axes.legend(loc="lower left", fontsize=8.5)

    trials = max(item.trials for item in points)
    caption = (
        "Which of n images was in the training? The strongest attacker of the audit, which sees every noisy "
        f"step and knows the candidates, against the guarantee and a blind guess: up to {trials:,} trials "
        "per point, the band is a 95 % interval."
    )
    alt = "; ".join(f"1 of {item.candidates:,}: {percent(item.success)}" for item in points)
    alt = f"Identification among candidates: {alt}."
    return Picture(figures.drawn(draw, name, alt, size=(4.6, 3.4)), caption)


def pictures(audit: Audit, name: str) -> Sequence[Picture]:
    """Return all figures of an audit.

    Args:
        audit: the audit.
        name: id prefix, unique on the page.
    """
    bounds, membership = audit.bounds, audit.membership
    if audit.record.line(GUARANTEED).word == NO_GUARANTEE:  # e.g. noise from a seed: no bound may be drawn
        bounds = None
        membership = None if membership is None else replace(membership, bound={}, curve_bound=())
    found = (
        candidates_named(audit.reconstruction, f"{name}rank") if audit.reconstruction is not None else None,
        risk_profile(bounds, f"{name}risk") if bounds is not None else None,
        one_axis(bounds, audit.one_run, membership, f"{name}axis"),
        members_found(membership, f"{name}roc") if membership is not None else None,
    )
    return [picture for picture in found if picture is not None]
