"""Where the weights of a run come from: its start, the training behind it, and the lineage that is released.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.federation import StudyPart
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Mean and deviation of a pretrained network's features over the images of a public dataset.

    Attributes:
        dataset: short name of the dataset.
        digest: its plain digest: the dataset is public.
        images: number of images.
        mean: one number per feature, float32.
        deviation: one number per feature, float32, > 0.
    """

    dataset: str
    digest: str
    images: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StartRecord:
    """What a network started from, as far as it is known.

    Attributes:
        file: name of the file, without folders; empty for random weights.
        sha256: digest of the file.
        source: what the weights were trained on, in the user's words; not verified.
        package: package, version and licence of the file; empty when it was given as a file.
        naming: the libraries between whose names the tensors were translated; empty for the network's own.
        loaded: tensors taken over.
        share: share of the numbers below the head that were taken over, 0 to 1.
        fresh: tensors that kept their random start.
        unused: tensors of the file that fit nowhere, without running statistics.
        unused_names: the first of these that have no place in the network, by their names in the file.
        other_shape: the first of these that have another shape, by their names in the network.
        averaged: stems whose filters for three colours were averaged for another number of channels.
        zeroed: biases set to 0, because the layer has none in the file.
        statistics_dropped: layers whose running statistics have no place in the network.
        origin: ``random``; ``run``: a run of meninx whose patients were compared; ``unknown``: anything else.
        run: identity of that run.
        shared_patients: the run was trained on some of the same patients.
        composed: its cost is part of the stated epsilon.
        standardized: public dataset by whose statistics the features were standardised; empty when they were
            not.
        standardized_sha256: digest of that dataset.
        standardized_images: number of its images that were used.
    """

    file: str = ""
    sha256: str = ""
    source: str = ""
    package: str = ""
    naming: str = ""
    loaded: int = 0
    share: float = 0.0
    fresh: tuple[str, ...] = ()
    unused: int = 0
    unused_names: tuple[str, ...] = ()
    other_shape: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    statistics_dropped: int = 0
    origin: str = "random"
    run: str = ""
    shared_patients: bool = False
    composed: bool = False
    standardized: str = ""
    standardized_sha256: str = ""
    standardized_images: int = 0

    def taken_over(self) -> str:
        """Return in words which part of the file became part of the network, and which part did not."""
        names = f" ({self.naming})" if self.naming else ""
        left = [
            f"{len(self.fresh)} tensors start at random" if self.fresh else "",
            f"{self.unused} tensors of the file are not used" if self.unused else "",
            f"averaged over colours: {', '.join(self.averaged)}" if self.averaged else "",
            f"{len(self.zeroed)} biases are 0" if self.zeroed else "",
            f"without the running statistics of {self.statistics_dropped} layers"
            if self.statistics_dropped
            else "",
        ]
        parts = [f"{self.share:.1%} of the weights below the head{names}", *filter(None, left)]
        return ", ".join(parts)

    def summary(self) -> str:
        """Return in words what the network started from."""
        if not self.file:
            return "random weights" if self.origin == "random" else self.source or "weights of unknown origin"
        given = [f"described as {self.source!r}" if self.source else "", self.package]
        return ", ".join([self.file, *filter(None, given)]) + f": {self.taken_over()}"


@dataclass(frozen=True, kw_only=True)
class Ancestry:
    """Training behind the starting weights of a run: ``private/start.json``, fixed when the run is created.

    Attributes:
        sha256: digest of the file of weights.
        origin: ``run``: a run of meninx whose patients were compared with those of this run; ``unknown``:
            anything else.
        run: identity of that run.
        shared_patients: it was trained on some of the same patients.
        ledgers: privacy ledgers, split at their newlines, of the private runs behind the weights that share
            patients with this one; their cost is part of this run's.
        caveats: what the guarantee does not cover because of the start, in words.
        features: statistics of public images by which the features are standardised; None when they are not.
    """

    sha256: str = ""
    origin: str = "unknown"
    run: str = ""
    shared_patients: bool = False
    ledgers: tuple[tuple[str, ...], ...] = ()
    caveats: tuple[str, ...] = ()
    features: FeatureStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where released weights come from: ``release/lineage.json``, beside the bundle and safe to pass on.

    The same without a ledger lies in ``private/lineage.json`` from the start of the run.

    Attributes:
        run: identity of the run.
        private: trained with differential privacy.
        unit: privacy unit.
        key: name of the key behind ``data`` and ``patients`` (not the key).
        data: keyed digest of the dataset.
        patients: keyed digests of the training patients (without privacy of the validation patients, too),
            filled up with random ones to the declared number, sorted.
        patients_known: the source names its patients, so that ``patients`` can be compared.
        deterministic: noise came from the seed, so that it protects nobody.
        ledger: the privacy ledger, split at its newlines, from which epsilon can be computed again.
        delta: the delta that epsilon is stated at; 0 without privacy.
        parents: lineages of the weights it started from.
        start: digest of the file of weights that it started from; empty for random weights.
        unknown_start: it started from weights of unknown origin.
        statistics_of: dataset whose statistics went into the weights without privacy; empty for a run. Such a
            lineage stands for a dataset: ``run`` is its digest, cut to 32 digits.
        study: the federated study that the run is a part of: patients of its other sites are behind the
            weights, too, and are not in ``patients``. None for a run of its own.
        version: format of the record.
    """

    run: str
    private: bool
    unit: str = "patient"
    key: str = ""
    data: str = ""
    patients: tuple[str, ...] = ()
    patients_known: bool = True
    deterministic: bool = False
    ledger: tuple[str, ...] = ()
    delta: float = 0.0
    parents: tuple[Lineage, ...] = ()
    start: str = ""
    unknown_start: bool = False
    statistics_of: str = ""
    study: StudyPart | None = None
    version: int = FORMAT
