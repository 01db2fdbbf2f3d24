"""What the demo may be told."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core import check


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The size of the demo.

    Attributes:
        patients: Patients of the synthetic cohort, over three hospitals.
        size: Rows and columns of a radiograph.
        seed: Seed of the cohort and of training.
        epsilon: Privacy budget of the private model.
        overwrite: Replace an earlier demo in the folder.
        dry_run: Print the commands and write nothing.
    """

    patients: int = 600
    size: int = 64
    seed: int = 0
    epsilon: float = 8.0
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check.positive(patients=self.patients, epsilon=self.epsilon)
