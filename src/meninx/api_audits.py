"""The public functions of single audits; :func:`meninx.audit` carries out several by a plan, with a page.

Each is the command ``meninx audit NAME``, with its settings as keyword arguments. A refuted guarantee is in
the result: ``raise_if_refuted()`` raises, where there can be one. With ``dry_run=True`` the result says what
would be done, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from meninx._settings import (
    AttributesSettings,
    BoundsSettings,
    IdentitySettings,
    MembershipSettings,
    OneRunSettings,
    ReconstructionSettings,
    ScoresSettings,
)
from meninx.core import settings as config_settings
from meninx.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from meninx.audit.attributes import AttributesResult
    from meninx.audit.bounds import BoundsResult
    from meninx.audit.membership import MembershipResult
    from meninx.audit.one_run import OneRunResult
    from meninx.audit.reconstruction.steps import ReconstructionResult
    from meninx.audit.reidentification import IdentityResult
    from meninx.audit.scores import ScoresResult

StrPath = str | Path
_HERE = "meninx"


def audit_bounds(
    run: StrPath | None = None,
    *,
    recipe: StrPath | None = None,
    out: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[BoundsSettings],
) -> BoundsResult:
    """Bound what any attack on one patient can reach, for a private run, a recipe or settings.

    No dataset is read::

        >>> import meninx
        >>> found = meninx.audit_bounds(units=1000, sample_rate=0.1, steps=100, epsilon=8.0, dry_run=True)
        >>> [prior.name for prior in found.record.priors]
        ['1 of all 1,000', '1 of 2', '1 of 10', '1 of 1,000']

    Args:
        run: private run whose ledger states the mechanism.
        recipe: packaged recipe or TOML file that states it, where there is no run; settings win over it.
        out: folder of table, record and figure; by default ``audit/`` of the run, or ``bounds``.
        progress: advanced by every epsilon.
        **settings: those of ``meninx audit bounds``.

    Guarantee: see ``meninx.audit.bounds.run_bounds``.

    Raises:
        UsageError, ConfigError, PrivacyRefusal: see ``meninx.audit.bounds.run_bounds``.
    """
    from meninx.audit.bounds import run_bounds
    from meninx.audit.config import BoundsConfig

    text = "" if recipe is None else str(recipe)
    config = config_settings.resolve_recipe(BoundsConfig, text, (settings, _HERE))
    folder = _path(run)
    place = _path(out) or (Path("bounds") if folder is None else folder / "audit")
    return run_bounds(config, place, run=folder, recipe=text or None, progress=progress)


def audit_scores(included: StrPath, excluded: StrPath, **settings: Unpack[ScoresSettings]) -> ScoresResult:
    """Test a claimed guarantee by the scores of canaries, of any program's run.

    Example::

        >>> import tempfile
        >>> import numpy as np
        >>> import meninx
        >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
        >>> for name, mean in (("in", 6.0), ("out", 0.0)):
        ...     np.save(folder / f"{name}.npy", rng.normal(mean, 1.0, 500))
        >>> found = meninx.audit_scores(folder / "in.npy", folder / "out.npy", claimed_eps=1.0)
        >>> found.audit.verdict
        'refuted'

    Args:
        included: ``.npy`` file with the scores of the canaries that took part.
        excluded: that of those that did not.
        **settings: those of ``meninx audit scores``: the claim.

    Raises:
        UsageError, ConfigError, DataError: see ``meninx.audit.scores.run_scores``.
    """
    from meninx.audit.config import ScoresConfig
    from meninx.audit.scores import run_scores

    config = config_settings.build(ScoresConfig, settings, _HERE)
    return run_scores(config, Path(included), Path(excluded))


def audit_one_run(
    run: StrPath,
    *,
    data: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[OneRunSettings],
) -> OneRunResult:
    """Test the implementation of a private run by training its twin with canaries.

    Example::

        found = meninx.audit_one_run("runs/private/latest", canaries=1000)
        found.record.refuted_by, found.record.control_found

    Args:
        run: finished run of :func:`meninx.train` with differential privacy.
        data: folder of the run's dataset, where it was moved.
        progress: shows the steps.
        **settings: those of ``meninx audit one-run``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.audit.one_run.run_one_run``.
    """
    from meninx.audit.config import OneRunConfig
    from meninx.audit.one_run import run_one_run

    config = config_settings.build(OneRunConfig, settings, _HERE)
    return run_one_run(config, Path(run), data=_path(data), progress=progress)


def audit_membership(
    run: StrPath,
    *,
    out: StrPath | None = None,
    data: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[MembershipSettings],
) -> MembershipResult:
    """Attack a run's model: does it tell who took part in its training?

    Example::

        found = meninx.audit_membership("runs/private/latest", references=16)
        {attack.attack: attack.auc for attack in found.audit.attacks}

    Args:
        run: finished run of :func:`meninx.train`.
        out: folder that gets ``audit/``; by default the run folder.
        data: folder of the run's dataset, where it was moved.
        progress: shows the steps of the reference models.
        **settings: those of ``meninx audit membership``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.audit.membership.run_membership``.
    """
    from meninx.audit.config import MembershipConfig
    from meninx.audit.membership import run_membership

    config = config_settings.build(MembershipConfig, settings, _HERE)
    return run_membership(config, Path(run), out=_path(out), data=_path(data), progress=progress)


def audit_attributes(
    run: StrPath,
    *,
    out: StrPath | None = None,
    data: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[AttributesSettings],
) -> AttributesResult:
    """Attack a run's model: what does it tell about sex, age or site of a patient?

    Example::

        found = meninx.audit_attributes("runs/private/latest", attributes=["sex"])
        found.audit.verdict

    Args:
        run: finished run of :func:`meninx.train`.
        out: folder that gets ``audit/``; by default the run folder.
        data: folder of the run's dataset, where it was moved.
        progress: shows patients and attacks.
        **settings: those of ``meninx audit attributes``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.audit.attributes.run_attributes``.
    """
    from meninx.audit.attributes import run_attributes
    from meninx.audit.config import AttributesConfig

    config = config_settings.build(AttributesConfig, settings, _HERE)
    return run_attributes(config, Path(run), out=_path(out), data=_path(data), progress=progress)


def audit_reconstruction(
    run: StrPath,
    *,
    steps: Sequence[str] = ("create", "match", "visualise"),
    public: StrPath | None = None,
    out: StrPath | None = None,
    data: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[ReconstructionSettings],
) -> ReconstructionResult:
    """Attack the steps of a run: which images of patients can be reconstructed or identified?

    Example::

        found = meninx.audit_reconstruction("runs/private/latest", attacks=["imprint-whitened"], eps_last=6)
        {match.attack: match.success for match in found.audit.matches}

    Args:
        run: finished run of :func:`meninx.train`.
        steps: those of ``create``, ``match`` and ``visualise`` that are carried out.
        public: prepared dataset of the attacker's own images; half of the test patients without it.
        out: folder that gets ``audit/``; by default the run folder.
        data: folder of the run's dataset, where it was moved.
        progress: shows attacks and experiments.
        **settings: those of ``meninx audit reconstruct``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see
            ``meninx.audit.reconstruction.steps.run_reconstruction``.
    """
    from meninx.audit.reconstruction.config import ReconstructionConfig
    from meninx.audit.reconstruction.steps import run_reconstruction

    config = config_settings.build(ReconstructionConfig, settings, _HERE)
    return run_reconstruction(
        config, Path(run), steps=tuple(steps), public=_path(public), out=_path(out), data=_path(data),
        progress=progress,
    )  # fmt: skip


def audit_identity(
    source: StrPath,
    *,
    probes: StrPath | None = None,
    out: StrPath | None = None,
    data: StrPath | None = None,
    progress: Progress = SILENT,
    **settings: Unpack[IdentitySettings],
) -> IdentityResult:
    """Link images to other images of the same patient: does a file without a name tell whose it is?

    Example::

        found = meninx.audit_identity("data", attacks=["hog"], out="identity")
        found.audit.verdict

    Args:
        source: prepared dataset, or finished run, whose dataset is taken.
        probes: dataset with changed images of the same cases.
        out: folder that gets ``audit/``; by default the run folder, or ``identity``.
        data: folder of the dataset of a run, where it was moved.
        progress: shows images and steps.
        **settings: those of ``meninx audit identity``.

    Raises:
        UsageError, DataError: see ``meninx.audit.reidentification.run_identity``.
    """
    from meninx.audit.config import IdentityConfig
    from meninx.audit.reidentification import run_identity

    config = config_settings.build(IdentityConfig, settings, _HERE)
    return run_identity(
        config, Path(source), probes=_path(probes), out=_path(out), data=_path(data), progress=progress
    )


def _path(given: StrPath | None) -> Path | None:
    return None if given is None else Path(given)
