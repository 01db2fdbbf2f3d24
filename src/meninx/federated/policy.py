"""The policy of a site: what a study may ask of it, whatever the study or its coordinator says.

``policy.toml`` lies in the site's folder and is edited by the hospital alone. :func:`refusals` compares it
with a study and returns every reason against taking part; it is asked when a study is approved and again at
each start. It fails closed: without a readable policy, or with a key that this version does not know, the
site takes part in nothing, and every default is the strict one.

>>> from meninx.federated.config import StudyConfig
>>> study = StudyConfig.of(train={"epsilon": 8.0, "delta": 1e-5})
>>> privacy_refusals(PolicyConfig(), study)
('The study asks for epsilon 8 per patient, the policy allows at most 1 (max_epsilon).',)
"""

# No postponed annotations here: the settings are read by their types.

import re
import stat
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from meninx.core import files, names, settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem
from meninx.core.setting_types import Count, OpenShare, Positive
from meninx.core.settings import Settings
from meninx.federated import code_hash
from meninx.federated.code_hash import CodeVersion
from meninx.federated.config import StudyConfig, recipe_digest, without_length
from meninx.train.config import TrainConfig

POLICY = "policy.toml"
INSTALLED, ANY = "installed", "any"
_LIMIT = 1 << 16  # bytes of a policy
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIX = "correct policy.toml; until then this site takes part in no study"


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Settings):
    """What a study may ask of a site.

    Attributes:
        require_secure_aggregation: Refuse studies in which the coordinator sees the update of a single site.
        min_quorum: Smallest number of sites whose updates are added up before anything is opened.
        require_differential_privacy: Refuse studies that train without differential privacy.
        max_epsilon: Largest epsilon per patient, over all runs of a study at this site together.
        max_delta: Largest delta of that epsilon; keep it well below 1 / number of patients.
        allowed_recipes: Training settings that this site accepts: names of packaged recipes, or digests as
            `meninx federate review` shows them; any accepts whatever a person approves. None by default.
        allowed_code: Hashes of the code that this site accepts; installed stands for the meninx that is
            installed here, whichever it is.
        allow_deterministic: Accept privacy noise from a seed, which protects nobody: for rehearsals with
            synthetic patients.
    """

    require_secure_aggregation: bool = True
    min_quorum: Count = 3
    require_differential_privacy: bool = True
    max_epsilon: Positive = 1.0
    max_delta: OpenShare = 1e-5
    allowed_recipes: tuple[str, ...] = ()
    allowed_code: tuple[str, ...] = (INSTALLED,)
    allow_deterministic: bool = False

    def check_rules(self) -> None:
        """Refuse recipes that are not installed and hashes that are none: a slip is not consent."""
        known = (*settings.recipe_names(), ANY)
        for word in self.allowed_recipes:
            if word not in known and _DIGEST.fullmatch(word) is None:
                rule = "names of packaged recipes, digests or any"
                raise ConfigError(expected(rule, got=_shown(word), where="allowed_recipes"))
        for word in self.allowed_code:
            if word != INSTALLED and _DIGEST.fullmatch(word) is None:
                raise ConfigError(expected("hashes or installed", got=_shown(word), where="allowed_code"))


def read_policy(path: Path) -> PolicyConfig:
    """Return the policy of a site.

    Raises:
        PrivacyRefusal: there is none, it cannot be read, says something that this version does not know, or
            everybody on the machine may change it.
    """
    try:
        table = tomllib.loads(files.read_text(path, limit=_LIMIT))
        policy = settings.build(PolicyConfig, table, path.name)
    except (ConfigError, DataError) as error:
        what = f"the policy of this site cannot be used: {error}"
        raise PrivacyRefusal(problem(what, where=path.name, fix=_FIX)) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PrivacyRefusal(problem("the policy is not valid TOML", where=path.name, fix=_FIX)) from error
    if sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH:
        fix = "take the right to write away from others: chmod o-w policy.toml"
        raise PrivacyRefusal(problem("everybody may change the policy", where=path.name, fix=fix))
    return policy


def write_policy(path: Path, policy: PolicyConfig) -> None:
    """Write a policy with the meaning of each setting above it; an existing one is left alone.

    Raises:
        StorageError: the disk refused.
    """
    if path.exists():
        return
    lines = ["# What a study may ask of this site. An unknown key or an unreadable file refuses every study."]
    table, meanings = settings.to_table(policy), settings.meanings(PolicyConfig)
    for name, value in table.items():
        lines += ["", *textwrap.wrap(meanings[name], 100, initial_indent="# ", subsequent_indent="# ")]
        lines.append(tomli_w.dumps({name: value}).rstrip().replace("[\n", "[\n"))
    files.write_text(path, "\n".join(lines) + "\n", mode=0o644)


def refusals(policy: PolicyConfig, study: StudyConfig, code: CodeVersion, sites: int) -> tuple[str, ...]:
    """Return every reason for which a policy refuses a study, as sentences; empty when there is none.

    Args:
        policy: the policy of the site.
        study: settings of the study.
        code: the code that the study runs.
        sites: number of enrolled sites.
    """
    return (
        *_aggregation_refusals(policy, study, sites),
        *privacy_refusals(policy, study),
        *recipe_refusals(policy, study),
        *_code_refusals(policy, code),
    )


def privacy_refusals(policy: PolicyConfig, study: StudyConfig) -> tuple[str, ...]:
    """Return the reasons that lie in what a study asks of its differential privacy.

    What a study has spent before at this site is another question (``site_budget.admit``).
    """
    training = study.training
    privacy, found = training.privacy, list[str]()
    if privacy is None:
        if policy.require_differential_privacy:
            found.append(
                "The study trains without differential privacy, the policy requires it "
                "(require_differential_privacy)."
            )
        return tuple(found)
    if privacy.epsilon is not None and privacy.epsilon > policy.max_epsilon:
        found.append(
            f"The study asks for epsilon {privacy.epsilon:g} per patient, the policy allows at most "
            f"{policy.max_epsilon:g} (max_epsilon)."
        )
    if privacy.delta > policy.max_delta:
        found.append(
            f"The study asks for delta {privacy.delta:g}, the policy allows at most {policy.max_delta:g} "
            "(max_delta)."
        )
    if privacy.unit is not PrivacyUnit.PATIENT:
        found.append(f"The study protects each {privacy.unit}, the policy bounds epsilon per patient.")
    if training.runtime.deterministic and not policy.allow_deterministic:
        found.append(
            "The study takes its privacy noise from a seed that everybody knows (deterministic), so it "
            "protects nobody."
        )
    return tuple(found)


def _aggregation_refusals(policy: PolicyConfig, study: StudyConfig, sites: int) -> tuple[str, ...]:
    from meninx.federated.aggregation_methods import method_of
    from meninx.secagg.roster import LARGEST, SMALLEST

    found, method = [], method_of(study)
    if policy.require_secure_aggregation and method.seen:
        found.append(
            f"The policy requires secure aggregation; in this study {method.seen} "
            "(require_secure_aggregation)."
        )
    possible = SMALLEST <= sites <= LARGEST
    if not possible and not method.seen:
        found.append(f"Secure aggregation needs {SMALLEST} to {LARGEST} sites, the study has {sites}.")
    reached = method.fewest(sites) if possible or method.seen else sites
    if reached < policy.min_quorum:
        opened = f"With {sites} sites a sum is opened over {reached}"
        if not study.study.adds_up:
            opened = "In this study nothing is added up, each model is that of one site"
        found.append(f"{opened}, the policy requires at least {policy.min_quorum} (min_quorum).")
    return tuple(found)


def recipe_refusals(policy: PolicyConfig, study: StudyConfig) -> tuple[str, ...]:
    """Return the reason that lies in the training settings of a study, if there is one."""
    digest = recipe_digest(study.training)
    if {ANY, digest} & set(policy.allowed_recipes):
        return ()
    packaged = [word for word in policy.allowed_recipes if word in settings.recipe_names()]
    if any(digest == recipe_digest(_packaged(name)) for name in packaged):
        return ()
    allowed = ", ".join(packaged) or "none by name"
    return (
        f"The training settings are those of no allowed recipe ({allowed}); to accept exactly these, add "
        f"{digest} to allowed_recipes.",
    )


def _packaged(name: str) -> TrainConfig:
    table: dict[str, Any] = without_length(settings.read_recipe(name)[0])
    return settings.build(TrainConfig, table, f"recipe {name}.toml")


def _code_refusals(policy: PolicyConfig, code: CodeVersion) -> tuple[str, ...]:
    found = [sentence for sentence in [code_hash.difference(code)] if sentence]
    if not {INSTALLED, code.digest} & set(policy.allowed_code):
        found.append(f"The hash {code.digest[:12]}… of the study's code is not in the policy (allowed_code).")
    return tuple(found)


def _shown(word: str) -> str:
    return names.printable(word)[:40]
