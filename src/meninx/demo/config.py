"""What the demo may be told."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core import check


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The size of the demo.

    Attributes:
        patients: Invented patients, over three hospitals.
        size: Rows and columns of a radiograph in the dataset.
        seed: Seed of the cohort and of training; never of the privacy noise.
        epsilon: Privacy budget of the private model.
        deterministic: Take the privacy noise from the seed, too, to repeat the demo bit for bit; its report
            then calls the private run void.
        overwrite: Replace an earlier demo in the folder, once the new one is complete.
        dry_run: Print the commands and write nothing.
    """

    patients: int = 900
    size: int = 32
    seed: int = 0
    epsilon: float = 8.0
    deterministic: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check.positive(patients=self.patients, size=self.size, epsilon=self.epsilon)
