"""Settings of a study: what is learned together, how updates are added up, and what every site must bring.

A study is one TOML file. ``[study]``, ``[aggregation]``, ``[sites]`` and ``[data]`` are tables of their
own; ``[train]`` is a recipe of ``meninx train``, complete apart from the length, which follows from the
rounds:

>>> config = StudyConfig.of(name="chest", rounds=5, local_steps=20, train={"model": "resnet9-small"})
>>> config.training.sampling.steps, config.training.model.name
(100, 'resnet9-small')

A study comes from another institution. What it could name on a site's disk is refused here: files of
weights, folders of data, devices and caches belong to the site (:data:`OF_THE_SITE`).
"""

# No postponed annotations here: a subclass in another module would be read by its types.

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from meninx.core import check, names, plugins, settings
from meninx.core.errors import ConfigError, DataError, MeninxError, expected, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.setting_types import Count, NonNegative, Positive
from meninx.core.settings import Settings, flat
from meninx.train.config import TrainConfig

ALGORITHMS = ("fedavg", "fedprox", "cyclic")
"""Algorithms of meninx; other packages may offer more (:mod:`meninx.core.plugins`)."""
Algorithm = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}\Z", examples=list(ALGORITHMS))]
AggregationMethod = Literal["masks", "shares", "ckks", "plain"]
NAME = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z", examples=["st-marys", "chest"])]
"""Name of a study or a site: at most 40 lower-case letters, digits and inner dashes; it names files."""
Address = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}\Z", examples=["coordinator.example.org:8443"])
]
Rounds = Annotated[int, Meta(gt=0, le=10_000)]
LocalEpochs = Annotated[int, Meta(gt=0, le=1_000)]
LocalSteps = Annotated[int, Meta(ge=0, le=1_000_000)]
MOST_UNITS = {32: 1 << 12, 64: 1 << 30}
"""Bits of the ring -> units that a site has at most, where the study sets no bound."""
PROXIMAL = 0.01  # weight of FedProx's term where a study gives none
WAITING_MINUTES = 24 * 60.0
"""Minutes after which a coordinator stops waiting for sites, where nobody gives another number."""
FEWEST_SITES, MOST_SITES = 3, 32  # of secure aggregation by pairs of sites
OF_THE_SITE = {"device": "auto", "threads": 0, "workers": "auto", "cache": "auto", "tensorboard": False}
"""Settings of ``[train.runtime]`` that each site chooses for itself -> the value that a study has."""
_NOT_IN_ROUNDS = (
    ("validation", "select", ("auto", "last")),
    ("validation", "early_stopping", (0,)),
    ("optim", "ema", (0.0,)),
)
"""Table, name and allowed values of training settings that do not fit a common model."""


@dataclass(frozen=True, kw_only=True)
class TermsConfig(Settings):
    """What the sites do together.

    Attributes:
        name: Name of the study: lower-case letters, digits and dashes; by default that of the folder.
        recipe: Recipe of `meninx train` that the training settings came from; for people and for the
            policies of sites.
        rounds: Rounds: each site trains, the updates are added up, the sum becomes the next model.
        local_epochs: Passes over its training split that each site makes per round; under differential
            privacy expected passes.
        local_steps: Optimiser steps of each site per round; 0 derives them from local_epochs.
        algorithm: fedavg averages the updates weighted by units; fedprox also pulls each site to the common
            model; cyclic passes the model from site to site, without secure aggregation. Another name is an
            algorithm of an installed package.
        mu: fedprox: weight of the pull; 0.01 if not given.
        turns: cyclic: the model moves on after each site's whole turn, or after each batch (a baseline that
            leaks more).
        local_layers: Prefixes of parameters that stay at each site; `norms` stands for all norm layers
            (FedBN).
        round_minutes: Time after which a site stops training in a round and uploads what it has; 0 for no
            limit.
        address: Host and port at which the sites reach the coordinator by https.
    """

    name: Name | None = None
    recipe: str = field(default="", metadata=flat("recipe_name"))
    rounds: Rounds = 10
    local_epochs: LocalEpochs = 1
    local_steps: LocalSteps = 0
    algorithm: Algorithm = "fedavg"
    mu: NonNegative | None = None
    turns: Literal["site", "batch"] = "site"
    local_layers: tuple[str, ...] = ()
    round_minutes: NonNegative = 0.0
    address: Address = "127.0.0.1:8443"

    def check_rules(self) -> None:
        """Refuse settings of another algorithm, an impossible port, and names that cannot be shown."""
        check.one_of((*ALGORITHMS, *plugins.names(plugins.STRATEGIES)), algorithm=self.algorithm)
        if self.mu is not None and self.algorithm != "fedprox":
            raise ConfigError(problem(f"{self.algorithm} has no mu", where="mu", fix="use fedprox"))
        if self.turns != "site" and self.algorithm != "cyclic":
            raise ConfigError(problem(f"{self.algorithm} has no turns", where="turns", fix="use cyclic"))
        if not 1 <= self.port <= 65535:
            raise ConfigError(expected("a port from 1 to 65535", got=self.port, where="address"))
        shown = [self.recipe] if self.recipe else []
        _check_names([*self.local_layers, *shown], what="layer or recipe", where="study")

    @property
    def adds_up(self) -> bool:
        """Whether updates are added up, as by every algorithm except cyclic transfer."""
        return self.algorithm != "cyclic"

    @property
    def proximal(self) -> float:
        """Weight of FedProx's pull; 0 of the other algorithms."""
        if self.algorithm != "fedprox":
            return 0.0
        return PROXIMAL if self.mu is None else self.mu

    @property
    def host(self) -> str:
        """Name or IPv4 address of the coordinator."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Port of the coordinator."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class AggregationConfig(Settings):
    """How updates are added up.

    Attributes:
        method: masks adds pairwise masks that cancel in the sum (the default); shares splits each update
            among the sites as independent aggregators; ckks encrypts it under a key that the sites share;
            plain shows every update to the coordinator.
        clip: Largest value of a weight's change in one round; larger changes are cut.
        bits: Size of the numbers in which masks and shares add updates up; 64 needs twice the bandwidth. 0
            takes 64 where max_units is above 4,096, and 32 otherwise.
        max_units: Most units (patients) that a site may have, with secure aggregation; a site with more is
            refused before the first round. 0 stands for 4,096, or with 64 bits for 2^30. A number close to
            the largest site gives the most precise sums; a simulation takes it from the datasets.
    """

    method: AggregationMethod = field(default="masks", metadata=flat("aggregation"))
    clip: Positive = 8.0
    bits: Literal[0, 32, 64] = 0
    max_units: Annotated[int, Meta(ge=0, le=MOST_UNITS[64])] = 0

    def check_rules(self) -> None:
        """Refuse bits or a bound of units that would have no effect, or that leave no room for precision."""
        if self.bits and self.method in ("plain", "ckks"):
            what = f"{self.method} adds no integers up, so it has no bits"
            raise ConfigError(problem(what, where="bits", fix="leave it out"))
        if self.max_units and not self.secure:
            fix = "leave it out; plain sums need no bound"
            raise ConfigError(problem("plain has no max_units", where="max_units", fix=fix))
        if self.bits == 32 and self.max_units > 1 << 20:
            rule = f"at most {1 << 20:,} units with 32 bits"
            raise ConfigError(expected(rule, got=self.max_units, where="max_units", fix="give bits 64"))

    @property
    def ring_bits(self) -> int:
        """Bits of the numbers in which updates are added up."""
        return self.bits or (64 if self.max_units > MOST_UNITS[32] else 32)

    @property
    def most_units(self) -> int:
        """Most units of a site with secure aggregation."""
        return self.max_units or MOST_UNITS[self.ring_bits]

    @staticmethod
    def bound_for(units: int) -> int:
        """Return a ``max_units`` that has room for a site: a power of two, which hides the exact number."""
        return 1 << max(units - 1, 0).bit_length()

    @property
    def secure(self) -> bool:
        """Whether the coordinator alone sees no single site's update."""
        return self.method != "plain"


@dataclass(frozen=True, kw_only=True)
class InvitedConfig(Settings):
    """Who may take part.

    Attributes:
        names: Names of the invited sites; empty for any site that the coordinator accepts.
    """

    names: tuple[Name, ...] = field(default=(), metadata=flat("sites"))

    def check_rules(self) -> None:
        """Refuse a site that is invited twice, and more sites than masks are made for."""
        if len(set(self.names)) != len(self.names):
            raise ConfigError(problem("a site is invited twice", where="sites"))
        if len(self.names) > MOST_SITES:
            raise ConfigError(expected(f"at most {MOST_SITES} sites", got=len(self.names), where="sites"))


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """What the dataset of every site must be like, as in its ``dataset.toml``.

    Attributes:
        task: What is learned.
        labels: Label columns or names of the label values, in output order.
        channels: Image channels.
        spatial_dims: 2 or 3.
        size: Spatial size of the images; empty where sizes differ and patches are used.
        window: Lowest and highest stored value.
        shift: Subtracted from the values.
        scale: Divides the values after that.
    """

    task: TaskKind | None = field(default=None, metadata=flat("data_task"))
    labels: tuple[str, ...] = ()
    channels: Count = 1
    spatial_dims: Literal[2, 3] = 2
    size: tuple[Count, ...] = ()
    window: tuple[float, ...] = (0.0, 255.0)
    shift: float = 127.5
    scale: Positive = 127.5

    def check_rules(self) -> None:
        """Refuse what no dataset could have."""
        _check_names(self.labels, what="label", where="data")
        if len(self.window) != 2 or self.window[0] > self.window[1]:
            raise ConfigError(expected("two values, lowest first", got=self.window, where="window"))
        if self.task is not None and self.labels:
            self.info()

    @classmethod
    def of_dataset(cls, info: DatasetInfo) -> "DataConfig":
        """Return the facts of a prepared dataset."""
        intensity = info.intensity
        return cls(
            task=info.task,
            labels=info.labels,
            channels=info.channels,
            spatial_dims=2 if info.spatial_dims == 2 else 3,
            size=info.size,
            window=intensity.window,
            shift=intensity.shift,
            scale=intensity.scale,
        )

    def info(self) -> DatasetInfo:
        """Return a description of a dataset with these facts, for building the network without data.

        Raises:
            ConfigError: the facts are incomplete or contradict each other.
        """
        if self.task is None or not self.labels:
            fix = "give --like DATASET, or --data-task and --labels"
            raise ConfigError(problem("the study does not say what is learned", where="data", fix=fix))
        low, high = self.window
        try:
            return DatasetInfo(
                name="study",
                task=self.task,
                labels=self.labels,
                channels=self.channels,
                spatial_dims=self.spatial_dims,
                size=self.size,
                intensity=Intensity(window=(low, high), shift=self.shift, scale=self.scale),
            )
        except DataError as error:
            raise ConfigError(problem("no dataset can be like this", where="data", fix=str(error))) from error

    def differences(self, info: DatasetInfo) -> tuple[str, ...]:
        """Return in words in which facts a dataset differs from the study; empty when in none."""
        own = DataConfig.of_dataset(info)
        found = []
        for name, item in settings.to_table(self).items():
            there = settings.to_plain(getattr(own, name))
            if not _same(item, there):
                found.append(f"{name} is {_words(there)}, the study has {_words(item)}")
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """A study.

    Attributes:
        train: Settings of `meninx train`, e.g. `--train.epsilon 8`; they come on top of the recipe. The
            length follows from the rounds.
    """

    study: TermsConfig = field(default_factory=TermsConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    sites: InvitedConfig = field(default_factory=InvitedConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: dict[str, Any] = field(default_factory=dict)

    def check_rules(self) -> None:
        """Refuse what cannot be trained together."""
        if not self.study.adds_up and self.aggregation.secure:
            fix = "give --aggregation plain: each site sees the model of the one before"
            raise ConfigError(problem("cyclic adds nothing up", where="aggregation", fix=fix))
        if self.study.turns == "batch" and not self.study.local_steps:
            fix = "give --local-steps: every site takes that many turns in a round"
            raise ConfigError(problem("the number of turns is not known", where="turns", fix=fix))
        if self.aggregation.secure and 0 < len(self.sites.names) < FEWEST_SITES:
            fix = "invite another site, or give --aggregation plain, which works with two and hides no update"
            what = f"secure aggregation ({self.aggregation.method}) needs {FEWEST_SITES} sites"
            raise ConfigError(problem(what, where="sites", fix=fix))
        _refuse_other_length(self.train, self.study)
        _refuse_of_the_site(self.training)

    @classmethod
    def of_recipe(cls, table: Mapping[str, Any], source: str) -> Mapping[str, Any]:
        """Return the settings of a study's TOML file, or those that a recipe of ``meninx train`` gives.

        The length of the recipe is left out: the rounds decide it.
        """
        if any(key in settings.tables(cls) and key != "train" for key in table):
            train = table.get("train")
            return {**table, "train": without_length(train)} if isinstance(train, Mapping) else table
        name = names.printable(source.removeprefix("recipe ").removesuffix(".toml"))
        train = settings.arranged(TrainConfig, without_length(table), source)
        return {"train": settings.to_plain(train), "study": {"recipe": name}}

    @functools.cached_property
    def training(self) -> TrainConfig:
        """The training settings of every site; a site adds its own of :data:`OF_THE_SITE`."""
        return settings.build(TrainConfig, self.train, "train").replace(**_length(self.study))

    def resolved(self) -> "StudyConfig":
        """Return the study with every training setting written out, as the study file has it."""
        return self.replace(train=settings.to_table(self.training))

    @property
    def name(self) -> str:
        """Name of the study.

        Raises:
            ConfigError: it has none.
        """
        if self.study.name is None:
            raise ConfigError(problem("the study has no name", where="study.name"))
        return self.study.name


def without_length(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe of ``meninx train`` without its length and run name, which a study decides.

    >>> without_length({"sampling": {"epochs": 2, "batch_size": 16}, "name": "x"})
    {'sampling': {'batch_size': 16}}
    """
    dropped = ("epochs", "steps")
    table = {key: value for key, value in recipe.items() if key not in ("name", *dropped)}
    if isinstance(table.get("sampling"), Mapping):
        table["sampling"] = {key: value for key, value in table["sampling"].items() if key not in dropped}
    return table


def recipe_digest(training: TrainConfig) -> str:
    """Return the SHA-256 of what training settings do, 64 hexadecimal digits.

    Length, seed, privacy and the name of the run do not count: policies bound them by other rules, or need
    not care.
    """
    plain = training.replace(name="run", epochs=1, steps=0, seed=0, privacy=None, deterministic=False)
    return hashlib.sha256(b"meninx recipe 1\0" + settings.to_toml(plain).encode()).hexdigest()


def _length(terms: TermsConfig) -> dict[str, int]:
    """Return epochs and steps of the whole training."""
    return {"epochs": terms.rounds * terms.local_epochs, "steps": terms.rounds * terms.local_steps}


def _refuse_other_length(train: Mapping[str, Any], terms: TermsConfig) -> None:
    """Refuse epochs and steps in ``[train]`` that the rounds do not give; they would have no effect."""
    given = settings.arranged(TrainConfig, train, "train").get("sampling") or {}
    for name, value in _length(terms).items():
        if given.get(name, value) != value:
            fix = f"give --rounds and --local-{name} instead"
            where, rule = f"train.sampling.{name}", f"{value}, as rounds times local_{name} says"
            raise ConfigError(expected(rule, got=given[name], where=where, fix=fix))


def _refuse_of_the_site(config: TrainConfig) -> None:
    """Refuse settings that name something on a site's disk, or what only a site can decide."""
    model, privacy = config.model, config.privacy
    if model.pretrained and not model.pretrained.startswith("package:"):
        fix = "use `package:NAME`; a study may not name files of a site"
        raise ConfigError(
            problem("the study names a file of weights", where="train.model.pretrained", fix=fix)
        )
    if model.standardize:
        fix = "leave it out; a study may not name folders of a site"
        raise ConfigError(problem("the study names a dataset", where="train.model.standardize", fix=fix))
    for table, name, allowed in _NOT_IN_ROUNDS:
        if getattr(getattr(config, table), name) not in allowed:
            what = f"{name} chooses among the weights of one site, a study has one common model"
            place = f"train.{table}.{name}"
            raise ConfigError(problem(what, where=place, fix=f"leave {name} out"))
    for name, own in OF_THE_SITE.items():
        if getattr(config.runtime, name) != own:
            fix = "leave it out; each site gives it to `meninx federate site`"
            raise ConfigError(problem(f"{name} belongs to the site", where=f"train.runtime.{name}", fix=fix))
    if privacy is not None and privacy.epsilon is not None and privacy.noise_multiplier is not None:
        fix = "give one of them; the rounds decide the number of steps"
        raise ConfigError(
            problem("epsilon and noise_multiplier are both given", where="train.privacy", fix=fix)
        )


def _check_names(found: tuple[str, ...] | list[str], *, what: str, where: str) -> None:
    try:
        names.check(found, what=what, where=where)
    except MeninxError as error:
        raise ConfigError(str(error)) from error


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def _words(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    shown = ", ".join(
        f"{item:g}" if isinstance(item, float) else names.printable(str(item)) for item in items
    )
    return shown[:200] or "not fixed"
