"""The origin of a run's weights: its start, the training behind it, and the lineage that is released.

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
        digest: its plain digest, which needs no key because the dataset is public.
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
    """The starting weights of a network, as far as they are known.

    Attributes:
        file: name of the file, without folders; empty for random weights.
        sha256: digest of the file.
        source: what the weights were trained on, in the user's words; not verified.
        package: package, version and licence of the file; empty for a file given by path.
        naming: the libraries between whose names the tensors were translated; empty for the network's own.
        loaded: number of tensors that were loaded.
        share: share of the weights below the head that were loaded, 0 to 1.
        fresh: tensors that kept their random values.
        unused: number of tensors of the file that were not used, without running statistics.
        unused_names: the first of these without a counterpart in the network, by their names in the file.
        other_shape: the first of these with another shape, by their names in the network.
        averaged: stems whose filters for three colours were averaged for another number of channels.
        zeroed: biases set to 0 because the layer has none in the file.
        statistics_dropped: layers whose running statistics have no place in the network.
        origin: ``random``; ``run``: a run of meninx whose patients were compared; ``unknown``: anything else.
        run: identity of that run.
        shared_patients: whether that run was trained on some of the same patients.
        composed: whether its cost is part of the stated epsilon.
        standardized: public dataset whose statistics standardised the features; empty without
            standardisation.
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
        """Return in words which part of the file was loaded into the network and which was not."""
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
        """Return a description of the network's starting weights."""
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
        shared_patients: whether it was trained on some of the same patients.
        ledgers: privacy ledgers, split at their newlines, of the private runs behind the weights that share
            patients with this one; their cost is part of this run's cost.
        caveats: what the guarantee does not cover because of the start, in words.
        features: statistics of public images by which the features are standardised; None without
            standardisation.
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
    """The origin of released weights: ``release/lineage.json``, which is distributed with the bundle.

    A copy without a ledger is in ``private/lineage.json`` from the start of the run.

    Attributes:
        run: identity of the run.
        private: trained with differential privacy.
        unit: privacy unit.
        key: name of the key behind ``data`` and ``patients`` (not the key).
        data: keyed digest of the dataset.
        patients: sorted keyed digests of the training patients (without privacy, also of the validation
            patients), padded with random ones to the declared number. The key keeps anyone without it from
            testing whether a patient took part.
        patients_known: whether the source names its patients, so that ``patients`` can be compared.
        deterministic: the noise came from the seed, so it protects nobody.
        ledger: the privacy ledger, split at its newlines, from which epsilon can be computed again.
        delta: the delta of the stated epsilon; 0 without privacy.
        parents: lineages of the starting weights.
        start: digest of the file of starting weights; empty for random weights.
        unknown_start: whether the starting weights are of unknown origin.
        statistics_of: dataset whose statistics entered the weights without privacy; empty for a run. Such a
            lineage describes a dataset: ``run`` is its digest, truncated to 32 digits.
        study: the federated study of the run. Patients of its other sites influenced the weights, too, and
            are not in ``patients``. None for a run outside a study.
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
