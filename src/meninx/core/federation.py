"""What federated training records: a site's part of a study in its run, and the study as a whole.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.summaries import FORMAT


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
        done: the site trained to the end of the round, or to the end of its time.
        loss: mean training loss of the round; None where unknown. Private.
        version: format of the record.
    """

    number: int
    model: str
    first: int
    until: int
    done: bool = False
    loss: float | None = None
    version: int = FORMAT
