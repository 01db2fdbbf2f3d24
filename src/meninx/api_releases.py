"""The public functions of released datasets that hide an attribute: make, attack and compare them.

A release that misses its target is in the result: ``raise_if_failed()`` raises. ::

    made = meninx.obfuscate("data", "hidden", method="noise", target=0.6)
    meninx.audit_release("data", "received", out="found")
    meninx.compare_releases(["hidden", "coded"], "compared")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from meninx._settings import AuditReleaseSettings, ObfuscateSettings
from meninx.core import settings as config_settings
from meninx.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from meninx.obfuscate.audited_release import ReleaseAuditResult
    from meninx.obfuscate.feature_stage import FeatureReleaseResult
    from meninx.obfuscate.stage import ObfuscateResult
    from meninx.report.release_comparison import ComparisonResult

StrPath = str | Path
_HERE = "meninx"


def obfuscate(
    source: StrPath,
    out: StrPath,
    *,
    recipe: str = "",
    progress: Progress = SILENT,
    **settings: Unpack[ObfuscateSettings],
) -> ObfuscateResult:
    """Release a dataset whose images hide an attribute of the patient, and attack the release.

    A release that misses its target is in the result (``raise_if_failed()``), not raised.

    Args:
        source: prepared dataset of 2-D images with labels.
        out: folder of the released dataset, not inside the source.
        recipe: packaged recipe or TOML file; settings win over it.
        progress: shows the work.
        **settings: those of ``meninx obfuscate``.

    Guarantee: see ``meninx.obfuscate.stage.run``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.obfuscate.stage.run``.
    """
    from meninx import workflow
    from meninx.obfuscate.config import ObfuscateConfig

    config = config_settings.resolve_recipe(ObfuscateConfig, recipe, (settings, _HERE))
    return workflow.obfuscate(config, Path(source), Path(out), progress=progress)


def obfuscate_features(
    source: StrPath,
    out: StrPath,
    *,
    data: StrPath | None = None,
    model: nn.Module | None = None,
    recipe: str = "",
    progress: Progress = SILENT,
    **settings: Unpack[ObfuscateSettings],
) -> FeatureReleaseResult:
    """Release feature vectors that hide an attribute of the patient, and attack the release.

    A release that misses its target is in the result (``raise_if_failed()``), not raised.

    Args:
        source: folder of a finished run, whose embeddings are released, or a ``.npz`` or ``.csv`` file.
        out: folder of the release.
        data: dataset to embed; by default that of the run.
        model: the network of a run that was given one of its own.
        recipe: packaged recipe or TOML file; settings win over it.
        progress: shows the work.
        **settings: those of ``meninx obfuscate features``.

    Guarantee: see ``meninx.obfuscate.feature_stage.run``.

    Raises:
        UsageError, DataError, PrivacyRefusal: see ``meninx.obfuscate.feature_stage.run``.
    """
    from meninx import workflow
    from meninx.obfuscate.config import ObfuscateConfig

    config = config_settings.resolve_recipe(ObfuscateConfig, recipe, (settings, _HERE))
    folder = None if data is None else Path(data)
    return workflow.obfuscate_features(
        config, Path(source), Path(out), data=folder, network=model, progress=progress
    )


def audit_release(
    original: StrPath,
    released: StrPath,
    *,
    out: StrPath | None = None,
    recipe: str = "",
    progress: Progress = SILENT,
    **settings: Unpack[AuditReleaseSettings],
) -> ReleaseAuditResult:
    """Attack a released dataset, whoever made it, with attackers that are trained on it.

    A release that misses its target is in the result (``raise_if_failed()``), not raised.

    Args:
        original: prepared dataset of the original images.
        released: dataset with the same cases, patients and splits, and changed images.
        out: folder of record and page; by default the release where meninx made it, else ``release_audit``.
        recipe: packaged recipe or TOML file; settings win over it.
        progress: shows the attackers.
        **settings: those of ``meninx obfuscate audit``.

    Raises:
        UsageError, DataError: see ``meninx.obfuscate.audited_release.audit_existing``.
    """
    from meninx import workflow
    from meninx.obfuscate.config import ReleaseAuditConfig

    config = config_settings.resolve_recipe(ReleaseAuditConfig, recipe, (settings, _HERE))
    place = None if out is None else Path(out)
    return workflow.audit_release(config, Path(original), Path(released), place, progress=progress)


def compare_releases(
    releases: Iterable[StrPath],
    out: StrPath,
    *,
    original: StrPath | None = None,
    overwrite: bool = False,
) -> ComparisonResult:
    """Compare releases of one dataset: what each costs, and what attackers find.

    Args:
        releases: folders that ``meninx obfuscate`` wrote and attacked, at least two.
        out: folder of table, record, Pareto plot and page.
        original: dataset that all releases were made of. With it and their private rooms, that is proven.
        overwrite: replace an earlier comparison.

    Raises:
        UsageError, DataError: see ``meninx.report.release_comparison.compare``.
    """
    from meninx.report.release_comparison import compare

    source = None if original is None else Path(original)
    return compare([Path(path) for path in releases], Path(out), original=source, overwrite=overwrite)
