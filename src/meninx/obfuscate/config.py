"""Settings of `meninx obfuscate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import Count, CountOrZero, Device, NonNegative, Positive, PositiveShare, Share
from meninx.core.settings import Settings
from meninx.obfuscate.obfuscator import OBFUSCATORS, MethodName

CHANCE = 0.5
"""AUROC of guessing."""
BUDGET = 0.05
"""Mean absolute change of the training images without another setting, of the range [0, 1]."""
AGE_BINS = (60.0,)
"""Lower limits of the upper age groups without another setting."""
ERASURES: tuple[MethodName, ...] = ("leace", "kernel-erasure")
"""Methods that erase an attribute from feature vectors."""
TABLES: Mapping[str, tuple[MethodName, ...]] = {
    "dp_pix": ("dp-pix",),
    "codes": ("codes",),
    "erasure": ERASURES,
    "viewmaker": ("viewmaker", "viewmaker-seed", "maxent"),
}
"""Table of settings -> methods that read it."""
_DEFAULTS: Mapping[str, Any] = {
    "loss": "adversarial",
    "attackers": 3,
    "attacker_steps": 2,
    "reset_every": 50,
    "task_weight": 1.0,
}
_FIXED: Mapping[MethodName, Mapping[str, Any]] = {
    "viewmaker-seed": {"loss": "adversarial", "attackers": 1, "attacker_steps": 1, "reset_every": 0},
    "maxent": {"loss": "entropy"},
}
"""What a method of viewmakers fixes."""
WORK_FIELDS = ("device", "dry_run", "resume", "overwrite")
"""Fields that change how the work is done, not its result."""


@dataclass(frozen=True, kw_only=True)
class PixelNoise(Settings):
    """Differential privacy for pixels, by DP-Pix.

    Attributes:
        pixels: Number m of pixels that one person's part of an image may change (the m-neighbourhood).
        pixel_epsilon: Epsilon of the released image for any m pixels; by default solved from the budget.
        block: Side of a block of pixels that becomes one value; by default the largest one whose means alone
            use half of the budget.
    """

    pixels: Count = 16
    pixel_epsilon: Positive | None = None
    block: Count | None = None


@dataclass(frozen=True, kw_only=True)
class CodeSettings(Settings):
    """Codes that are equally frequent in every class of the attribute.

    Attributes:
        most_codes: Largest number of codes; fewer are used where more would not keep the labels better.
            A certificate needs fewer patients for fewer codes.
        levels: Number of equal parts into which the scores of each label are cut, in the order of the
            labels; by default the cuts are chosen on the training patients.
        patients_per_code: Fewest training patients of every class in each code, at least 16 in all.
        folds: Folds of training patients; each is scored by models of the others.
        utility: Models that score the labels: linear, network, or auto for the better one out of fold.
        unknown_attribute: What happens to an image whose class is not known: refuse, or draw its code at
            random, which tells nothing about the image.
        balance: Where every code is equally frequent in all classes: over all images; within every
            combination of the labels, so that codes and published labels together tell no more than the
            labels; or nowhere, which only shows what balancing is for.
    """

    most_codes: Annotated[int, Meta(ge=2, le=1024)] = 12
    levels: tuple[Count, ...] = ()
    patients_per_code: Count = 8
    folds: Annotated[int, Meta(ge=2, le=20)] = 5
    utility: Literal["auto", "linear", "network"] = "auto"
    unknown_attribute: Literal["refuse", "draw"] = "refuse"
    balance: Literal["class", "class-and-labels", "none"] = "class"

    @property
    def oblivious(self) -> bool:
        """Whether codes are made without looking at the attribute."""
        return self.balance == "none"


@dataclass(frozen=True, kw_only=True)
class ErasureSettings(Settings):
    """Erasure of the attribute from feature vectors.

    Attributes:
        quadratic: Make the covariances of the classes equal, too, not only their means; the class of every
            vector has to be known, and every class needs more training rows than there are features.
        kernel_features: Number of random Fourier features of the kernel; by default half of the training
            rows, between 16 and 512.
        kernel_width: Mean squared distance, in deviations of the features, at which the kernel falls to 1/e;
            by default the median one of pairs of training rows.
        quantise: Release the prototypes of codes of the erased vectors, which a certificate can be about.
    """

    quadratic: bool = False
    kernel_features: CountOrZero = 0
    kernel_width: Positive | None = None
    quantise: bool = False


@dataclass(frozen=True, kw_only=True)
class ViewmakerSettings(Settings):
    """The viewmaker network, its loss and the game in which it is trained.

    Attributes:
        network: `slim` computes the change on an image of at most 32 pixels a side and enlarges it; `full`
            is the published network, which works at the size of the image.
        residual_blocks: Residual blocks at the coarsest size; 3 and 5 are published for retina and
            radiographs.
        dct: Compute the change from and in the coefficients of the discrete cosine transform.
        loss: What the method `viewmaker` maximises: `adversarial` the loss of the attackers, `entropy` the
            entropy of their guesses, `contrastive` that of an encoder, without any attribute; by default
            `adversarial`. The other methods fix it: `viewmaker-seed` adversarial, `maxent` entropy.
        task_weight: Weight of the loss of a network of the labels, which was trained on original images and
            is frozen; 0 leaves it out, as the X-ray variant of DP-Viewmaker does.
        attack_weight: Weight of the loss or entropy of the attackers.
        temperature: Of the contrastive loss.
        steps: Steps of the viewmaker.
        viewmaker_batch: Images per step.
        attackers: Attackers in the game, of different architectures in turn; by default 3, and always 1 for
            `viewmaker-seed`.
        attacker_steps: Steps of the attackers (or the encoder) before each step of the viewmaker; by default
            2, and always 1 for `viewmaker-seed`.
        reset_every: Steps of the viewmaker after which one attacker in turn starts from random weights; 0
            for never; by default 50, and never for `viewmaker-seed`.
        viewmaker_rate: Learning rate of the viewmaker (Adam).
        attacker_rate: Learning rate of the attackers, or of the encoder.
        task_rate: Learning rate of the network of the labels.
    """

    network: Literal["slim", "full"] = "slim"
    residual_blocks: Annotated[int, Meta(ge=1, le=16)] = 3
    dct: bool = False
    loss: Literal["adversarial", "entropy", "contrastive"] | None = None
    task_weight: NonNegative | None = None
    attack_weight: Positive = 1.0
    temperature: Positive = 0.07
    steps: Count = 200
    viewmaker_batch: Annotated[int, Meta(ge=2)] = 32
    attackers: Annotated[int, Meta(ge=1, le=9)] | None = None
    attacker_steps: Count | None = None
    reset_every: CountOrZero | None = None
    viewmaker_rate: Positive = 1e-3
    attacker_rate: Positive = 2e-3
    task_rate: Positive = 2e-3

    def in_force(self, method: MethodName) -> ViewmakerSettings:
        """Return the settings with the values that the method fixes or that are its defaults.

        >>> ViewmakerSettings().in_force("maxent").attackers
        3

        Raises:
            ConfigError: a setting has no effect.
        """
        fixed: Mapping[str, Any] = _FIXED.get(method, {})
        self._refuse_given(tuple(fixed), f"the method {method}")
        found = {**_DEFAULTS, **fixed}
        if (fixed.get("loss") or self.loss) == "contrastive":
            without = ("task_weight", "attack_weight", "attackers", "reset_every", "task_rate")
            self._refuse_given(without, "a contrastive loss")
            found |= {"attackers": None, "reset_every": 0, "task_weight": 0.0}
        else:
            self._refuse_given(("temperature",), "a loss of attackers")
        if self.task_weight == 0:
            self._refuse_given(("task_rate",), "a task_weight of 0")
        return self.replace(**{key: value for key, value in found.items() if getattr(self, key) is None})

    def _refuse_given(self, names: tuple[str, ...], what: str) -> None:
        """Refuse settings that differ from their defaults where they have no effect."""
        for name in names:
            if getattr(self, name) != getattr(type(self)(), name):
                fix = f"leave {name} out"
                raise ConfigError(problem(f"the setting has no effect with {what}", where=name, fix=fix))


@dataclass(frozen=True, kw_only=True)
class AttackSettings(Settings):
    """How a release is attacked.

    Attributes:
        target: Highest AUROC of any retrained attacker that is accepted, by the upper end of its interval;
            0 measures without a verdict. The first one that is given for a release decides.
        attack_epochs: Epochs of every network that attacks, each with a fresh release of the images.
        permutations: Permuted attributes that show what the attackers find by chance; 0 leaves them out.
        draws: Independent releases of each image that an attacker may average.
    """

    target: Share = 0.0
    attack_epochs: Count = 15
    permutations: CountOrZero = 99
    draws: Count = 10

    def check_rules(self) -> None:
        """Refuse a target that guessing exceeds, and one that nothing exceeds."""
        if self.target >= 1:
            fix = "give a target below 1, or leave it out to measure without a verdict"
            raise ConfigError(problem("a target of 1 is always met", where="target", fix=fix))
        if self.target and self.target <= CHANCE:
            raise ConfigError(expected(f"a target above {CHANCE:g}", got=self.target, where="target"))


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditSettings(AttackSettings):
    """Whether and how the release is attacked.

    Attributes:
        audit: Attack the release with retrained attackers, and measure what it costs.
    """

    audit: bool = True


@dataclass(frozen=True, kw_only=True)
class HiddenAttribute(Settings):
    """Which attribute is hidden in which dataset.

    Attributes:
        attribute: Attribute of the patient to hide, e.g. sex, age, or several at once as sex+age.
        age_bins: Ages at which a new group begins, e.g. 60, or 47 61 71; by default 60.
        labels: Labels that the release keeps (in an audit: whose utility is measured); by default all of the
            dataset. A release publishes no other labels.
        seed: Seed of initialisation, halves, folds and attackers; never of what hides the attribute.
        device: Where networks run; auto takes CUDA, then MPS, then the CPU.
    """

    attribute: str = "sex"
    age_bins: tuple[Positive, ...] = ()
    labels: tuple[str, ...] = ()
    seed: CountOrZero = 0
    device: Device = "auto"

    @property
    def attributes(self) -> tuple[str, ...]:
        """The columns behind :attr:`attribute`: two for ``sex+age``."""
        return tuple(self.attribute.split("+"))

    @property
    def bins(self) -> tuple[float, ...]:
        """The limits of age groups that are in force; empty where no age is hidden."""
        return (self.age_bins or AGE_BINS) if "age" in self.attributes else ()

    def check_rules(self) -> None:
        """Refuse a name that is none, and ages that have no effect or no order."""
        if self.age_bins and "age" not in self.attributes:
            fix = "leave age_bins out, or hide age"
            raise ConfigError(problem("the setting has no effect without age", where="age_bins", fix=fix))
        if list(self.age_bins) != sorted(set(self.age_bins)):
            raise ConfigError(expected("ascending ages", got=self.age_bins, where="age_bins"))
        if not all(self.attributes) or len(set(self.attributes)) != len(self.attributes):
            what = "a name of an attribute, or several different ones joined by +"
            raise ConfigError(expected(what, got=self.attribute, where="attribute"))


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditConfig(HiddenAttribute):
    """How a released dataset is attacked that exists already.

    Attributes:
        attacks: How it is attacked.
        deterministic: Write no time, so that the record depends on data and seed alone.
        overwrite: Replace an earlier record.
    """

    attacks: AttackSettings = field(default_factory=AttackSettings)
    deterministic: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ObfuscateConfig(HiddenAttribute):
    """How an attribute is hidden, and how the release is attacked.

    Attributes:
        method: How images are changed.
        budget: Mean absolute change of the training images, of the range 0 to 1; by default 0.05 for a method
            that has a budget.
        keep_columns: Attribute columns that the released table keeps, e.g. age or site; by default none. What
            they tell of the hidden attribute counts in the label floor and in the attacks.
        keep_attribute: Keep the attribute's column in the table of the released dataset.
        deterministic: Take the randomness of the method from the seed too, to repeat a release bit for bit;
            the release is then marked NOT FOR RELEASE.
        dp_pix: Differential privacy for pixels.
        codes: Codes that are equally frequent in every class of the attribute.
        erasure: Erasure of the attribute from feature vectors.
        viewmaker: The viewmaker network, its loss and the game in which it is trained.
        release_audit: Whether and how the release is attacked.
        dry_run: Read the dataset, show the label floor and what would be done; write nothing.
        resume: Go on with a release of the same settings; a complete one is attacked if it was not.
        overwrite: Replace the release in the output folder, once the new one is complete.
    """

    method: MethodName = "codes"
    budget: PositiveShare | None = None
    keep_columns: tuple[str, ...] = ()
    keep_attribute: bool = False
    deterministic: bool = False
    dp_pix: PixelNoise = field(default_factory=PixelNoise)
    codes: CodeSettings = field(default_factory=CodeSettings)
    erasure: ErasureSettings = field(default_factory=ErasureSettings)
    viewmaker: ViewmakerSettings = field(default_factory=ViewmakerSettings)
    release_audit: ReleaseAuditSettings = field(default_factory=ReleaseAuditSettings)
    dry_run: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def aware(self) -> bool:
        """Whether the method reads the attribute of each patient when it releases an image."""
        if self.method in ERASURES and not self.erasure.quantise:
            return self.erasure.quadratic
        return (OBFUSCATORS[self.method].aware or self.method in ERASURES) and not self.codes.oblivious

    @property
    def amount(self) -> float | None:
        """The budget that is in force; None for a method without one."""
        return (self.budget or BUDGET) if OBFUSCATORS[self.method].budgeted else None

    def check_rules(self) -> None:
        """Refuse settings that contradict each other or have no effect."""
        if self.resume and self.overwrite:
            raise ConfigError(
                problem("resume and overwrite exclude each other", where="resume", fix="choose one")
            )
        if self.budget is not None and not OBFUSCATORS[self.method].budgeted:
            what = f"the method {self.method} has no budget"
            raise ConfigError(problem(what, where="budget", fix="leave budget out"))
        super().check_rules()
        self._refuse_idle_tables()
        erasure = self.erasure
        if self.method == "leace" and (erasure.kernel_features or erasure.kernel_width):
            what = "the method leace has no kernel"
            raise ConfigError(problem(what, where="kernel_features", fix="use kernel-erasure"))
        if self.method == "kernel-erasure" and erasure.quadratic:
            what = "Fourier features have no covariance that can be equalised"
            raise ConfigError(problem(what, where="quadratic", fix="use leace"))
        if self.method in TABLES["viewmaker"]:
            self.viewmaker.in_force(self.method)

    def _refuse_idle_tables(self) -> None:
        """Refuse settings of a table that the method does not read."""
        for name, method in TABLES.items():
            table = getattr(self, name)
            coded = name == "codes" and self.erasure.quantise
            if self.method in method or coded or table == type(table)():
                continue
            given = [key for key, value in vars(table).items() if value != getattr(type(table)(), key)]
            fix = f"leave it out, or use {' or '.join(method)}"
            raise ConfigError(problem(f"the method {self.method} does not read it", where=given[0], fix=fix))
        audit = self.release_audit
        if not audit.audit and audit != ReleaseAuditSettings(audit=False):
            fix = "leave the settings of the attacks out, or let the release be attacked"
            raise ConfigError(problem("the setting has no effect without an audit", where="audit", fix=fix))
