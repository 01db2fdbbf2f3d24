"""Checks of a medium that `meninx dicom media` wrote: its files, its DICOMDIR, and the archive it came from.

Nothing on a medium is signed for the medium. Its files are those of the archive, whose signed papers go with
it, and the DICOMDIR is compared with the one that follows from the files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from meninx.core import artifacts, clean_archive, files, integrity
from meninx.core.artifacts import DeidRecord, MediaRecord
from meninx.core.errors import DataError, problem
from meninx.core.progress import Progress
from meninx.core.summaries import number_of
from meninx.dicom import media
from meninx.verify import archive_papers
from meninx.verify.check_list import CheckList, Expected, plain


def check(book: CheckList, root: Path, record: MediaRecord, expected: Expected, progress: Progress) -> None:
    """Check what a medium holds beyond its own list of digests."""
    apart = {media.DIRECTORY, *(f"{media.PAPERS}/{name}" for name in media.SIGNED_PAPERS)}
    on_medium = {name: digest for name, digest in integrity.read(root).items() if name not in apart}
    book.guard("papers of the archive", lambda: _papers(book, root, record, on_medium, expected))
    book.guard("DICOMDIR", lambda: _directory(book, root, record, on_medium, progress))


def _papers(
    book: CheckList, root: Path, record: MediaRecord, on_medium: dict[str, str], expected: Expected
) -> None:
    """Check that the files are those of one archive, and its papers."""
    papers = root / media.PAPERS
    archive = artifacts.require(papers, DeidRecord, fix="make the medium again from the archive")
    listed = {name: digest for name, digest in integrity.read(papers).items() if clean_archive.is_image(name)}
    wrong = []
    if not record.archive == archive.checksums == integrity.digest_of(papers):
        wrong.append("deid.json, media.json and the list of the archive do not belong together")
    if record.signer not in ("", archive.signer):  # empty where no signature was checked
        wrong.append("media.json names another signer than deid.json")
    if sorted(listed.values()) != sorted(on_medium.values()):
        wrong.append("the files are not those that the archive lists")
    book.judge(
        "papers of the archive",
        wrong,
        privacy=True,
        remark=f"{number_of(len(listed), 'file')} of the archive",
    )
    archive_papers.signature(book, papers, archive, expected)


def _directory(
    book: CheckList, root: Path, record: MediaRecord, on_medium: dict[str, str], progress: Progress
) -> None:
    """Write the DICOMDIR again from the files on the medium, and compare.

    Another version of the software may write other bytes. One that differs is then not verified: what the
    medium says about its software is not signed.
    """
    medium = media.placed(media.planned(root, sorted(on_medium), progress))
    wrong = []
    if any(one.path != one.entry.path for one in medium):
        wrong.append("files have other names than their order gives")
    if media.counted(medium) != media.counts_of(record):
        wrong.append(f"{artifacts.place(MediaRecord)} says other numbers")
    same = True
    if not wrong:
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / media.DIRECTORY
            with again.open("w+b") as stream:
                said = media.write_directory(
                    stream,
                    medium,
                    lambda one: root / one.path,
                    media.file_set_uid(on_medium.values()),
                    progress,
                )
            same = files.digest(again) == _digest(root / media.DIRECTORY)
        if not same and record.software == media.software():
            wrong.append("it is not the one that follows from the files")
        if same and (said.private, said.stand_ins) != (record.private_records, record.stand_ins):
            wrong.append(f"{artifacts.place(MediaRecord)} says other stand-ins or private records")
    if not wrong and not same:
        why = (
            f"{plain(record.software)} is said to have written it, and {media.software()} writes another one"
        )
        fix = "verify it with the software that wrote it, or make the medium again from the archive"
        book.unverified("DICOMDIR", why, fix=fix)
        return
    book.judge("DICOMDIR", wrong, privacy=True, remark=number_of(len(medium), "file"))


def _digest(path: Path) -> str:
    if not path.is_file():
        raise DataError(problem("it is missing", where=media.DIRECTORY))
    return files.digest(path)
