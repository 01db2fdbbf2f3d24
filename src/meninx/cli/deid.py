"""``meninx deid``: from a hospital's archive to clean DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.flags import with_settings
from meninx.core import workspace
from meninx.deid.config import DeidConfig


@with_settings()
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
    """De-identify a DICOM archive with a site's own key: headers, and text in the pixels.

    Exit code 0: at least one file is clean; read the counts of those that were kept out. 3: none is.

    Args:
        source: Folder of DICOM files, searched recursively; file names need no extension. Zip archives in it
            are read, too. One file or zip archive alone is also a source.
        out: New folder for the clean files; must not be inside the source.
        new_key: Create the key file first; an existing file is never replaced, and refused unless OUT holds a
            run with this key and these settings, which goes on. A dry run creates no file and uses a random
            key.
        recipe: TOML file with these settings; flags override it.
    """
    early.exists(source, config.lookup, config.overrides, config.issuer_domains, config.decisions)
    workspace.apart(out, [source])
    early.extra(*(["cluster"] if config.scheduler else []))
    from meninx.deid import stage

    throwaway = stage.make_key_once(config, source, out) if new_key else None
    result = stage.run(config, source, out, progress=output.progress(), throwaway=throwaway)
    output.show(result)
    result.raise_if_nothing_is_clean()
