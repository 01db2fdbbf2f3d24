"""``meninx verify``: is a folder as meninx wrote it, and does what it says follow from what it holds?

It sees damage, mixed-up parts and edited numbers. It sees forgery in a signed dossier or clean archive alone:
nothing else is signed, so who can write a folder and its digests can change both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meninx.core import artifacts, signing_key
from meninx.core.artifacts import RunRecord, SweepRecord
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.verify import dicom_stage, folder_checks
from meninx.verify import run_checks as runs
from meninx.verify.check_list import Check, CheckList, Expected, State, plain
from meninx.verify.config import DicomCheckConfig
from meninx.verify.dicom_result import DicomCheckResult


@dataclass(frozen=True, kw_only=True)
class VerifyResult(Result):
    """What was checked and what came of it.

    Attributes:
        kinds: what was found: ``run``, ``dataset``, ``clean archive``, ``medium``, ``predictions``,
            ``release``, ``sweep`` or ``dossier``.
        checks: one line each.
    """

    kinds: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed, and none is left out that a verification needs."""
        return not any(check.state in (State.NOT_OK, State.NOT_VERIFIED) for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 when all is well, 4 when a promise to patients does not hold, 3 for other damage.

        It is 3, too, where a check is left out without which nothing is verified.
        """
        failed = [check for check in self.checks if check.state is State.NOT_OK]
        if self.ok:
            return 0
        return 4 if any(check.privacy for check in failed) else 3

    def summary(self) -> str:
        """Return one line for every check and one for all.

        Of several folders, one line for each that is whole.
        """
        return self._told(full=False)

    def in_full(self) -> str:
        """Return one line for every check of every folder, and one for all."""
        return self._told(full=True)

    def _told(self, *, full: bool) -> str:
        folders = dict.fromkeys(check.folder for check in self.checks)
        lines = []
        for folder in folders:
            checks = [check for check in self.checks if check.folder == folder]
            bad = any(check.state in (State.NOT_OK, State.NOT_VERIFIED) for check in checks)
            if full or len(folders) == 1 or bad:
                lines += [check.line() for check in checks]
                continue
            made = sum(check.state is State.OK for check in checks)
            left = f", {len(checks) - made} not possible (--verbose names them)" if made < len(checks) else ""
            lines.append(
                f"{State.OK:<12}  {plain(folder) or self.out.name}: {number_of(made, 'check')} passed{left}"
            )
        count = sum(check.state is State.NOT_OK for check in self.checks)
        omitted = [check.why for check in self.checks if check.state is State.NOT_VERIFIED]
        last = f"not verified: {omitted[0]}" if omitted else "all checks passed"
        last = f"{count} of {number_of(len(self.checks), 'check')} failed" if count else last
        open_ones = sum(check.state is State.NOT_POSSIBLE for check in self.checks)
        more = f"; {open_ones} could not be made" if open_ones else ""
        return "\n".join([*lines, f"{last}{more}"])

    def to_table(self) -> dict[str, Any]:
        """Return the fields as plain values, with the verdict."""
        return {**super().to_table(), "ok": self.ok, "exit_code": self.exit_code}

    def raise_if_failed(self) -> None:
        """Raise the error of a failed verification.

        Raises:
            PrivacyRefusal: a promise to patients does not hold.
            DataError: other damage.
        """
        if self.ok:
            return
        left = [check for check in self.checks if check.state is State.NOT_VERIFIED]
        count = sum(check.state is State.NOT_OK for check in self.checks)
        if not count:
            fix = left[0].fix
            raise DataError(problem(f"not verified: {left[0].why}", where=self.out.name, fix=fix))
        fix = "the lines above say what; restore it, or make it again"
        failed = [check for check in self.checks if check.state is State.NOT_OK]
        unfinished = {check.folder for check in failed if check.what == "state"}
        if unfinished >= {check.folder for check in failed} and not any(check.privacy for check in failed):
            fix = next((check.fix for check in failed if check.fix), fix)
        message = expected(
            "a folder as meninx wrote it", got=number_of(count, "failed check"), where=self.out.name, fix=fix
        )
        raise PrivacyRefusal(message) if self.exit_code == PrivacyRefusal.exit_code else DataError(message)


def run(
    folder: Path,
    *,
    signer: str = "",
    decision: Path | None = None,
    config: DicomCheckConfig | None = None,
    progress: Progress = SILENT,
) -> VerifyResult | DicomCheckResult:
    """Check every folder of meninx in a place, or the DICOM files in a place that holds none.

    Args:
        folder: a run, dataset, clean archive, medium, predictions, release, bundle, sweep or dossier, or a
            folder of such.
        signer: fingerprint of the key that a dossier or clean archive has to be signed with; empty for any.
        decision: filled-in form of a dossier.
        config: what is searched for in DICOM files of another origin; by default nothing but what they
            show by themselves.
        progress: told of every file whose digest is computed.

    Raises:
        UsageError: there is no such folder, or nothing of meninx and no DICOM in it; a decision is given and
            the folder is no dossier; a signer is given and it is no dossier, clean archive or medium;
            settings for DICOM files of another origin are given and meninx wrote the folder; or ``dicom`` is
            given and meninx did not write it.
    """
    root, known = folder.resolve(), Expected(signer=signer, decision=decision)
    settings = config or DicomCheckConfig()
    if known == Expected() and (root.is_file() or settings.dicom):
        _refuse_idle_dicom(root, settings)
        return dicom_stage.run(root, settings, progress=progress)
    if not root.is_dir():
        raise UsageError(problem("there is no such folder", where=root.name))
    kind = folder_checks.kind_of(root)
    if decision is not None and kind != folder_checks.DOSSIER:
        fix = "give the folder that holds dossier.json"
        raise UsageError(problem("a decision belongs to a dossier", where=root.name, fix=fix))
    if signer and kind not in (folder_checks.DOSSIER, folder_checks.ARCHIVE, folder_checks.MEDIUM):
        fix = "give the folder that holds dossier.json, deid.json or media.json"
        what = "a signer belongs to a dossier, a clean archive or a medium of one"
        raise UsageError(problem(what, where=root.name, fix=fix))
    if signer:
        signing_key.read_fingerprint(signer)
    places = list(folder_checks.found(root))
    if not places and known == Expected():
        return dicom_stage.run(root, settings, progress=progress)
    if settings != DicomCheckConfig():
        what = "meninx wrote this folder, and verify compares its digests"
        fix = "give --dicom to check the DICOM files in it"
        if settings.dicom:  # so a signer or decision is given, too
            what = "--signer belongs to the check of digests, and --dicom to that of the DICOM files"
            fix = "run it once with --signer, and once without it and with the other settings"
        raise UsageError(problem(what, where=root.name, fix=fix))
    checks, kinds = list[Check](), list[str]()
    for place, kind in places:
        book = CheckList("" if place == root else place.relative_to(root).as_posix())
        book.guard(kind, partial(_check, book, place, kind, known, progress))
        checks += book.checks
        kinds.append(kind)
    return VerifyResult(out=root, kinds=tuple(kinds), checks=tuple(checks))


def _refuse_idle_dicom(root: Path, settings: DicomCheckConfig) -> None:
    """Refuse ``dicom`` for files that are checked without it.

    Raises:
        UsageError: meninx wrote no folder there.
    """
    if settings.dicom and root.exists() and not (root.is_dir() and any(folder_checks.found(root))):
        what = "the setting has no effect: meninx wrote no folder here, and DICOM files are checked anyway"
        raise UsageError(problem(what, where="dicom", fix="leave --dicom out"))


def _check(book: CheckList, place: Path, kind: str, known: Expected, progress: Progress) -> None:
    if kind == folder_checks.RUN:
        runs.check(book, place, progress)
    elif kind == folder_checks.SWEEP:
        _sweep(book, place)
    elif kind == folder_checks.DOSSIER:
        from meninx.verify import dossier_checks  # it computes bounds, which takes libraries of [train]

        dossier_checks.check(book, place, known, progress)
    elif kind == folder_checks.DATASET:
        folder_checks.dataset(book, place, progress)
    elif kind == folder_checks.ARCHIVE:
        folder_checks.archive(book, place, known, progress)
    elif kind == folder_checks.MEDIUM:
        folder_checks.medium(book, place, known, progress)
    elif kind == folder_checks.PREDICTIONS:
        folder_checks.predictions(book, place, progress)
    elif kind == folder_checks.FEATURES:
        folder_checks.features(book, place, progress)
    else:
        folder_checks.release(book, place, progress)


def _sweep(book: CheckList, place: Path) -> None:
    """Check that the runs behind the rows of a sweep are the ones that lie in it."""
    record = artifacts.require(place, SweepRecord, fix="run the sweep again")
    there = [
        artifacts.read(folder, RunRecord)
        for folder, kind in folder_checks.found(place)
        if kind == folder_checks.RUN
    ]
    missing = set(record.runs) - {item.id for item in there if item is not None}
    if record.runs:
        book.judge(
            "runs of the sweep",
            [f"not here: {len(missing)} of {number_of(len(record.runs), 'run')}"] if missing else [],
        )
    else:
        book.impossible("runs of the sweep", "an older version wrote it")
