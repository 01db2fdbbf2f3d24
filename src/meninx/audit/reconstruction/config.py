"""Settings of ``meninx audit reconstruct``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from meninx.core.errors import ConfigError, expected
from meninx.core.setting_types import Count, CountOrZero, Device, NonNegative, OpenShare
from meninx.core.settings import Settings

MOST_EXPONENT = 18
"""Of ten, of an epsilon for which noise is calibrated."""
Pictures = Literal["synthetic", "none", "patients-may-leave"]
QUICK, ALL = "quick", "all"
QUICK_ATTACKS = ("imprint-whitened", "cumulative", "readout")
"""The strongest under noise, that of earlier work, and one that needs no malicious server."""
OWN_ATTACKS = (
    "imprint-whitened", "imprint-pca", "imprint-centred", "imprint-raw", "cumulative", "trap",
    "cumulative-input", "readout", "matching",
)  # fmt: skip
"""Names of the attacks of meninx, which :mod:`meninx.audit.reconstruction.attacks` defines."""


def names_of(words: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the attacks that settings ask for, each once.

    >>> names_of(["quick", "trap", "readout"])
    ('imprint-whitened', 'cumulative', 'readout', 'trap')
    """
    groups = {QUICK: QUICK_ATTACKS, ALL: OWN_ATTACKS}
    return tuple(dict.fromkeys(name for word in words for name in groups.get(word, (word,))))


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Settings):
    """Which attacks reconstruct images from the steps of a training, at which noise, and what is shown of it.

    Attributes:
        attacks: Names of attacks, also of installed packages, `quick` for the strongest few of meninx, or
            `all` of meninx.
        eps_first: Exponent of ten of the lowest epsilon of the axis.
        eps_last: Exponent of ten of the highest epsilon of the axis.
        eps_step: Distance of two exponents.
        noise_multipliers: Further levels: noise standard deviation divided by max_grad_norm.
        one_step: The epsilons of the axis are those of one step instead of the whole training.
        batches: Number of steps that are attacked at each level.
        batch_size: Number of images in an attacked step; 0 for as many as the run expects, at most 16.
        bins: Number of rows of a malicious first layer; 0 for eight per image.
        components: Number of principal components of the attacker's public images.
        participations: Number of steps with the same images whose gradients the attacker averages.
        sites: Numbers of sites in a federated round whose sum is attacked; none for a single client.
        colluders: Number of these sites that help the attacker.
        candidates: Numbers of images among which an attacker picks a patient's.
        trials: Largest number of simulated identifications per point.
        metrics: Similarities of images; the first one decides what is matched and what counts as success.
        threshold: Similarity from which on an image counts as close to its reconstruction; by default above
            what nulls and public images reach. The ranking among members has no threshold.
        best_images: Number of images in a picture, from the best to the worst.
        pictures: What is drawn outside `private/`: reconstructions of synthetic patients, none, or those of
            the run's own patients.
        delta: Delta of the epsilons for a run without privacy.
        significance: Largest probability of an unjust verdict.
        seed: Seed of draws and noise.
        device: Where to compute the attacked steps.
        deterministic: Write no time, so that the files are the same when the audit is repeated.
        overwrite: Attack again although the run was attacked before.
        dry_run: Show attacks and levels; compute and write nothing.
    """

    attacks: tuple[str, ...] = (QUICK,)
    eps_first: CountOrZero = 0
    eps_last: CountOrZero = 9
    eps_step: Count = 3
    noise_multipliers: tuple[NonNegative, ...] = ()
    one_step: bool = False
    batches: Count = 3
    batch_size: CountOrZero = 0
    bins: CountOrZero = 0
    components: Count = 64
    participations: Count = 1
    sites: tuple[Count, ...] = ()
    colluders: CountOrZero = 0
    candidates: tuple[Count, ...] = (2, 10, 100, 1000)
    trials: Count = 1000
    metrics: tuple[Literal["ncc", "ssim", "psnr", "mse"], ...] = ("ncc", "ssim", "psnr", "mse")
    threshold: float | None = None
    best_images: Count = 5
    pictures: Pictures = "synthetic"
    delta: OpenShare = 1e-5
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    device: Device = "auto"
    deterministic: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse an axis that runs backwards or beyond what can be computed, and metrics named twice."""
        if self.eps_first > self.eps_last:
            rule = f"eps_last >= eps_first = {self.eps_first}"
            raise ConfigError(expected(rule, got=self.eps_last, where="eps_last"))
        if self.eps_last > MOST_EXPONENT:
            raise ConfigError(expected(f"eps_last <= {MOST_EXPONENT}", got=self.eps_last, where="eps_last"))
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(expected("metrics, each named once", got=self.metrics, where="metrics"))
        for sites in self.sites:
            if sites < 2 or self.colluders > sites - 1:
                rule = f"at least 2 sites, {self.colluders + 1} with {self.colluders} colluders"
                raise ConfigError(expected(rule, got=sites, where="sites"))

    @property
    def exponents(self) -> tuple[int, ...]:
        """Exponents of ten of the axis of epsilon."""
        return tuple(range(self.eps_first, self.eps_last + 1, self.eps_step))
