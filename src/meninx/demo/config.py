"""Settings of ``meninx demo``."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.setting_types import Count, CountOrZero, Positive
from meninx.core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Settings):
    """The size of the demo.

    Attributes:
        patients: Number of synthetic patients at three hospitals.
        size: Rows and columns of a radiograph in the dataset.
        seed: Seed of the cohort and of training; never of the privacy noise.
        epsilon: Privacy budget of each patient in the study with differential privacy.
        deterministic: Take the privacy noise from the seed as well, to repeat the models bit for bit; the
            report then marks the private runs as void.
        overwrite: Replace an earlier demo in the folder, once the new one is complete.
        dry_run: Print the commands and write nothing.
    """

    patients: Count = 900
    size: Count = 32
    seed: CountOrZero = 0
    epsilon: Positive = 8.0
    deterministic: bool = False
    overwrite: bool = False
    dry_run: bool = False
