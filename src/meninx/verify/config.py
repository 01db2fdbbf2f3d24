"""Settings of `meninx verify` for DICOM files of any origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meninx.core.errors import ConfigError, problem
from meninx.core.setting_types import CountOrZero
from meninx.core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DicomCheckConfig(Settings):
    """One check of DICOM files. A folder that meninx did not write is checked without `dicom`.

    Attributes:
        dicom: Check the DICOM files of a clean archive of meninx instead of its digests and records. Refused
            for a folder that meninx did not write, whose DICOM files are checked without it.
        originals: Archive from which the files were made. Its identifiers are searched in every file and
            path.
        identifiers: File with names, IDs and dates to search for: one per line, or a table with a header.
        crosswalks: File crosswalk_uids.csv of meninx, which says from which original each file was made.
        conformance: Run dciodvfy on every file (needs the extra `conformance`). With originals, only errors
            that the original does not have count.
        pixels: Search the pixels for text that is not technical (needs the extra `ocr`).
        page: HTML page to write.
        show_paths: Show the paths of the files. Without it each file has a number, because paths may hold
            names.
        workers: Processes; 0 chooses by the number of cores, 1 uses this process only.
        overwrite: Replace an existing page.
    """

    dicom: bool = False
    originals: Path | None = None
    identifiers: Path | None = None
    crosswalks: Path | None = None
    conformance: bool = False
    pixels: bool = False
    page: Path | None = None
    show_paths: bool = False
    workers: CountOrZero = 0
    overwrite: bool = False

    def check_rules(self) -> None:
        """Refuse a crosswalk without its originals, and the replacement of a page that is not written."""
        if self.crosswalks is not None and self.originals is None:
            raise ConfigError(
                problem(
                    "a crosswalk has no effect without originals", where="crosswalks", fix="give --originals"
                )
            )
        if self.overwrite and self.page is None:
            raise ConfigError(problem("there is no page to replace", where="overwrite", fix="give --page"))
