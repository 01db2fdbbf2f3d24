"""What a hospital reads before it says yes: one page about a study, in plain words.

The page says who takes part, what is learned, which of the hospital's data are read, how much epsilon the
study asks for, who sees what, how many bytes leave, which code runs, and every reason for which the
hospital's own policy refuses.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from meninx.core import machine, names, plugins, provenance
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, MeninxError
from meninx.core.manifest import Manifest
from meninx.core.result import Result
from meninx.federated import authority, code_hash, policy, site_budget
from meninx.federated.aggregation_methods import method_of
from meninx.federated.config import StudyConfig, recipe_digest
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import Study
from meninx.models.network_names import MONAI_PREFIX
from meninx.train.planning import make_plan, units_of

WIDTH, LABEL = 100, 16
_SHOWN_LABELS = 8


@dataclass(frozen=True, kw_only=True)
class StudyPage(Result):
    """A study as a site reads it.

    Attributes:
        study: name of the study.
        revision: number of the revision.
        digest: SHA-256 of the study file; what an approval is for.
        in_words: the digest in words.
        coordinator: fingerprint of the coordinator in words.
        site: name of this site.
        sites: name of each site -> fingerprint in words.
        learned: task, labels and images in words.
        network: network and number of its parameters in words.
        recipe: where the training settings came from, and their digest.
        rounds: length and algorithm in words.
        data: which data of this site are read, in words.
        weight: how much this site counts in a sum, and the most that the study allows, in words.
        privacy: what is asked, spent and allowed, in words.
        aggregation: who sees what, in words.
        checks: what this site checks of the models that it gets, in words.
        leaves: what leaves the site, in words.
        bytes_per_round: bytes of the vectors that leave the site in a round; None when the network cannot be
            built.
        code: version and hash of the code.
        certificate_days: days until this site's certificate ends; None before it is enrolled.
        reasons: why this site refuses; empty when the policy allows the study.
        approved: this site has approved exactly this revision.
        notes: what else a reader should know.
        answer: the signed answer that goes to the coordinator; None when there is none.
    """

    study: str
    revision: int
    digest: str
    in_words: str
    coordinator: str
    site: str
    sites: dict[str, str]
    learned: str
    network: str
    recipe: str
    rounds: str
    data: str
    weight: str
    privacy: str
    aggregation: str
    checks: str
    leaves: str
    bytes_per_round: int | None
    code: str
    certificate_days: int | None
    reasons: tuple[str, ...] = ()
    approved: bool = False
    notes: tuple[str, ...] = ()
    answer: Path | None = None

    def summary(self) -> str:
        """Return the page."""
        own = {self.site: f"{self.sites[self.site]}  (this site)"} if self.site in self.sites else {}
        lines = [
            f"{self.study}, revision {self.revision}",
            "",
            *_row("this revision", self.in_words),
            *_row("coordinator", self.coordinator),
            "",
            "Who takes part (compare the words by telephone)",
            *(line for name, text in (self.sites | own).items() for line in _row(f"  {name}", text)),
            "",
            *_row("learns", self.learned),
            *_row("network", self.network),
            *_row("recipe", self.recipe),
            *_row("length", self.rounds),
            *_row("data touched", self.data),
            *_row("weight", self.weight),
            *_row("privacy", self.privacy),
            *_row("who sees what", self.aggregation),
            *_row("model check", self.checks),
            *_row("leaves the site", self.leaves),
            *_row("code", self.code),
            *_row("certificate", _certificate_words(self.certificate_days)),
            *(line for note in self.notes for line in _row("note", note)),
            "",
        ]
        if self.reasons:
            lines += ["This site refuses the study:", *(_item(reason) for reason in self.reasons)]
        elif self.approved:
            lines.append("This site has approved exactly this revision.")
        else:
            lines.append("The policy of this site allows the study. Nothing is approved without --approve.")
        if self.answer is not None:
            lines.append(f"Send to the coordinator: {self.answer}")
        return "\n".join(lines)


def page(study: Study, site: SiteFolder, data: Manifest, *, approved: bool = False) -> StudyPage:
    """Return the page of a study for a site, with every reason against it.

    Args:
        study: the study.
        site: the site.
        data: its dataset.
        approved: the site has approved this revision.

    Raises:
        PrivacyRefusal: the policy cannot be used, or the account of earlier runs is incomplete.
        DataError: an artefact cannot be read.
    """
    rules, config = site.policy(), study.config
    unknown = policy.recipe_refusals(rules, config)  # nothing of an unknown size is built
    counts = None if unknown else network_size(config)
    size = None if counts is None else bytes_per_round(config, counts[1])
    own = study.site(site.name)
    privacy, against = privacy_words(rules, study, site, data)
    weight, beyond = weight_words(config, data)
    reasons = [*policy.refusals(rules, config, study.file.code, len(study.site_names)), *against, *beyond]
    reasons += [f"The dataset differs: {text}." for text in config.data.differences(data.info)]
    return StudyPage(
        out=site.root,
        study=study.name,
        revision=study.file.revision,
        digest=study.digest,
        in_words=study.in_words(),
        coordinator=study.file.coordinator.in_words(),
        site=site.name,
        sites={item.name: item.keys.in_words() for item in study.file.sites},
        learned=_learned(config),
        network=_network(config, counts),
        recipe=_recipe(config),
        rounds=_rounds(config),
        data=data_words(data),
        weight=weight,
        privacy=privacy,
        aggregation=aggregation_words(config, len(study.site_names)),
        checks=checks_words(config),
        leaves=_leaves(config, size),
        bytes_per_round=size,
        code=f"meninx {names.printable(study.file.code.version)}, hash {study.file.code.digest}",
        certificate_days=authority.days_left(own.certificate) if own else None,
        reasons=tuple(dict.fromkeys(reasons)),
        approved=approved,
        notes=_notes(study, data),
    )


def network_size(config: StudyConfig) -> tuple[int, int] | None:
    """Return the number of parameters of a study's network, and of all numbers that an update may hold.

    The second also counts floating-point buffers, such as the statistics of batch norm. None when the network
    cannot be counted without memory.

    Raises:
        ConfigError: no such network.
    """
    import torch

    from meninx.learn.task import image_task, with_network
    from meninx.models import registry

    info = config.data.info()
    training = with_network(config.training, info)
    try:
        with torch.device("meta"):  # no memory is taken, whatever size the study asks for
            network = registry.build(
                training.model.name,
                spatial_dims=info.spatial_dims,
                in_channels=info.channels,
                out_channels=image_task(info, training.task).out_channels,
                **training.model.options,
            )
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    sent = sum(value.numel() for value in network.state_dict().values() if value.is_floating_point())
    return sum(value.numel() for value in network.parameters()), sent


def bytes_per_round(config: StudyConfig, count: int) -> int:
    """Return the bytes of the vectors that leave a site in a round, without some kilobytes of signatures.

    Args:
        config: the study.
        count: numbers of the network that an update may hold.
    """
    return method_of(config).bytes_sent(count, config.aggregation.ring_bits // 8)


def _certificate_words(days: int | None) -> str:
    if days is None:
        return "none: this site is not enrolled in this study"
    return f"this site's ends in {days} days"


def _row(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{label:<{LABEL}} ", subsequent_indent=" " * (LABEL + 1)
    ) or [label]


def _item(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False)


def _learned(config: StudyConfig) -> str:
    data = config.data
    shown = [names.printable(label) for label in data.labels[:_SHOWN_LABELS]]
    more = f" and {len(data.labels) - len(shown)} more" if len(data.labels) > len(shown) else ""
    size = " x ".join(str(number) for number in data.size) or "of any size"
    channels = "1 channel" if data.channels == 1 else f"{data.channels} channels"
    return f"{data.task}: {', '.join(shown)}{more}; {data.spatial_dims}-D images {size}, {channels}"


def _network(config: StudyConfig, counts: tuple[int, int] | None) -> str:
    name = names.printable(config.training.model.name)
    return f"{name}, {counts[0]:,} parameters" if counts else f"{name}, not built, so size unknown"


def _recipe(config: StudyConfig) -> str:
    source = names.printable(config.study.recipe) or "of the coordinator's own"
    return f"{source}; digest of the training settings {recipe_digest(config.training)}"


def _rounds(config: StudyConfig) -> str:
    terms = config.study
    each = f"{terms.local_steps} steps" if terms.local_steps else _counted(terms.local_epochs, "epoch")
    box = f", at most {terms.round_minutes:g} minutes each" if terms.round_minutes else ""
    return f"{_counted(terms.rounds, 'round')} of {each} at each site{box}; {terms.algorithm}"


def data_words(data: Manifest) -> str:
    """Return which cases of a dataset take part, in words."""
    parts = [
        f"{split} {_counted(len(part), 'case')} of {_counted(len(part.patients), 'patient')}"
        for split in ("train", "valid", "test")
        if len(part := data.split(split))
    ]
    name = names.printable(data.info.name)
    return f"dataset {name}: {', '.join(parts) or 'no cases'}. Images and labels stay at this site."


def weight_words(config: StudyConfig, data: Manifest) -> tuple[str, list[str]]:
    """Return how much a site counts in a sum in words, and the reason against it, if there is one.

    Secure aggregation needs a bound of this weight before the first round. The words hold the site's own
    number, so they are for the site alone.
    """
    training, aggregation = config.training, config.aggregation
    units = units_of(training, data)
    word = str(training.privacy.unit if training.privacy else PrivacyUnit.PATIENT)
    own = f"{_counted(units, word)} to train on"
    if training.privacy is not None and training.privacy.units_declared:
        own = f"{_counted(units, word)}, as declared by the study"
    if not aggregation.secure:
        return f"{own}; without secure aggregation there is no bound", []
    most = aggregation.most_units
    if units <= most:
        return f"{own}; the study allows {most:,} per site (max_units)", []
    fix = f"The coordinator can set max_units = {aggregation.bound_for(units)} in [aggregation] of study.toml"
    return f"{own}, more than the {most:,} that the study allows per site (max_units)", [
        f"This site has {own}, the study allows at most {most:,} (max_units). {fix}."
    ]


def privacy_words(
    rules: policy.PolicyConfig, study: Study, site: SiteFolder, data: Manifest
) -> tuple[str, list[str]]:
    """Return what a study asks of the privacy of a site in words, and reasons against it."""
    try:
        plan = make_plan(study.config.training, data)
    except MeninxError as error:
        return "cannot be planned with this dataset", [f"The training cannot be planned: {error}."]
    if plan is None:
        return "none: trained without differential privacy", []
    found = site_budget.budget(rules, plan, site, study.name)
    left = max(0.0, found.limit - found.total)
    words = (
        f"asks for epsilon {found.asked:.3g} at delta {found.delta:.1g} per {plan.unit}, {found.steps} steps"
        f"; spent by earlier runs of this study {found.spent:.3g}; the policy allows {found.limit:g}, so "
        f"{left:.3g} would be left"
    )
    return words, [found.refusal] if found.refusal else []


def aggregation_words(config: StudyConfig, sites: int) -> str:
    """Return who sees what in a study of so many sites, in words."""
    method = method_of(config)
    name = config.aggregation.method
    try:
        method.fewest(sites)
    except ConfigError:
        return f"secure aggregation ({name}) is not possible with {_counted(sites, 'site')}"
    sentence = method.sentence(sites)
    if method.seen:
        return f"{sentence} That includes this site."
    return f"secure aggregation by {name}. {sentence}"


def checks_words(config: StudyConfig) -> str:
    """Return what a site checks of the models that it gets, in words."""
    return f"this site {method_of(config).checks}"


def _leaves(config: StudyConfig, size: int | None) -> str:
    if size is None:
        return f"the update of the network each round, to {config.study.address}"
    whole = machine.shown_size(size * config.study.rounds)
    return (
        f"{machine.shown_size(size)} a round, {whole} in {_counted(config.study.rounds, 'round')}, by https "
        f"to {config.study.address}"
    )


def foreign_code(config: StudyConfig) -> list[str]:
    """Return in words which code of other packages a study names; the code hash covers meninx alone."""
    training = config.training
    named = (
        ("algorithm", plugins.STRATEGIES, config.study.algorithm),
        ("network", plugins.NETWORKS, training.model.name),
        ("task", plugins.TASKS, training.task.kind),
    )
    parts = [(kind, name, plugins.origin(group, name)) for kind, group, name in named]
    if training.model.name.startswith(MONAI_PREFIX):
        parts.append(("network", training.model.name, f"monai {provenance.packages()['monai']}"))
    return [
        f"the {kind} {names.printable(name)} is code of the package {names.printable(package)}, which the "
        "code hash does not cover: agree on its version with the other sites"
        for kind, name, package in parts
        if package
    ]


def _notes(study: Study, data: Manifest) -> tuple[str, ...]:
    found = foreign_code(study.config)
    if study.config.training.runtime.deterministic:
        found.append("privacy noise comes from a seed (deterministic): NOT FOR RELEASE")
    if not data.info.patients_known:
        found.append("the source of the dataset names no patients, so every image counts as one")
    if data.info.obfuscated:
        found.append(f"the dataset holds {data.info.obfuscated}")
    if code_hash.difference(study.file.code):
        found.append("the code differs from what is installed here")
    return tuple(found)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
