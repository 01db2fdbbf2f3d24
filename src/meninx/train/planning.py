"""The privacy plan of a run, from its training config and dataset."""

from __future__ import annotations

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, problem
from meninx.core.manifest import Manifest
from meninx.privacy.clipping.precision import refuse_unbounded
from meninx.privacy.noise_calibration import calibrate
from meninx.privacy.plan import Plan
from meninx.train.config import PrivacyConfig, TrainConfig


def units_in(data: Manifest, unit: PrivacyUnit) -> int:
    """Return the number of privacy units of the training split."""
    training = data.split("train")
    return len(training.patients) if unit is PrivacyUnit.PATIENT else len(training)


def units_of(config: TrainConfig, data: Manifest) -> int:
    """Return the number of privacy units of the training split, which is the weight of a site.

    It is the declared number, if one is declared.
    """
    if config.privacy is None:
        return len(data.split("train").patients)
    return config.privacy.units_declared or units_in(data, config.privacy.unit)


def make_plan(config: TrainConfig, data: Manifest) -> Plan | None:
    """Return the calibrated plan of a private run, or None for a run without privacy.

    The batch size of the config is the expected number of units per step and the public denominator. The
    number of units is the declared one, or the true one, which then counts as public.

    Raises:
        DataError: the training split is empty.
        ConfigError: the batch is larger than the training split.
        PrivacyRefusal: the budget cannot be kept with this batch size and these steps, or the precision is
            fp16.
    """
    wanted = config.privacy
    if wanted is None:
        return None
    refuse_unbounded(config.runtime.precision)
    present = units_in(data, wanted.unit)
    if not present:
        raise DataError(problem("the training split has no cases", where="split train"))
    declared = wanted.units_declared or present
    if present > declared:
        fix = "declare the true number of units, or more"
        got = f"{present} in the training split"
        raise PrivacyRefusal(
            expected(f"at most {declared} {wanted.unit}s", got=got, where="privacy.units_declared", fix=fix)
        )
    if config.sampling.batch_size > declared:
        fix = f"give --batch-size {declared} or less; under privacy it counts {wanted.unit}s per step"
        rule = f"batch_size <= {declared} {wanted.unit}s"
        raise ConfigError(expected(rule, got=config.sampling.batch_size, where="batch_size", fix=fix))
    solve_steps = wanted.epsilon is not None and wanted.noise_multiplier is not None
    return calibrate(
        n_units=declared,
        expected_batch_size=config.sampling.batch_size,
        delta=wanted.delta,
        epsilon=wanted.epsilon,
        noise_multiplier=wanted.noise_multiplier,
        steps=None if solve_steps else config.sampling.steps or None,
        epochs=None if solve_steps or config.sampling.steps else config.sampling.epochs,
        unit=wanted.unit,
        max_grad_norm=wanted.max_grad_norm,
        clipping=wanted.clipping,
        views=config.sampling.views,
        noise_bands=wanted.noise_bands,
        **_adaptive(wanted),
    )


def _adaptive(wanted: PrivacyConfig) -> dict[str, float]:
    """Return the options of adaptive clipping only; with a count noise of 0 the plan chooses it."""
    if wanted.clipping != "adaptive":
        return {}
    count = {"count_noise_multiplier": wanted.count_noise_multiplier} if wanted.count_noise_multiplier else {}
    return {"clip_quantile": wanted.clip_quantile, "clip_rate": wanted.clip_rate, **count}
