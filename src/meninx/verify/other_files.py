"""The search in a file that is no DICOM: its text, or its bytes where it has none.

Words, digests and codes that the papers of a clean archive always have are no hits, because patients may be
called ``Field`` or have the number ``113100``: DICOM keywords of several words (``MagneticFieldStrength``),
digests in a list of them, digests and signatures in the places of the program's papers, and in ``deid.json``
the keywords, codes and counts in their places. A digest that is a known identifier is searched.
A statement that follows from the ``deid.json`` beside it holds no more than that file, which is searched.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import STATEMENT
from meninx.core.errors import MeninxError
from meninx.core.folder_signature import SIGNATURE
from meninx.deid.options import EVERY_CODE
from meninx.deid.papers import statement
from meninx.deid.papers.audit_chain import AUDIT_LOG
from meninx.deid.text_in_bytes import is_texty
from meninx.dicomfile.file_part import FilePart, windows_of
from meninx.verify import readable_text
from meninx.verify.dicom_findings import FileFinding
from meninx.verify.known_values import CERTAIN, KnownValues
from meninx.verify.readable_text import BY_LINE, Block

_BLOCK = 8 << 20  # bytes of text that are searched at once
_SAMPLE = 4096
_TOKEN = re.compile(r"(?<![\w^])[A-Za-z][A-Za-z0-9]+(?![\w^])")
_COMPOUND = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]")
_LISTED = re.compile(r"^[0-9a-f]{64}(?=  )", re.MULTILINE)  # in a list of digests
_DIGEST = re.compile(r'(?<=")[0-9a-f]{64}(?=")')
_SIGNATURE = re.compile(r'(?<=")[A-Za-z0-9+/]{40,}={1,2}(?=")')
_FORMS = {
    AUDIT_LOG: (_DIGEST,),
    artifacts.place(DeidRecord): (_DIGEST,),
    SIGNATURE: (_DIGEST, _SIGNATURE),
}
"""Paper of the program -> the form of the digests and signatures in it."""
_CODES = frozenset(code.value for code in EVERY_CODE)
_RECORD = artifacts.place(DeidRecord)
_FIELDS = frozenset(field.name for field in fields(DeidRecord))
_OVERLAP = 1024  # bytes that two blocks of one long line share


def findings(data: bytes | FilePart, known: KnownValues, path: Path | None) -> Iterator[FileFinding]:
    """Yield whether a file that is no DICOM holds an identifier, and whether its content cannot be read.

    Args:
        data: its bytes.
        known: what is searched.
        path: where it lies on the disk; None for a member of an archive.
    """
    if not len(data):
        return
    sample = bytes(data[:_SAMPLE])
    encoding = readable_text.encoding_of(sample)
    unread, held = not encoding, False
    searched = bool(known) and not _follows(data, path)
    if encoding or is_texty(sample):
        for block in _texts(data, encoding or BY_LINE, known, path):
            unread = unread or block.unread
            held = held or (searched and _holds(block, known))
    if unread:
        yield FileFinding("content-unread", "file")
    if held or (unread and searched and known.raw.found_in(data, frozenset())):
        yield FileFinding("identifier-in-bytes", "file")


def _texts(data: bytes | FilePart, encoding: str, known: KnownValues, path: Path | None) -> Iterator[Block]:
    """Yield the text in blocks, without what no patient's value can be."""
    name = path.name if path is not None else ""
    if name == _RECORD and len(data) <= _BLOCK:
        block = readable_text.read(bytes(data), encoding)
        yield replace(block, text=_without_closed_words(_of_record(block.text), known, name))
        return
    for part in _blocks(data, 2 if encoding.startswith("utf-16") else 1):
        block = readable_text.read(part, encoding)
        yield replace(block, text=_without_closed_words(block.text, known, name))


def _blocks(data: bytes | FilePart, unit: int) -> Iterator[bytes]:
    """Yield a text in blocks of whole lines.

    Args:
        data: the text.
        unit: bytes that are never parted.
    """
    rest = b""
    for window in windows_of(data):
        whole = rest + bytes(window)
        cut = (whole.rfind(b"\n") + unit) // unit * unit
        if cut > len(whole):  # the line end itself is cut
            cut -= unit
        if cut < unit and len(whole) > _BLOCK:
            end = _between_signs(whole, len(whole) // unit * unit, unit)
            yield whole[:end]
            rest = whole[_between_signs(whole, end - _OVERLAP, unit) :]
            continue
        rest = whole[cut:]
        yield whole[:cut]
    yield rest


def _between_signs(text: bytes, at: int, unit: int) -> int:
    """Return a place, at most three bytes before another one, that parts no sign of UTF-8."""
    if unit > 1:
        return at
    return next((at - back for back in range(1, 4) if text[at - back] & 0xC0 == 0xC0), at)


def _without_closed_words(text: str, known: KnownValues, name: str) -> str:
    """Return a text without listed digests, signatures and keywords of several words.

    Nothing that is a known identifier is left out, whatever its form.

    >>> _without_closed_words('"MagneticFieldStrength": 1, "PatientField": 2, Field', KnownValues(), "")
    '" ": 1, "PatientField": 2, Field'
    """

    def kept(found: re.Match[str]) -> str:
        return found[0] if found[0].casefold() in known.values.numbers else " "

    for form in (_LISTED, *_FORMS.get(name, ())):
        text = form.sub(kept, text)
    return _TOKEN.sub(lambda found: " " if _is_compound_keyword(found[0]) else found[0], text)


def _is_compound_keyword(token: str) -> bool:
    return bool(_COMPOUND.search(token)) and tag_for_keyword(token) is not None


def _of_record(text: str) -> str:
    """Return every string of ``deid.json`` on a line, without keywords, codes and counts in their places."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return "\n".join(f'"{string}"' for string in _open_strings(record)) if isinstance(record, dict) else text


def _open_strings(record: dict[str, Any]) -> Iterator[str]:
    for name, value in record.items():
        if name not in _FIELDS:
            yield from _strings({name: value}, numbers=True)
            continue
        for string in _strings(value, numbers=False):
            is_code = name in ("codes", "code_files") and string in _CODES
            is_keyword = name == "actions" and tag_for_keyword(string) is not None
            if not is_code and not is_keyword:
                yield string


def _strings(value: Any, *, numbers: bool) -> Iterator[str]:
    """Yield every key and string in a value of JSON, and every number where they are wanted."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner, numbers=numbers)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, numbers=numbers)
    elif numbers or isinstance(value, str):
        yield str(value)


def _follows(data: bytes | FilePart, path: Path | None) -> bool:
    """Return whether a file is the statement that follows from the summary beside it."""
    if path is None or path.name != STATEMENT:
        return False
    try:
        return bytes(data) == statement.page(artifacts.require(path.parent, DeidRecord, fix=""))
    except MeninxError:
        return False


def _holds(block: Block, known: KnownValues) -> bool:
    if known.raw.found_in(block.text.encode("utf-8", "replace"), frozenset()):
        return True
    lines = (way for line in block.text.splitlines() for way in readable_text.spellings(line))
    return any(known.hit(line, prose=True) == CERTAIN for line in itertools.chain(lines, block.words))
