"""``meninx deid``: a hospital's archive in, clean DICOM out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.deid.config import DeidConfig


@with_settings
def deid(
    source: Path,
    out: Path,
    /,
    *,
    config: DeidConfig,
    new_key: Annotated[bool, Parameter(negative="")] = False,
    recipe: str | None = None,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """De-identify a DICOM archive with a site's own key. Pixels are not looked at in this version.

    Args:
        source: Folder of DICOM files, searched in depth; no file name extension is needed.
        out: New folder for the clean files; never inside the source.
        new_key: Make the key file first; an existing file is never replaced. A dry run makes none: it counts
            with a random key.
        recipe: TOML file with these settings; flags win over it.
    """
    from meninx.deid import keys, stage

    throwaway = None
    if new_key and config.key is not None:
        stage.check_places(config, source, out)
        if not config.dry_run:
            keys.make_key(config.key)
        elif not config.key.exists():
            throwaway = keys.throwaway_key(config.site)
    output.show(stage.run(config, source, out, progress=output.progress(), throwaway=throwaway))
