"""The files of one audit in a folder: record, table and figures, and what they may replace.

An audit replaces only what an audit of the same run wrote. The record comes last, so that it says that the
others are complete; until then a mark beside them says who is writing.

    >>> import tempfile
    >>> from meninx.core.audit_records import MembershipAudit
    >>> files_of_membership = AuditFiles(kind=MembershipAudit, title="an audit", names=("a.csv",))
    >>> place = Path(tempfile.mkdtemp())
    >>> files_of_membership.refuse(place, run="", own=False, overwrite=False)
    >>> (place / "a.csv").write_text("patient,visits") and None
    >>> files_of_membership.refuse(place, run="", own=False, overwrite=True)
    Traceback (most recent call last):
    meninx.core.errors.UsageError: the folder holds files that no audit wrote: a.csv (...
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from meninx.core import artifacts, files, workspace
from meninx.core.errors import DataError, UsageError, problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WRITING = "Table and figures beside this file are being written by meninx.\n"
_LINKED = "remove the link, or give another --out"
_ANOTHER = "give another --out"


def measured_run(record: Any) -> str:
    """Return the identity of the run that a record was measured on; empty for a dataset alone."""
    return str(record.origin.run)


@dataclass(frozen=True, kw_only=True)
class AuditFiles:
    """The files of one kind of audit, beside each other in one folder.

    Attributes:
        kind: type of the record.
        title: of the audit, in a sentence.
        names: of tables and figures.
        run_of: record -> identity of the run that it belongs to.
        pictures: name of a subfolder whose files have no fixed names; empty without one.
    """

    kind: type[Any]
    title: str
    names: tuple[str, ...]
    run_of: Callable[[Any], str] = measured_run
    pictures: str = ""

    @property
    def record(self) -> str:
        """Name of the record."""
        return PurePosixPath(artifacts.place(self.kind)).name

    @property
    def mark(self) -> str:
        """Name of the file that is there while tables and figures are written."""
        return self.record.replace(".json", ".unfinished")

    def refuse(self, place: Path, *, run: str, own: bool, overwrite: bool) -> None:
        """Refuse a folder where the audit would replace anything but an earlier audit of the same run.

        Args:
            place: folder of the files; it need not exist.
            run: identity of the audited run; empty for a dataset or a mechanism without a run.
            own: the folder is the ``audit/`` of the audited run, which holds nothing of anybody else.
            overwrite: an earlier audit may be replaced.

        Raises:
            UsageError: a file or the folder of pictures is a link, the run was audited before, or there are
                files that no audit of this run wrote.
        """
        self.refuse_links(place)
        where = f"{place.name}/{self.record}"
        there, found = (place / self.record).exists(), self._found(place)
        if there and not (found or own):
            what = f"the folder holds files that no audit wrote: {self.record}"
            raise UsageError(problem(what, where=place.name, fix=_ANOTHER))
        if there and not overwrite:
            what = "the run was audited before" if own else f"the folder holds {self.title} already"
            fix = "give --overwrite to audit it again" + ("" if own else ", or another --out")
            raise UsageError(problem(what, where=where, fix=fix))
        if found is not None and not own and self.run_of(found) != run:
            what = "the folder holds the audit of another run, which is not replaced"
            raise UsageError(problem(what, where=where, fix=_ANOTHER))
        strange = [] if own or found is not None or self._begun(place) else self._strange(place)
        if strange:
            what = f"the folder holds files that no audit wrote: {', '.join(strange)}"
            raise UsageError(problem(what, where=place.name, fix=_ANOTHER))

    def refuse_links(self, place: Path) -> None:
        """Refuse a link in place of a file or of the folder of pictures.

        Raises:
            UsageError: there is one, even if its target does not exist.
        """
        if self.pictures:
            workspace.refuse_linked(place, self.pictures)
        for name in (self.record, *self.names):
            if (place / name).is_symlink():
                what = "a file of the audit is a link to another file"
                raise UsageError(problem(what, where=f"{place.name}/{name}", fix=_LINKED))

    @contextmanager
    def writing(self, place: Path) -> Iterator[None]:
        """Mark the folder as being written, until the record is there; a killed process leaves the mark."""
        self.refuse_links(place)
        files.write_text(place / self.mark, _WRITING)
        yield
        (place / self.mark).unlink(missing_ok=True)

    def _found(self, place: Path) -> Any:
        """Return the record in the folder; None where there is none, or something else has its name."""
        try:
            return artifacts.read_file(place / self.record, self.kind)
        except DataError:
            return None

    def _begun(self, place: Path) -> bool:
        mark = place / self.mark
        try:
            return mark.is_file() and files.read_text(mark, limit=len(_WRITING)) == _WRITING
        except DataError:
            return False

    def _strange(self, place: Path) -> list[str]:
        found = [name for name in self.names if (place / name).exists()]
        pictures = place / self.pictures if self.pictures else None
        if pictures is not None and pictures.exists() and (not pictures.is_dir() or any(pictures.iterdir())):
            found.append(self.pictures)
        return found


def save_figure(figure: Figure, *paths: Path, dpi: int) -> None:
    """Write a figure to all ``paths`` (.svg or .png), the same bytes for equal content.

    Links are not followed. The layout takes half of the time, so it is computed for the first path and kept
    for the others.
    """
    for path in paths:
        buffer, kind = io.BytesIO(), path.suffix.removeprefix(".")
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=dpi)
        figure.set_layout_engine("none")
        files.write_bytes(path, buffer.getvalue())
