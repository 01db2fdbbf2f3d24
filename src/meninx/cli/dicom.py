"""``meninx dicom``: small steps on cleaned DICOM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App, Parameter

from meninx.cli import early
from meninx.cli.console import Output
from meninx.cli.examples import epilogue
from meninx.cli.groups import GROUPS
from meninx.core.errors import UsageError, expected

if TYPE_CHECKING:
    from meninx.dicom.label_rules import Rule

HELP = GROUPS["dicom"]
dicom = App("dicom", HELP, help_epilogue=epilogue("dicom"))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LabelFrom:
    """Where a file's label comes from; give one of them.

    Attributes:
        from_folder: Level of the folder whose name is the label: -1 is the folder that holds the file.
        from_table: CSV table with the label in --column.
        column: Column of the label in the table.
        key: Column of the table that names a file: SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID,
            PatientID or file.
        from_pattern: Regular expression searched in the relative path; its group is the label.
        from_tag: Attribute whose value is the label.
    """

    from_folder: int | None = None
    from_table: Path | None = None
    column: str = "label"
    key: str = "SOPInstanceUID"
    from_pattern: str | None = None
    from_tag: str | None = None

    def rule(self) -> Rule:
        """Return the rule, or refuse when there is not exactly one."""
        from meninx.dicom import label_rules

        found: list[Rule] = []
        if self.from_folder is not None:
            found.append(label_rules.FromFolder(level=self.from_folder))
        if self.from_table is not None:
            found.append(label_rules.FromTable(table=self.from_table, column=self.column, key=self.key))
        if self.from_pattern is not None:
            found.append(label_rules.FromPattern(pattern=self.from_pattern))
        if self.from_tag is not None:
            found.append(label_rules.FromTag(tag=self.from_tag))
        if len(found) != 1:
            what = "one of --from-folder, --from-table, --from-pattern, --from-tag"
            raise UsageError(expected(what, got=f"{len(found)} of them", where="meninx dicom"))
        return found[0]


@dicom.command(help_epilogue=epilogue("dicom label"))
def label(
    source: Path,
    out: Path,
    /,
    *,
    tag: str,
    rule: LabelFrom = LabelFrom(),
    overwrite: bool = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write a label into a standard attribute of copies; the source is only read.

    Args:
        source: Folder of DICOM files.
        out: Folder of the copies.
        tag: Attribute that gets the label: keyword, (gggg,eeee) or eight hexadecimal digits.
        overwrite: Replace other files in the output.
    """
    early.exists(source)
    from meninx.dicom.label import write_labels

    output.show(write_labels(source, out, tag, rule.rule(), overwrite=overwrite, progress=output.progress()))


@dicom.command(help_epilogue=epilogue("dicom export"))
def export(
    source: Path,
    out: Path,
    /,
    *,
    intensity: Literal["stored", "display"] = "stored",
    bits: Literal["8", "16"] = "8",
    attributes: tuple[str, ...] = (),
    trusted: bool = False,
    overwrite: bool = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write cleaned DICOM as PNG (single images) and NIfTI (series), each with a JSON side-car.

    Args:
        source: Folder of de-identified DICOM.
        out: Folder of the images.
        intensity: stored is lossless, display is windowed.
        bits: Bit depth of display images.
        attributes: Further attributes for the side-cars, by keyword.
        trusted: Accept files without PatientIdentityRemoved YES.
        overwrite: Replace images of an earlier export.
    """
    early.exists(source)
    from meninx.dicom.export import ExportConfig, export_images

    config = ExportConfig(
        intensity=intensity, bits=int(bits), attributes=attributes, trusted=trusted, overwrite=overwrite
    )
    output.show(export_images(source, out, config, progress=output.progress()))


@dicom.command(help_epilogue=epilogue("dicom restore"))
def restore(source: Path, out: Path, /, *, overwrite: bool = False, output: Output = Output()) -> None:  # noqa: B008 (frozen)
    """Write PNG images with JSON side-cars back as DICOM with new UIDs.

    Args:
        source: Folder that `meninx dicom export` wrote.
        out: Folder of the DICOM files.
        overwrite: Replace existing files.
    """
    early.exists(source)
    from meninx.dicom.restore import restore_images

    output.show(restore_images(source, out, overwrite=overwrite, progress=output.progress()))


@dicom.command(help_epilogue=epilogue("dicom media"))
def media(
    source: Path,
    out: Path,
    /,
    *,
    way: Literal["copy", "hardlink"] = "copy",
    dry_run: bool = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Write a clean archive as a medium: short names and a new DICOMDIR, to burn or to hand to a viewer.

    Args:
        source: Folder that `meninx deid` wrote.
        out: New folder of the medium. It holds nothing private.
        way: How files get there; a hard link saves space and needs the same disk.
        dry_run: Read, check and count everything, write nothing.
    """
    early.exists(source)
    from meninx.dicom.media import write_medium

    output.show(write_medium(source, out, way=way, dry_run=dry_run, progress=output.progress()))


@dicom.command(help_epilogue=epilogue("dicom folders"))
def folders(
    source: Path,
    out: Path,
    /,
    *,
    rule: LabelFrom = LabelFrom(),
    way: Literal["copy", "hardlink", "symlink"] = "copy",
    overwrite: bool = False,
    output: Output = Output(),  # noqa: B008 (frozen)
) -> None:
    """Sort images into class folders, with a folder "missing" for those without a label.

    Args:
        source: Folder of images.
        out: Folder of the class folders.
        way: How images get there; a link saves space and needs the source to stay.
        overwrite: Replace other files in the output.
    """
    early.exists(source)
    from meninx.dicom.class_folders import class_folders

    output.show(
        class_folders(source, out, rule.rule(), way=way, overwrite=overwrite, progress=output.progress())
    )


@dicom.command(help_epilogue=epilogue("dicom table"))
def table(source: Path, out: Path, /, *, overwrite: bool = False, output: Output = Output()) -> None:  # noqa: B008 (frozen)
    """Write the CSV table of a folder of class folders.

    Args:
        source: Folder of class folders.
        out: CSV file to write.
        overwrite: Replace another table.
    """
    early.exists(source)
    from meninx.dicom.class_folders import class_table

    output.show(class_table(source, out, overwrite=overwrite, progress=output.progress()))
