"""The joint cost of private runs that share patients, and what keeps a verdict on it from being better.

Two runs on the same patients spend more than either; and who publishes the better of two has used both. So
runs that share a patient, or may, are composed, and the page's verdict is that of the worst such group. The
result does not depend on the order in which folders are given.

The sites of a federated study are different hospitals. Each epsilon is about the patients of its own site, so
they are composed only where the records show a common patient, and not where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meninx.core.budget import TRAINING_STATISTICS, UNPROTECTED_START, VALIDATION_CASES, PrivacySpent
from meninx.report import formatting, privacy_account
from meninx.report.privacy_account import Bounds
from meninx.report.sources import TrainedRun

_AFFECTED = ("augment", "patch_size", "views", "cases_per_patient", "precision", "dropout")
_OUTSIDE = {  # what a run may say of itself in ``outside_guarantee`` -> in a word
    TRAINING_STATISTICS: "normalisation from patients",
    VALIDATION_CASES: "selection on patients",
    UNPROTECTED_START: "start without privacy",
}


@dataclass(frozen=True, kw_only=True)
class Cap:
    """A reason why a verdict is not better than a colour.

    Attributes:
        colour: the best colour left: amber, grey or red.
        word: in a word, for the card.
        reason: in a sentence, for the section.
        attacks: bounds on attacks fail for the same reason.
    """

    colour: str
    word: str
    reason: str
    attacks: bool = True


@dataclass(frozen=True, kw_only=True)
class Joint:
    """What a group of private runs spends together.

    Attributes:
        runs: the runs, sorted by time and name; unfinished ones count for what they spent.
        spent: from their ledgers; None when they cannot be composed or no step was taken.
        bounds: bounds on attacks; None without noise or when the noise is known.
        unit: what is protected, in a word.
        units: the largest number of units, declared or true; None when one of them is not known.
        assumed: some of the runs were taken to share patients because nothing says that they do not.
        caps: reasons why the verdict is not better.
    """

    runs: tuple[TrainedRun, ...]
    spent: PrivacySpent | None
    bounds: Bounds | None
    unit: str
    units: int | None
    assumed: bool
    caps: tuple[Cap, ...] = ()

    @property
    def names(self) -> str:
        """Names of the runs, joined."""
        return formatting.joined([run.name for run in self.runs])

    @property
    def void(self) -> bool:
        """Whether the noise of one of the runs is known, so that no bound holds."""
        return any(run.void for run in self.runs)

    @property
    def epsilon(self) -> float:
        """Joint epsilon; infinite when no bound holds."""
        return math.inf if self.spent is None or self.void else self.spent.epsilon


def groups(runs: Sequence[TrainedRun]) -> tuple[Joint, ...]:
    """Return the joint cost of every group of private runs that share patients or may, the dearest first.

    Sites of one study are in one group only if they share a patient for certain, or another run links them.

    Raises:
        PrivacyRefusal: two runs used the same secret keys.
    """
    private = sorted((run for run in runs if run.private), key=order)
    parts: list[tuple[list[TrainedRun], bool]] = []
    for run in private:
        mine, assumed = [run], False
        rest = []
        for members, is_assumed in parts:
            links = [_link(run, other) for other in members]
            if any(link != "no" for link in links):
                assumed = assumed or is_assumed or "yes" not in links
                mine += members
            else:
                rest.append((members, is_assumed))
        parts = [*rest, (mine, assumed)]
    found = [
        _joint(sorted(members, key=order), assumed, _between_sites(members, private))
        for members, assumed in parts
    ]
    return tuple(sorted(found, key=lambda item: (-item.epsilon, item.names)))


def _link(run: TrainedRun, other: TrainedRun) -> str:
    """Return :func:`shared`, and ``no`` for two sites of one study of which nothing is known."""
    link = shared(run, other)
    return "no" if link == "unknown" and run.is_beside(other) else link


def _between_sites(members: Sequence[TrainedRun], every: Sequence[TrainedRun]) -> tuple[Cap, ...]:
    """Return what there is to say of patients at several sites of a study; nothing keeps a verdict back."""
    found = []
    pairs = [(run, other) for run in members for other in every if run.is_beside(other)]
    common = sorted({_sites(*pair) for pair in pairs if pair[1] in members and shared(*pair) == "yes"})
    unknown = sorted(
        {_sites(*pair) for pair in pairs if pair[1] not in members and shared(*pair) == "unknown"}
    )
    if common:
        found.append(
            f"Sites with a common patient: {'; '.join(common)}. Such a patient spends the epsilon of both, "
            "so these sites are counted together."
        )
    if unknown:
        found.append(
            f"Whether anybody is a patient of both is not known of these sites: {'; '.join(unknown)}. Their "
            "epsilons are not added up. Somebody who is a patient of both spends both."
        )
    return tuple(Cap(colour="green", word="", reason=reason, attacks=False) for reason in found)


def _sites(run: TrainedRun, other: TrainedRun) -> str:
    names = sorted({str(item.part.site) for item in (run, other) if item.part is not None})
    study = run.part.study if run.part is not None else ""
    return f"{' and '.join(names)} (study {study})"


def order(run: TrainedRun) -> tuple[str, str, str]:
    """Return the key by which runs are listed: time, name, identity.

    Never the order in which they were given.
    """
    return (run.record.made, run.name, run.key)


def shared(left: TrainedRun, right: TrainedRun) -> str:
    """Return ``yes``, ``no`` or ``unknown``: whether two runs were trained on a common patient.

    The same dataset, a common pseudonym or a common image is a common patient. Equal identifiers of the
    source under other pseudonyms are the same people under another dataset name, or a coincidence of two
    hospitals: not known.
    """
    if _same_data(left, right):
        return "yes"
    one, two = left.members, right.members
    if one is None or two is None:
        return "unknown"
    if set(one.train) & set(two.train) or set(one.images) & set(two.images):
        return "yes"
    if not one.train or not two.train or set(one.identifiers) & set(two.identifiers):
        return "unknown"
    return "no" if left.patients_known and right.patients_known else "unknown"


def _same_data(left: TrainedRun, right: TrainedRun) -> bool:
    """Return whether two runs name the same dataset, by its digest or by the digest under the same key."""
    plain = [run.data.digest if run.data is not None else "" for run in (left, right)]
    return any(one == two != "" for one, two in (plain, (left.record.data, right.record.data)))


def affected(config: Mapping[str, Any]) -> str:
    """Return the settings under which the epsilon that an earlier version stated does not hold.

    Empty for none.
    """
    options = config.get("model_options")
    table = {**config, "dropout": _dropout(options if isinstance(options, dict) else {})}
    harmless: dict[str, tuple[Any, ...]] = {
        "augment": ([],),
        "patch_size": ([],),
        "views": (1,),
        "cases_per_patient": (0,),
        "precision": ("fp32",),
        "dropout": (0,),
    }
    found = [name for name in _AFFECTED if name in table and table[name] not in harmless[name]]
    return ", ".join(found)


def _dropout(options: Mapping[str, Any]) -> Any:
    return next((value for name, value in options.items() if "drop" in name and value), 0)


def _joint(runs: Sequence[TrainedRun], assumed: bool, remarks: tuple[Cap, ...]) -> Joint:
    accounts = [run.account for run in runs if run.account is not None]
    begun = [item for item in accounts if any(text.strip() for text in item.texts.values())]
    spent, bounds, caps = None, None, []
    kinds = {(str(item.own.unit), str(item.own.relation)) for item in begun if item.own is not None}
    if len(kinds) > 1:
        kinds_text = formatting.joined(sorted(f"{unit} ({relation})" for unit, relation in kinds))
        reason = f"The runs protect different units, {kinds_text}: no bound on all of them together is known."
        caps.append(Cap(colour="red", word="no joint bound", reason=reason))
    elif any(item.own is not None for item in begun):
        delta = max(item.own.delta for item in begun if item.own is not None)
        spent, bounds = privacy_account.together(privacy_account.joint_texts(begun), delta)
        other = {item.own.delta for item in begun if item.own is not None} - {delta}
        if other:
            reason = (
                "The runs state their epsilon at different deltas; the joint one is stated at the "
                f"largest, {delta:g}."
            )
            caps.append(Cap(colour="green", word="", reason=reason))
    numbers = [run.units for run in runs]
    units = None if None in numbers else max(number for number in numbers if number is not None)
    joint = Joint(
        runs=tuple(runs),
        spent=spent,
        bounds=None if any(run.void for run in runs) else bounds,
        unit=runs[-1].unit,
        units=units,
        assumed=assumed,
        caps=(*caps, *_caps(runs, spent, units), *remarks),
    )
    return joint


def _caps(runs: Sequence[TrainedRun], spent: PrivacySpent | None, units: int | None) -> list[Cap]:
    caps = [cap for run in runs for cap in _caps_of(run)]
    if spent is None:
        return caps
    unit = runs[-1].unit
    if units is None:
        reason = (
            f"Nobody can tell how many {unit}s were trained on, so whether delta {spent.delta:g} is "
            "small enough is not known."
        )
        caps.append(Cap(colour="amber", word="delta not judged", reason=reason, attacks=False))
    elif spent.delta > privacy_account.largest_delta(units):
        reason = (
            f"Delta {spent.delta:g} is above 1 / (10 × {units:,} {unit}s): the exception that delta "
            "allows is not rare enough."
        )
        caps.append(Cap(colour="amber", word="delta too large", reason=reason, attacks=False))
    return caps


def _caps_of(run: TrainedRun) -> list[Cap]:
    caps = []
    if run.void:
        reason = (
            f"The noise of run {run.name} came from a seed: whoever knows it can subtract the noise. No "
            "bound holds."
        )
        caps.append(Cap(colour="red", word="void, noise from a seed", reason=reason))
    if run.older:
        caps.append(_cap_of_an_older_run(run))
    if run.unknown_start:
        started = "started from weights of unknown origin: if they"
        if run.record.own_loop:
            started = "was given a network whose starting weights meninx knows nothing about: if they"
        reason = f"Run {run.name} {started} saw the same {run.unit}s, epsilon does not hold."
        caps.append(Cap(colour="amber", word="start of unknown origin", reason=reason))
    start = run.start
    if start is not None and start.shared_patients and not start.composed:
        reason = f"Run {run.name} started from a model of the same {run.unit}s whose cost is not counted."
        caps.append(Cap(colour="red", word="start not counted", reason=reason))
    return caps + _caps_outside(run)


def _caps_outside(run: TrainedRun) -> list[Cap]:
    """Return the caps for what the run itself says lies outside its guarantee."""
    caps = []
    outside = run.privacy.outside_guarantee if run.privacy is not None else ()
    for phrase, word in _OUTSIDE.items():
        reasons = [
            f"Not covered by the epsilon of run {run.name}: {item}." for item in outside if phrase in item
        ]
        caps += [Cap(colour="amber", word=word, reason=reason) for reason in reasons]
    unprotected = any(
        not item.private or item.deterministic for item in privacy_account.ancestors(run.lineage)
    )
    if unprotected and not any(UNPROTECTED_START in item for item in outside):
        reason = f"Run {run.name} started from weights {UNPROTECTED_START}: nothing is promised to them."
        caps.append(Cap(colour="amber", word=_OUTSIDE[UNPROTECTED_START], reason=reason))
    return caps


def _cap_of_an_older_run(run: TrainedRun) -> Cap:
    found = affected(run.config)
    claim = (
        f"Run {run.name} was made by an earlier version of meninx; its stated epsilon does not hold "
        "where it used "
    ) + (
        "augmentation, patches, several views, a limited number of cases per patient, dropout or bfloat16"
        if run.patients_known
        else "augmentation, patches, several views, dropout or bfloat16"
    )
    if found:
        return Cap(colour="red", word="void, earlier version", reason=f"{claim}. It used: {found}.")
    return Cap(
        colour="grey",
        word="not confirmed, earlier version",
        reason=f"{claim}. Its config names none of these.",
    )
