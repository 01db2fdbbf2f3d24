"""What federated training records: a site's part of a study in its run, and the study as a whole.

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
    """That a run is one site's part of a federated study; in ``run.json`` and in the lineage.

    Attributes:
        study: name of the study.
        run: identifier of the run of the study.
        site: name of the site in the study.
        sites: number of sites of the signed roster.
        digest: SHA-256 of the study's terms, which all sites approved.
        algorithm: e.g. ``fedavg``.
        aggregation: how updates were added up: ``masks``, ``shares``, ``ckks`` or ``plain``.
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
    """How far a site is in the round at hand: ``private/round.json``.

    Attributes:
        number: of the round: its update is part of no other round.
        model: digest of the model that the round began with.
        first: optimiser steps done when the round began.
        until: optimiser step at which the round ends.
        due: optimiser step at which it would end at a site that missed no round.
        done: the site trained to the end of the round, or to the end of its time.
        loss: mean training loss of the round; None where unknown. Private.
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
        site: whose test patients.
        metric: name of the metric.
        value: its value; None where it is not known.
        low: lower end of its interval over patients; None where there are too few for one.
        high: upper end.
        patients: patients measured.
        steps: optimiser steps of the run.
        epsilon: spent by the run; None without privacy.
        difference: paired difference to the site's own local model on the same resamples of patients, of the
            federated arm with baselines; None elsewhere.
        difference_low: lower end of its interval; None where there are too few patients for one.
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
    """What the models of a simulated study are worth at each site: ``arms.json`` in the coordinator's folder.

    Attributes:
        study: name of the study.
        run: identifier of the run of it.
        rows: one per arm and site.
        notes: which sites seem to have patients in common.
        version: format of the record.
    """

    study: str
    run: str
    rows: tuple[ArmResult, ...]
    notes: tuple[str, ...] = ()
    version: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class FederatedRound:
    """One round of a study, as its record tells it.

    Attributes:
        number: of the round, from 0.
        accepted: it gave a model.
        attempts: attempts at it.
        survivors: sites whose updates are in the sum.
        missing: sites that were asked and are not in the sum.
        units: units of the survivors together; 0 where there is no sum.
        loss: mean training loss; None where unknown.
        cut: share of the weights' changes that were cut to the clip.
        short: share of the units whose sites took fewer steps than the round has.
        opened: sites whose sum was opened, whether or not it was accepted.
        model: number of the model that the round began with.
        error: largest rounding error of a weight of the mean, by secure aggregation; None where unknown.
        unchecked: why no site was asked to compute the sum again.
        recomputed: site -> share of the sum that it computed again.
        mismatches: sites that computed another sum.
        received: bytes of the uploads.
        seconds: duration.
        words: why it failed.
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
    """What a federated study did: ``federated.json`` in the coordinator's folder, and in each site's run.

    Attributes:
        study: name of the study.
        run: identifier of the run of it.
        digest: SHA-256 of the terms.
        layout: SHA-256 of the layout of the common weights.
        model: SHA-256 of the last accepted common weights.
        algorithm: e.g. ``fedavg``.
        aggregation: ``masks``, ``shares``, ``ckks`` or ``plain``.
        sites: names of the sites of the signed roster.
        quorum: fewest sites whose sum is opened.
        colluders: sites that may collude with the coordinator without seeing a single update; None where the
            aggregation hides nothing.
        sentence: what is covered, in words.
        finished: all rounds are done.
        simulated: all sites were in one process on one machine.
        private: the sites trained with differential privacy.
        delta: the delta of every epsilon; 0 without privacy.
        epsilon: site -> epsilon of its run at the end, by its own ledger; None without privacy. Sites that
            did not report are absent, and from the copy of a site all others.
        largest: the largest epsilon that a site reported; None without one.
        refusals: site -> why it takes no further part; empty for other sites in the copy of a site.
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

        Neighbouring sums are compared, and all sums from one model. A sum that was opened counts, whether or
        not it was accepted.
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
