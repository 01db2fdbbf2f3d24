"""The settings of the synthetic cohort."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core import check
from meninx.core.errors import ConfigError, expected


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """How many invented patients, where, and how much of them is planted in the headers.

    Attributes:
        patients: number of patients, spread over the hospitals in turn; 1 to 4 radiographs each.
        hospitals: names of the hospitals, which are also folder names.
        seed: public seed; the same settings give the same bytes.
        size: rows and columns of a radiograph, at least 64 (below, burned-in text would not be legible).
        attribute_correlation: -1 to 1; how much more often men have each finding than women, 0 for
            independent.
        prevalence: chance that a patient has each finding.
        contrast: factor of the findings' attenuation, above 0; 1 is subtle.
        ct_patients: how many patients also have a CT series, spread over the hospitals in turn.
        ct_size: columns, rows and slices of a CT series.
        planted: plant identifiers in every place that a header has; False leaves the plain attributes of an
            identified file.
        burned_in_fraction: share of the radiographs with the patient's name and birth date in the pixels.
    """

    patients: int = 60
    hospitals: tuple[str, ...] = ("north", "south", "east")
    seed: int = 0
    size: int = 128
    attribute_correlation: float = 0.0
    prevalence: float = 0.3
    contrast: float = 1.0
    ct_patients: int = 6
    ct_size: tuple[int, int, int] = (48, 48, 24)
    planted: bool = True
    burned_in_fraction: float = 0.1

    def __post_init__(self) -> None:
        check.positive(contrast=self.contrast)
        check.probability(prevalence=self.prevalence, burned_in_fraction=self.burned_in_fraction)
        if not -1 <= self.attribute_correlation <= 1:
            raise ConfigError(
                expected(
                    "-1 <= attribute_correlation <= 1",
                    got=self.attribute_correlation,
                    where="attribute_correlation",
                )
            )
        if (
            not self.hospitals
            or len(set(self.hospitals)) != len(self.hospitals)
            or not all(map(_plain, self.hospitals))
        ):
            raise ConfigError(
                expected(
                    "distinct hospitals named by letters, digits, - and _",
                    got=self.hospitals,
                    where="hospitals",
                )
            )
        for name, value, least in (
            ("patients", self.patients, len(self.hospitals)),
            ("size", self.size, 64),
            ("ct_patients", self.ct_patients, 0),
            ("ct_size", min(self.ct_size), 8),
        ):
            if value < least:
                raise ConfigError(expected(f"{name} of at least {least}", got=value, where=name))
        if self.ct_patients > self.patients or len(self.ct_size) != 3:
            raise ConfigError(
                expected("ct_patients <= patients and three sizes", got=self.ct_patients, where="ct_patients")
            )


def _plain(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and name.isascii()
