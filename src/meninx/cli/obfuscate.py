"""``meninx obfuscate``: a dataset in which an attribute of the patient is hard to find."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.flags import with_settings
from meninx.cli.groups import GROUPS
from meninx.obfuscate.config import ObfuscateConfig, ReleaseAuditConfig

HELP = GROUPS["obfuscate"]
obfuscate = App("obfuscate", HELP, help_epilogue=epilogue("obfuscate"))


@obfuscate.default
@with_settings("method", "attribute", "age_bins", "labels", "budget", "keep_attribute", "seed", "dry_run")
def obfuscate_dataset(
    source: Path,
    out: Path,
    /,
    *,
    config: ObfuscateConfig,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Release a dataset whose images hide an attribute of the patient, and attack the release.

    The release is a dataset folder that `meninx train`, `federate` and `audit` accept. What the true labels
    alone tell about the attribute is shown first. report.html in the release says what attackers find.
    Originals, the key and the files of the method stay in private/.

    Args:
        source: Prepared dataset of 2-D images with labels.
        out: New folder for the released dataset.
        recipe: TOML file with these settings; flags override it.
    """
    early.exists(source)
    early.dataset(source)
    early.extra("train")
    early.device(config.device)
    early.result(out, source, stage="obfuscate", replaced=config.resume or config.overwrite)
    from meninx import workflow

    result = workflow.obfuscate(config, source, out, progress=output.progress())
    output.show(result)
    result.raise_if_failed()


@obfuscate.command(name="features", help_epilogue=epilogue("obfuscate features"))
@with_settings("method", "attribute", "age_bins", "labels", "quantise", "target", "seed", "dry_run")
def features(
    source: Path,
    out: Path,
    /,
    *,
    config: ObfuscateConfig,
    recipe: str | None = None,
    data: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Release feature vectors that hide an attribute of the patient, and attack the release.

    The vectors are embeddings of a finished run, or those of a file: an .npz with features, case_id,
    patient_id and columns, or a CSV with the columns feature_0, feature_1, and so on. The method leace or
    kernel-erasure hides the attribute from linear attackers; codes, or --quantise, may carry a certificate.

    Args:
        source: Folder of a finished run, or an .npz or .csv file.
        out: New folder for features.npz, manifest.csv and the records.
        recipe: TOML file with these settings; flags override it.
        data: Dataset to embed; by default that of the run.
    """
    early.exists(source, data)
    early.dataset(data)
    early.extra("train")
    early.device(config.device)
    from meninx import workflow

    result = workflow.obfuscate_features(config, source, out, data=data, progress=output.progress())
    output.show(result)
    result.raise_if_failed()


@obfuscate.command(name="audit", help_epilogue=epilogue("obfuscate audit"))
@with_settings("attribute", "age_bins", "labels", "target", "seed", "overwrite")
def audit(
    original: Path,
    release: Path,
    /,
    *,
    config: ReleaseAuditConfig,
    recipe: str | None = None,
    out: Path | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Attack a released dataset, whoever made it, with attackers that are trained on it.

    Images are matched by case. Patients of the training split train the attackers, those of the validation
    split choose among them, and those of the test split are attacked. Of a release of meninx with its
    private room the method is fitted again, so that everything is measured. Writes release_audit.json and
    report.html. Exit code 5: the target is exceeded, or a control failed where there is a target.

    Args:
        original: Prepared dataset of the original images.
        release: Dataset with the same cases, patients and splits, and changed images.
        recipe: TOML file with these settings; flags override it.
        out: Folder of the record; by default the release where meninx made it, else release_audit.
    """
    early.exists(original, release)
    early.dataset(original)
    early.dataset(release)
    early.extra("train")
    early.device(config.device)
    from meninx import workflow

    result = workflow.audit_release(config, original, release, out, progress=output.progress())
    output.show(result)
    result.raise_if_failed()


@obfuscate.command(name="compare", help_epilogue=epilogue("obfuscate compare"))
def compare(
    *releases: Path,
    out: Path = Path("release_comparison"),
    original: Path | None = None,
    overwrite: bool = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Compare releases of one dataset: what each costs, and what retrained attackers find.

    Writes a table (release_comparison.csv), a record (release_comparison.json), a Pareto plot
    (release_comparison.svg, release_comparison.png) and a page (report.html). Releases of different data,
    questions or strength of the attack, and releases that were not attacked, are refused.

    Args:
        releases: Folders that `meninx obfuscate` wrote, at least two.
        out: Folder of the results.
        original: Dataset that all releases were made of. With it and their private rooms, that is proven.
        overwrite: Replace an earlier comparison.
    """
    early.exists(*releases, original)
    from meninx.report.release_comparison import compare as compared

    output.show(compared(releases, out, original=original, overwrite=overwrite))
