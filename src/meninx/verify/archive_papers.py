"""Checks of a clean archive's papers: the chain of the audit log, the signature, the statement."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from meninx.core import clean_archive, integrity, signing_key
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import STATEMENT
from meninx.core.errors import DataError
from meninx.core.folder_signature import SIGNATURE
from meninx.core.summaries import number_of
from meninx.deid.papers import audit_chain, statement
from meninx.deid.papers.audit_chain import AUDIT_LOG, ChainCheck
from meninx.verify.check_list import CheckList, Expected, some


def signed_apart(root: Path) -> tuple[str, ...]:
    """Return the names of files that the signature covers and the list of digests does not."""
    return (SIGNATURE, STATEMENT) if (root / SIGNATURE).is_file() else ()


def check(book: CheckList, root: Path, record: DeidRecord, expected: Expected) -> None:
    """Check the papers of an archive. One that an older version wrote may have none."""
    book.guard("audit log", lambda: _chain(book, root, record))
    book.guard("signature", lambda: signature(book, root, record, expected))
    book.guard("statement", lambda: _statement(book, root, record))


def _chain(book: CheckList, root: Path, record: DeidRecord) -> None:
    what = "chain of the audit log"
    if not record.audit_head:
        book.impossible(what, "an older version wrote this archive")
        return
    found = audit_chain.check(root / AUDIT_LOG)
    wrong = [found.wrong] if found.wrong else []
    if not wrong and found.lines != record.audit_lines:
        wrong.append(f"{number_of(found.lines, 'line')}, but deid.json says {record.audit_lines:,}")
    if not wrong and found.head != record.audit_head:
        wrong.append("the last line is not the one that deid.json names")
    if not wrong:
        wrong += _other_images(found.written, integrity.read(root))
        wrong += _other_numbers(found, record)
    book.judge(what, wrong, privacy=True, remark=number_of(found.lines, "line"))


def _other_images(written: Mapping[str, str], listed: Mapping[str, str]) -> list[str]:
    """Return how the images of the log differ from those of the list of digests."""
    images = {name: digest for name, digest in listed.items() if clean_archive.is_image(name)}
    odd = {name for name, _ in written.items() ^ images.items()}
    return [f"log and {integrity.CHECKSUMS} name other images: {some(odd)}"] if odd else []


def _other_numbers(found: ChainCheck, record: DeidRecord) -> list[str]:
    """Return which numbers of the summary do not follow from the log."""
    pairs = {
        "files_read": (record.files_read, found.lines),
        "files_written": (record.files_written, len(found.written)),
        "quarantined": (dict(record.quarantined), dict(found.kept_out)),
        "burned_in_unknown": (record.burned_in_unknown, found.burned_in_unknown),
    }
    odd = [name for name, (said, counted) in pairs.items() if said != counted]
    if record.patients > record.files_written:
        odd.append("patients")
    fix = "run `meninx deid` again"
    return [f"deid.json says other numbers than the log: {', '.join(odd)}; {fix}"] if odd else []


def signature(book: CheckList, root: Path, record: DeidRecord, expected: Expected) -> None:
    """Check who signed the papers in a folder, and that they are the ones that were signed."""
    what = "signature"
    if importlib.util.find_spec("cryptography") is None:
        book.unverified(what, "cryptography is not installed", fix="pip install cryptography")
        return
    signed = clean_archive.read_signature(root)
    if signed is None:
        if record.signer or expected.signer:
            fix = "ask for the whole archive"
            book.judge(what, [f"{SIGNATURE} is missing"], privacy=True, fix=fix)
        else:
            book.impossible(what, "unsigned: an older version wrote this archive, or somebody changed it")
        return
    found = signing_key.fingerprint(signed.signer)
    wrong = [f"{name} is not the file that was signed" for name in clean_archive.other_files(root, signed)]
    if record.signer != found:
        wrong.append("deid.json names another signer")
    book.judge(what, wrong, privacy=True, remark=f"key {found}")
    if not expected.signer:
        book.impossible("signer", "give --signer FINGERPRINT, as the site told it to you")
        return
    wrong = [] if found == signing_key.read_fingerprint(expected.signer) else ["another key signed it"]
    book.judge("signer", wrong, privacy=True, remark="the expected key")


def _statement(book: CheckList, root: Path, record: DeidRecord) -> None:
    """Check that the statement says what follows from the summary, where this version wrote both."""
    what = "statement"
    if not record.signer:
        return
    if record.version != metadata.version("meninx"):
        book.impossible(what, "its words are those of another version")
        return
    try:
        same = (root / STATEMENT).read_bytes() == statement.page(record)
    except OSError:
        raise DataError(f"{STATEMENT} is missing") from None
    book.judge(what, [] if same else [f"{STATEMENT} does not follow from deid.json"])
