"""Records of federated training: a site's part of a study in its run, and the study as a whole.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meninx.core.summaries import FORMAT

SITE_RUNS = "sites"
"""Folder of a simulated study with the runs of its sites."""
EARLIER_RUNS = "earlier"
"""Folder of a study with the records of its earlier runs, each in a folder named after the run."""


@dataclass(frozen=True, kw_only=True)
class StudyPart:
    """The federated study that a run is one site's part of; in ``run.json`` and in the lineage.

    Attributes:
        study: name of the study.
        run: identifier of the run of the study.
        site: name of the site in the study.
        sites: number of sites of the signed roster.
        digest: SHA-256 of the study's terms, which all sites approved.
        algorithm: e.g. ``fedavg``.
        aggregation: how updates were summed: ``masks``, ``shares``, ``ckks`` or ``plain``.
    """

    study: str
    run: str
    site: str
    sites: int
    digest: str = ""
    algorithm: str = "fedavg"
    aggregation: str = "plain"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """Progress of a site in the current round: ``private/round.json``.

    Attributes:
        number: of the round; its update is used in no other round.
        model: digest of the model at the start of the round.
        first: optimiser steps done when the round began.
        until: optimiser step at which the round ends.
        due: optimiser step at which it would end at a site that missed no round.
        done: whether the site trained to the end of the round, or to the end of its time.
        loss: mean training loss of the round; None if unknown. Private.
        version: format of the record.
    """

    number: int
    model: str
    first: int
    until: int
    due: int = 0
    done: bool = False
    loss: float | None = None
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One model measured on the test patients of one site.

    Attributes:
        arm: ``local`` (the site alone), ``pooled`` (all data in one place) or ``federated``.
        site: the site of the test patients.
        metric: name of the metric.
        value: its value; None if unknown.
        low: lower end of its interval over patients; None with too few patients.
        high: upper end.
        patients: number of patients measured.
        steps: optimiser steps of the run.
        epsilon: spent by the run; None without privacy.
        difference: for the federated arm of a study with baselines, the paired difference to the site's local
            model on the same resamples of patients; None elsewhere.
        difference_low: lower end of its interval; None with too few patients.
        difference_high: upper end.
    """

    arm: str
    site: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    patients: int
    steps: int
    epsilon: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ArmsRecord:
    """Results of the models of a simulated study at each site: ``arms.json`` in the coordinator's folder.

    Attributes:
        study: name of the study.
        run: identifier of the study's run.
        rows: one per arm and site.
        notes: sites that seem to have patients in common.
        version: format of the record.
    """

    study: str
    run: str
    rows: tuple[ArmResult, ...]
    notes: tuple[str, ...] = ()
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class FederatedRound:
    """One round of a study.

    Attributes:
        number: of the round, from 0.
        accepted: whether the round produced a model.
        attempts: number of attempts.
        survivors: sites whose updates are in the sum.
        missing: sites that were asked but are not in the sum.
        units: total number of units of the survivors; 0 without a sum.
        loss: mean training loss; None if unknown.
        cut: share of the weights' changes that were clipped.
        short: share of the units whose sites took fewer steps than the round has.
        opened: sites whose sum was opened, whether or not it was accepted.
        model: number of the model at the start of the round.
        error: largest rounding error of a weight of the mean through secure aggregation; None if unknown.
        unchecked: why no site was asked to recompute the sum.
        recomputed: site -> share of the sum that it recomputed.
        mismatches: sites whose recomputed sum differs.
        received: bytes of the uploads.
        seconds: duration.
        words: why the round failed.
    """

    number: int
    accepted: bool
    attempts: int
    survivors: tuple[str, ...]
    missing: tuple[str, ...] = ()
    units: int = 0
    loss: float | None = None
    cut: float = 0.0
    short: float = 0.0
    opened: tuple[str, ...] = ()
    model: int = -1
    error: float | None = None
    unchecked: str = ""
    recomputed: dict[str, float] = field(default_factory=dict)
    mismatches: tuple[str, ...] = ()
    received: int = 0
    seconds: float = 0.0
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class FederatedRecord:
    """Record of a federated study: ``federated.json`` in the coordinator's folder and in each site's run.

    Attributes:
        study: name of the study.
        run: identifier of the study's run.
        digest: SHA-256 of the terms.
        layout: SHA-256 of the layout of the common weights.
        model: SHA-256 of the last accepted common weights.
        algorithm: e.g. ``fedavg``.
        aggregation: ``masks``, ``shares``, ``ckks`` or ``plain``.
        sites: names of the sites of the signed roster.
        quorum: smallest number of sites whose sum is opened.
        colluders: number of sites that may collude with the coordinator without learning a single update;
            None if the aggregation hides nothing.
        sentence: what is covered, in words.
        finished: whether all rounds are done.
        simulated: whether all sites ran in one process on one machine.
        private: whether the sites trained with differential privacy.
        delta: the delta of every epsilon; 0 without privacy.
        epsilon: site -> final epsilon of its run according to its own ledger; None without privacy. Sites
            that did not report are absent; a site's copy contains only its own.
        largest: the largest epsilon that a site reported; None without one.
        refusals: site -> why it takes no further part; a site's copy contains only its own.
        rounds: every round.
        copy_of: site whose copy this is; empty for the coordinator's own.
        made: time, ISO 8601 in UTC.
        version: format of the record.
    """

    study: str
    run: str
    digest: str
    layout: str
    model: str
    algorithm: str
    aggregation: str
    sites: tuple[str, ...]
    quorum: int
    colluders: int | None
    sentence: str
    finished: bool
    simulated: bool = False
    private: bool = False
    delta: float = 0.0
    epsilon: dict[str, float | None] = field(default_factory=dict)
    largest: float | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    rounds: tuple[FederatedRound, ...] = ()
    copy_of: str = ""
    made: str = ""
    version: int = FORMAT

    @property
    def differing(self) -> tuple[tuple[int, int, str], ...]:
        """(earlier round, later round, site) of sums whose sites differ by this one.

        The difference of two such sums may reveal the update of that site. Consecutive sums are compared, and
        all sums that start from one model. Every opened sum counts, whether or not it was accepted.
        """
        found, of_model = [], dict[int, list[FederatedRound]]()
        before: FederatedRound | None = None
        for now in (entry for entry in self.rounds if entry.accepted or entry.opened):
            same = of_model.setdefault(now.model, []) if now.model >= 0 else []
            for one in [*(entry for entry in same if entry is not before), *([before] if before else [])]:
                sites = set(one.opened or one.survivors) ^ set(now.opened or now.survivors)
                if len(sites) == 1:
                    found.append((one.number, now.number, sites.pop()))
            same.append(now)
            before = now
        return tuple(sorted(found))
