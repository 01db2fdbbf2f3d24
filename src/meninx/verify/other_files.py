"""The search in a file that is no DICOM: its text, or its bytes where it has none.

Words, digests and codes that the papers of a clean archive always have are no hits, because patients may be
called ``Field`` or have the number ``113100``: DICOM keywords of several words (``MagneticFieldStrength``),
digests and signatures as whole tokens, and in ``deid.json`` the keywords, codes and counts in their places.
A statement that follows from the ``deid.json`` beside it holds no more than that file, which is searched.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from meninx.core import artifacts
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import STATEMENT
from meninx.core.errors import MeninxError
from meninx.deid.options import EVERY_CODE
from meninx.deid.papers import statement
from meninx.deid.text_in_bytes import is_texty
from meninx.dicomfile.file_part import FilePart, windows_of
from meninx.verify.dicom_findings import FileFinding
from meninx.verify.known_values import CERTAIN, KnownValues

_BLOCK = 8 << 20  # bytes of text that are searched at once
_SAMPLE = 4096
_TOKEN = re.compile(r"(?<![\w^])[A-Za-z][A-Za-z0-9]+(?![\w^])")
_COMPOUND = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]")
_DIGEST = re.compile(r"(?<![0-9A-Za-z])(?=[0-9]*[a-f])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9A-Za-z])")
_SIGNATURE = re.compile(r"(?<![0-9A-Za-z+/])[A-Za-z0-9+/]{40,}={1,2}(?![0-9A-Za-z+/=])")
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
    encoding = _encoding_of(bytes(data[:_SAMPLE]))
    if not encoding:
        yield FileFinding("content-unread", "file")
        texty = is_texty(bytes(data[:_SAMPLE]))
        texts = _blocks(data, "latin-1") if texty else iter(())
        if known and (known.raw.found_in(data, frozenset()) or any(_holds(text, known) for text in texts)):
            yield FileFinding("identifier-in-bytes", "file")
        return
    followed = not known or _follows(data, path)
    if not followed and any(_holds(text, known) for text in _texts(data, encoding, path)):
        yield FileFinding("identifier-in-bytes", "file")


def _encoding_of(sample: bytes) -> str:
    """Return the encoding of a text, with or without its mark; empty for bytes of another kind.

    Compressed bytes are no UTF-8, and half of them are above 127, which is more than in a text of Latin-1.
    """
    for encoding, mark, zeros in (
        ("utf-16-le", b"\xff\xfe", sample[1::2]),
        ("utf-16-be", b"\xfe\xff", sample[::2]),
    ):
        if sample.startswith(mark) or (zeros and zeros.count(0) > 0.5 * len(zeros)):
            text = sample[: len(sample) & ~1].decode(encoding, "replace").lstrip("\ufeff")
            return encoding if is_texty(text.encode()) else ""
    if not is_texty(sample) or sample.startswith(b"%PDF"):
        return ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return "latin-1" if sum(sign > 127 for sign in sample) < 0.3 * len(sample) else ""
    return "utf-8"


def _texts(data: bytes | FilePart, encoding: str, path: Path | None) -> Iterator[str]:
    """Yield the text in blocks, without what no patient's value can be."""
    if path is not None and path.name == _RECORD and len(data) <= _BLOCK:
        yield _without_closed_words(_of_record(bytes(data)))
    else:
        yield from map(_without_closed_words, _blocks(data, encoding))


def _blocks(data: bytes | FilePart, encoding: str) -> Iterator[str]:
    """Yield a text in blocks of whole lines."""
    unit, rest = 2 if encoding.startswith("utf-16") else 1, b""
    for window in windows_of(data):
        whole = rest + bytes(window)
        cut = (whole.rfind(b"\n") + unit) // unit * unit
        if cut > len(whole):  # the line end itself is cut
            cut -= unit
        if cut < unit and len(whole) > _BLOCK:
            end = len(whole) // unit * unit
            yield whole[:end].decode(encoding, "replace")
            rest = whole[end - _OVERLAP :]
            continue
        rest = whole[cut:]
        yield whole[:cut].decode(encoding, "replace")
    yield rest.decode(encoding, "replace")


def _without_closed_words(text: str) -> str:
    """Return a text without digests, signatures and keywords of several words.

    >>> _without_closed_words('"MagneticFieldStrength": 1, "PatientField": 2, Field')
    '" ": 1, "PatientField": 2, Field'
    """
    text = _SIGNATURE.sub(" ", _DIGEST.sub(" ", text))
    return _TOKEN.sub(lambda found: " " if _is_compound_keyword(found[0]) else found[0], text)


def _is_compound_keyword(token: str) -> bool:
    return bool(_COMPOUND.search(token)) and tag_for_keyword(token) is not None


def _of_record(data: bytes) -> str:
    """Return every string of ``deid.json`` on a line, without keywords, codes and counts in their places."""
    text = data.decode("utf-8", "replace")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return "\n".join(_open_strings(record)) if isinstance(record, dict) else text


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


def _holds(text: str, known: KnownValues) -> bool:
    if known.raw.found_in(text.encode("utf-8", "replace"), frozenset()):
        return True
    return any(known.hit(line, prose=True) == CERTAIN for line in text.splitlines())
