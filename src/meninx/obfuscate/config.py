"""Settings of `meninx obfuscate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import Count, CountOrZero, Device, Positive, PositiveShare, Share
from meninx.core.settings import Settings
from meninx.obfuscate.obfuscator import OBFUSCATORS, MethodName

BUDGET = 0.05
"""Mean absolute change of the training images without another setting, of the range [0, 1]."""
AGE_BINS = (60.0,)
"""Lower limits of the upper age groups without another setting."""
TABLES: Mapping[str, tuple[MethodName, ...]] = {"dp_pix": ("dp-pix",)}
"""Table of settings -> methods that read it."""
WORK_FIELDS = ("device", "dry_run", "resume", "overwrite")
"""Fields that change how the work is done, not its result."""


@dataclass(frozen=True, kw_only=True)
class PixelNoise(Settings):
    """Differential privacy for pixels, by DP-Pix.

    Attributes:
        pixels: Number m of pixels that one person's part of an image may change (the m-neighbourhood).
        pixel_epsilon: Epsilon of the released image for any m pixels; by default solved from the budget.
        block: Side of a block of pixels that becomes one value.
    """

    pixels: Count = 16
    pixel_epsilon: Positive | None = None
    block: Count = 8


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditSettings(Settings):
    """How the release is attacked.

    Attributes:
        audit: Attack the release with retrained attackers, and measure what it costs.
        target: Highest AUROC of the worst retrained attacker that is accepted, by the upper end of its
            interval; 0 measures without a verdict.
        draws: Independent releases of each image that an attacker may average.
    """

    audit: bool = True
    target: Share = 0.0
    draws: Count = 10


@dataclass(frozen=True, kw_only=True)
class ObfuscateConfig(Settings):
    """How an attribute is hidden, and how the release is attacked.

    Attributes:
        method: How images are changed.
        attribute: Attribute of the patient to hide, e.g. sex, age, or several at once as sex+age.
        age_bins: Ages at which a new group begins, e.g. 60, or 47 61 71; by default 60.
        labels: Labels that the release should keep; by default all of the dataset.
        budget: Mean absolute change of the training images, of the range 0 to 1; by default 0.05 for a method
            that has a budget.
        keep_attribute: Keep the attribute's column in the table of the released dataset.
        seed: Seed of initialisation, halves, folds and attackers; never of what hides the attribute.
        deterministic: Take the randomness of the method from the seed too, to repeat a release bit for bit;
            the release is then marked NOT FOR RELEASE.
        dp_pix: Differential privacy for pixels.
        release_audit: How the release is attacked.
        device: Where networks run; auto takes CUDA, then MPS, then the CPU.
        dry_run: Read the dataset, show the label floor and what would be done; write nothing.
        resume: Go on with a release of the same settings; a finished one is attacked again where that failed.
        overwrite: Replace the release in the output folder, once the new one is complete.
    """

    method: MethodName = "codes"
    attribute: str = "sex"
    age_bins: tuple[Positive, ...] = ()
    labels: tuple[str, ...] = ()
    budget: PositiveShare | None = None
    keep_attribute: bool = False
    seed: CountOrZero = 0
    deterministic: bool = False
    dp_pix: PixelNoise = field(default_factory=PixelNoise)
    release_audit: ReleaseAuditSettings = field(default_factory=ReleaseAuditSettings)
    device: Device = "auto"
    dry_run: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def attributes(self) -> tuple[str, ...]:
        """The columns behind :attr:`attribute`: two for ``sex+age``."""
        return tuple(self.attribute.split("+"))

    @property
    def amount(self) -> float | None:
        """The budget that is in force; None for a method without one."""
        return (self.budget or BUDGET) if OBFUSCATORS[self.method].budgeted else None

    @property
    def bins(self) -> tuple[float, ...]:
        """The limits of age groups that are in force; empty where no age is hidden."""
        return (self.age_bins or AGE_BINS) if "age" in self.attributes else ()

    def check_rules(self) -> None:
        """Refuse settings that contradict each other or have no effect."""
        if self.resume and self.overwrite:
            raise ConfigError(
                problem("resume and overwrite exclude each other", where="resume", fix="choose one")
            )
        if self.budget is not None and not OBFUSCATORS[self.method].budgeted:
            what = f"the method {self.method} has no budget"
            raise ConfigError(problem(what, where="budget", fix="leave budget out"))
        if self.age_bins and "age" not in self.attributes:
            fix = "leave age_bins out, or hide age"
            raise ConfigError(problem("the setting has no effect without age", where="age_bins", fix=fix))
        if list(self.age_bins) != sorted(set(self.age_bins)):
            raise ConfigError(expected("ascending ages", got=self.age_bins, where="age_bins"))
        if not all(self.attributes) or len(set(self.attributes)) != len(self.attributes):
            what = "a name of an attribute, or several different ones joined by +"
            raise ConfigError(expected(what, got=self.attribute, where="attribute"))
        self._refuse_idle_tables()

    def _refuse_idle_tables(self) -> None:
        """Refuse settings of a table that the method does not read."""
        for name, method in TABLES.items():
            table = getattr(self, name)
            if self.method in method or table == type(table)():
                continue
            given = [key for key, value in vars(table).items() if value != getattr(type(table)(), key)]
            fix = f"leave it out, or use {' or '.join(method)}"
            raise ConfigError(problem(f"the method {self.method} does not read it", where=given[0], fix=fix))
        audit = self.release_audit
        if not audit.audit and audit != ReleaseAuditSettings(audit=False):
            fix = "leave target and draws out, or let the release be attacked"
            raise ConfigError(problem("the setting has no effect without an audit", where="audit", fix=fix))
