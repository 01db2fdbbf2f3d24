"""Who opened an escrow, when and why: one line per time, chained, and sealed with the key that opened it.

A line holds no original value and no pseudonym; pseudonyms stand in it as keyed digests, so that the key's
holder can answer whether a given patient was ever looked up.

A log that is deleted or cut leaves no wrong line behind. So each access also writes how many lines there are
and the seal of the last one into two records, one beside the log and one beside the escrow, which usually lie
in different places. Whoever deletes the log and both records, or puts back older copies of all of them, is
not noticed; neither is the holder of the key, who can write any log.
"""

from __future__ import annotations

import getpass
import hmac
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from filelock import FileLock
from msgspec import Meta

from meninx.core import artifacts, files
from meninx.core.errors import DataError, PrivacyRefusal, StorageError, UsageError, expected, problem
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.deid.escrow import escrow_file
from meninx.deid.escrow.escrow_file import Opener
from meninx.deid.identity.identity_registry import usual_place

SUFFIX = ".reidentify-log"
RECORD = ".opened-"  # between the name of the log or of the escrow and eight digits that name the key
LONGEST_REASON = 500
MOST_DIGESTS = 10_000  # in one line; a larger request is logged by its number and the digest of all
_LIMIT = 1 << 30
_START = "0" * 64


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line.

    Attributes:
        number: 1 for the first line.
        when: time in UTC.
        user: name of the account under which the program ran.
        reason: as it was given.
        escrow: SHA-256 of the escrow that was opened.
        request: ``pseudonyms``, ``dicom`` or ``all``.
        asked: pseudonyms that were asked for; 0 for all.
        found: patients who were restored.
        digests: keyed digests of the restored pseudonyms, sorted; beyond 10,000 the digest of all of them.
        before: seal of the line before.
        seal: HMAC-SHA-256 over the line.
    """

    number: Annotated[int, Meta(ge=1)]
    when: str
    user: str
    reason: str
    escrow: str
    request: str
    asked: int
    found: int
    digests: tuple[str, ...]
    before: str
    seal: str = ""


class Opened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record of how far the log had come.

    Attributes:
        number: of its last line.
        last: seal of that line.
        seal: HMAC-SHA-256 over the record.
    """

    number: Annotated[int, Meta(ge=1)]
    last: str
    seal: str = ""


class AccessLog:
    """The log beside a key file.

    Guarantee: a changed, removed or added line is detected by whoever holds the key. So are a deleted log and
        lines cut from its end, as long as one of the two records is there and no older copy of it. Changes
        by the holder of the key are not detected.

    Args:
        path: the log.
        key: 32 bytes, see :meth:`.escrow_file.Opener.log_key`.
        escrow: the sealed file, beside which the second record lies.
    """

    def __init__(self, path: Path, key: bytes, escrow: Path) -> None:
        self.path, self._key = path, key
        suffix = RECORD + self._mac(b"name of a record")[:8]  # an escrow may be sealed anew for another key
        self.records = (path.with_name(path.name + suffix), escrow.with_name(escrow.name + suffix))

    def lines(self) -> Iterator[Access]:
        """Yield the lines in order.

        Raises:
            PrivacyRefusal: a line was changed, or is one of another key.
        """
        if not self.path.exists():
            return
        before = _START
        with files.regular(self.path) as stream:
            if os.fstat(stream.fileno()).st_size > _LIMIT:
                raise DataError(problem("the access log is too large", where=self.path.name))
            for number, line in enumerate(stream, start=1):
                access = self._read(line, number, before)
                before = access.seal
                yield access

    def checked(self) -> tuple[Access, ...]:
        """Return the lines in order, after a comparison with the records.

        Raises:
            PrivacyRefusal: a line or a record was changed, or lines are missing.
        """
        known = {record: self._opened(record) for record in self.records}
        lines = tuple(self.lines())
        for record, opened in known.items():
            if opened is not None and (
                len(lines) < opened.number or lines[opened.number - 1].seal != opened.last
            ):
                lines_then = number_of(opened.number, "line")
                what = f"the access log had {lines_then} or more and was deleted, cut or replaced"
                fix = (
                    f"put the log back ({self.path.name}); to go on without it, keep {record.name} for "
                    "whoever looks into it and move it away"
                )
                raise PrivacyRefusal(problem(what, where=self.path.name, fix=fix))
        return lines

    def missing_records(self) -> tuple[Path, ...]:
        """Return the records that should be there and are not; none before the first access."""
        return tuple(record for record in self.records if self.path.exists() and not record.exists())

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep other processes from adding lines, after a check of the lines that are there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock", mode=files.PRIVATE_MODE):
            self.checked()
            yield

    def append(self, *, reason: str, escrow: str, request: str, asked: int, found: Iterable[str]) -> Access:
        """Add a line and return it; it is on the disk when this returns, and so are the records.

        The record beside an escrow in a place that cannot be written, such as a DVD, is left out.

        Raises:
            PrivacyRefusal: the lines that are there were changed.
            StorageError: the disk refused.
        """
        number, before = 0, _START
        for access in self.lines():
            number, before = access.number, access.seal
        digests = sorted(self.digest(pseudonym) for pseudonym in found)
        listed = digests if len(digests) <= MOST_DIGESTS else [self._mac("\n".join(digests).encode())]
        made = Access(
            number=number + 1, when=artifacts.now(), user=account(), reason=reason, escrow=escrow,
            request=request, asked=asked, found=len(digests), digests=tuple(listed), before=before,
        )  # fmt: skip
        sealed = msgspec.structs.replace(made, seal=self._seal(made))
        files.append_line(self.path, msgspec.json.encode(sealed).decode(), mode=files.PRIVATE_MODE)
        record = Opened(number=sealed.number, last=sealed.seal)
        text = msgspec.json.encode(msgspec.structs.replace(record, seal=self._seal_of(record))).decode()
        beside_log, beside_escrow = self.records
        files.write_text(beside_log, text + "\n", mode=files.PRIVATE_MODE)
        with suppress(StorageError):
            files.write_text(beside_escrow, text + "\n", mode=files.PRIVATE_MODE)
        return sealed

    def digest(self, pseudonym: str) -> str:
        """Return what stands for a pseudonym in the log, 32 hexadecimal digits."""
        return self._mac(b"pseudonym\0" + pseudonym.encode("utf-8", "surrogatepass"))[:32]

    def _read(self, line: bytes, number: int, before: str) -> Access:
        fix = "keep the file as it is for whoever looks into it, and move it away before the next look-up"
        damaged = problem(f"line {number} of the access log was changed", where=self.path.name, fix=fix)
        try:
            access = msgspec.json.decode(line, type=Access)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise PrivacyRefusal(damaged) from error
        right = access.number == number and access.before == before and line.endswith(b"\n")
        if not right or not hmac.compare_digest(access.seal.encode(), self._seal(access).encode()):
            raise PrivacyRefusal(damaged)
        return access

    def _opened(self, path: Path) -> Opened | None:
        if not path.exists():
            return None
        fix = "keep the file as it is for whoever looks into it, and move it away before the next look-up"
        damaged = problem("the record of the access log was changed", where=path.name, fix=fix)
        try:
            record = msgspec.json.decode(files.read_bytes(path, limit=4096), type=Opened)
        except (msgspec.DecodeError, ValueError, RecursionError, DataError) as error:
            raise PrivacyRefusal(damaged) from error
        if not hmac.compare_digest(record.seal.encode(), self._seal_of(record).encode()):
            raise PrivacyRefusal(damaged)
        return record

    def _seal_of(self, record: Opened) -> str:
        return self._mac(b"opened\0" + msgspec.json.encode(msgspec.structs.replace(record, seal="")))

    def _seal(self, access: Access) -> str:
        return self._mac(b"line\0" + msgspec.json.encode(msgspec.structs.replace(access, seal="")))

    def _mac(self, content: bytes) -> str:
        return hmac.digest(self._key, content, "sha256").hex()


def log_of(opener: Opener, site: str) -> Path:
    """Return where the access log of a key lies: beside it, one for each site of a site key."""
    if opener.key is None:
        return opener.path.with_name(opener.path.name + SUFFIX)
    return usual_place(opener.key, site).with_suffix(SUFFIX)


def checked_reason(reason: str) -> str:
    """Return a reason on one line.

    Raises:
        UsageError: it is empty, too long, or holds signs that cannot be printed.
    """
    text = " ".join(reason.split())
    if not text or len(text) > LONGEST_REASON or not text.isprintable():
        fix = 'say who needs it and what for: --reason "incidental finding, Dr Okafor"'
        got = "none" if not text else f"{len(text)} characters"
        rule = f"a reason of 1 to {LONGEST_REASON} printable characters"
        raise UsageError(expected(rule, got=got, where="reason", fix=fix))
    return text


def account() -> str:
    """Return the name of the account that the operating system gives, not one of the environment."""
    if sys.platform != "win32":
        import pwd

        with suppress(KeyError):
            return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.geteuid()}" if hasattr(os, "geteuid") else "unknown"


@dataclass(frozen=True, kw_only=True)
class AccessReport(Result):
    """The lines of an access log, all of them with a right seal.

    Attributes:
        lines: in order.
        missing_records: names of the records that should agree with the log and are not there.
    """

    lines: tuple[Access, ...]
    missing_records: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return one line per access."""
        shown = [
            f"{item.number}. {item.when} {item.user}: {item.found} of "
            f"{number_of(item.asked, 'patient') if item.asked else 'all patients'} "
            f"({item.request}), escrow {item.escrow[:12]}: {item.reason}"
            for item in self.lines
        ]
        if self.missing_records:
            shown.append(
                f"not there: {', '.join(self.missing_records)}, without which lines cut from the end are not "
                "noticed (an escrow that was copied, or opened by an earlier version, has no record yet)"
            )
        head = f"{number_of(len(self.lines), 'time')} opened, every line as it was written ({self.out})"
        return "\n".join([head, *shown])


def report(escrow: Path, opener: Opener) -> AccessReport:
    """Return what the log beside a key holds.

    Raises:
        PrivacyRefusal: a line was changed, lines are missing, or the log is one of another key.
    """
    header = escrow_file.read_header(escrow)
    log = AccessLog(log_of(opener, header.site), opener.log_key(header), escrow)
    missing = tuple(record.name for record in log.missing_records())
    return AccessReport(out=log.path, lines=log.checked(), missing_records=missing)
