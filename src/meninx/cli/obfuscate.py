"""``meninx obfuscate``: a dataset in which an attribute of the patient is hard to find."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.flags import with_settings
from meninx.obfuscate.config import ObfuscateConfig

HELP = "Release a dataset whose images hide an attribute of the patient, and attack the release."
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
    alone tell about the attribute is shown first. Originals, the key and the files of the method stay in
    private/.

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
    from meninx.obfuscate import stage

    result = stage.run(config, source, out, progress=output.progress())
    output.show(result)
    result.raise_if_failed()
