"""What the guarantee of a private run does not cover, and what its release may state about the dataset.

Noise protects the weights. It does not protect a fact that is read from all images, such as their common
size, because one patient can change it. A release states such a fact only where the network cannot be used
without it, and ``outside_guarantee`` in ``privacy.json`` then names it.
"""

from __future__ import annotations

from dataclasses import replace

from meninx.core.artifacts import Ancestry
from meninx.core.budget import VALIDATION_CASES
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.learn.config import LearnConfig, ModelConfig
from meninx.privacy.plan import Plan

UNKNOWN_START = (
    "the training started from weights of unknown origin: what they hold of the patients is not covered"
)
CLASSES = (
    "the names of the classes are those that occur in the dataset, where `meninx prepare` was not given "
    "classes: one patient may add one"
)
OBFUSCATED = (
    "the images were obfuscated by a method that was fitted on patients of the same dataset: what it learned "
    "from them is not covered"
)
MEASURED = (
    "operating thresholds and metrics are exact numbers about validation and test patients, "
    "who are not protected"
)


def public_facts(info: DatasetInfo, model: ModelConfig) -> DatasetInfo:
    """Return the facts about the dataset that the release of a private run may state.

    Size and spacing come from the preprocessing settings and are empty where these leave them open. The names
    of attributes and observations on the training images are left out.

    Args:
        info: of the dataset, whose size and spacing were read from all images.
        model: image and patch size of the network.

    Guarantee: the result depends on size and spacing of the images only where :func:`needs_shared_size`.
    """
    size = info.size if needs_shared_size(info, model) else _numbers(info, "size")
    return replace(
        info,
        attributes=(),
        observed=None,
        size=tuple(int(length) for length in size),
        spacing_mm=tuple(float(step) for step in _numbers(info, "spacing_mm")),
    )


def needs_shared_size(info: DatasetInfo, model: ModelConfig) -> bool:
    """Return whether the input size of the network can be known only from the images themselves."""
    given = model.patch_size or model.image_size or _numbers(info, "size")
    return bool(info.size) and not given


def _numbers(info: DatasetInfo, name: str) -> tuple[float, ...]:
    found = info.preprocessing.get(name)
    return tuple(found) if isinstance(found, (list, tuple)) else ()


def caveats(
    config: LearnConfig,
    plan: Plan | None,
    info: DatasetInfo,
    ancestry: Ancestry | None,
    *,
    units: int,
    declared: bool,
    validated: bool,
    selects_best: bool,
) -> list[str]:
    """Return what the guarantee of a run does not cover, in words; nothing without a plan.

    Args:
        config: the settings.
        plan: of a private run.
        info: of the dataset.
        ancestry: known facts about the training behind pretrained weights; None without such weights.
        units: number of privacy units in the training split.
        declared: whether their number was declared.
        validated: whether the dataset has validation cases.
        selects_best: whether the result is the weights of the best evaluation.
    """
    if plan is None:
        return []
    start = ancestry or Ancestry(origin="random")
    size = " x ".join(map(str, info.size))
    causes = (
        (
            not declared and plan.n_units_declared == units,
            f"the number of training units ({plan.unit}s) counts as public: none was declared",
        ),
        (start.origin == "unknown", UNKNOWN_START),
        *((True, text) for text in start.caveats),
        (
            not info.patients_known,
            "the source names no patients: what is called a patient is a single image or lesion",
        ),
        (
            needs_shared_size(info, config.model),
            f"the input size {size} counts as public: it was read from the images, which all have it",
        ),
        (info.task is TaskKind.MULTICLASS, CLASSES),
        (bool(info.obfuscated), OBFUSCATED),
        (selects_best, f"the weights were selected by {config.validation.monitor} on {VALIDATION_CASES}"),
        (
            bool(config.validation.early_stopping),
            f"training may have stopped early because of {VALIDATION_CASES}",
        ),
        (config.optim.schedule == "plateau", f"the learning rate followed {VALIDATION_CASES}"),
        (validated, MEASURED),
        (
            config.runtime.deterministic,
            "noise and sampling came from the seed (--deterministic): no privacy against anyone who knows it",
        ),
    )
    return [text for applies, text in causes if applies]
