"""The public audit log of a clean archive: one line per file of the source, chained by digests.

Each line of ``audit.jsonl`` begins with the SHA-256 of the line before it, and ``deid.json`` holds the digest
of the last line. A line that is changed, moved, added or removed breaks the chain at its place. The lines
hold keyed digests, fixed words and counts, and no value of a patient.

    >>> chain = AuditChain()
    >>> lines = [chain.line({"file": name}) for name in "ab"]
    >>> check_lines(lines).head == chain.head
    True
    >>> check_lines(lines[::-1]).wrong
    'line 1 does not follow the line before it: a line was changed, moved, added or removed'
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx.core import files

AUDIT_LOG = "audit.jsonl"
START = hashlib.sha256(b"meninx audit log 1").hexdigest()  # what the first line names as the one before it
_PREVIOUS = "previous"
_LONGEST = 1 << 20  # bytes of a line


class AuditChain:
    """Puts lines into a chain, one after the other.

    Attributes:
        head: SHA-256 of the last line, line feed included.
        lines: number of lines.
    """

    def __init__(self) -> None:
        self.head, self.lines = START, 0

    def line(self, table: Mapping[str, Any]) -> bytes:
        """Return the next line."""
        content = _encoded({_PREVIOUS: self.head, **table})
        self.head, self.lines = hashlib.sha256(content).hexdigest(), self.lines + 1
        return content

    def of(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield lines of JSON, in their order, as lines of the chain."""
        for line in lines:
            yield self.line(json.loads(line))


@dataclass(frozen=True)
class ChainCheck:
    """What a log holds.

    Attributes:
        lines: number of lines up to the first fault.
        head: SHA-256 of the last of these.
        wrong: the first fault in words, without any content of a line; empty when there is none.
        written: path of an output -> its SHA-256, as the lines say.
        kept_out: reason -> lines of files that were not written.
        burned_in_unknown: lines of written files that may show text.
    """

    lines: int
    head: str
    wrong: str
    written: Mapping[str, str]
    kept_out: Mapping[str, int]
    burned_in_unknown: int


def check(path: Path) -> ChainCheck:
    """Return what the log in a file holds; one line at a time is read.

    Raises:
        DataError: it is no regular file, or cannot be read.
    """
    with files.regular(path) as stream:
        return check_lines(iter(lambda: stream.readline(_LONGEST), b""))


def check_lines(lines: Iterable[bytes]) -> ChainCheck:
    """Return what the lines of a log hold, up to the first fault."""
    chain, written, kept_out, unknown = AuditChain(), dict[str, str](), Counter[str](), 0
    for content in lines:
        number, wrong = chain.lines + 1, ""
        try:
            table = json.loads(content)
            previous = table.pop(_PREVIOUS)
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            wrong = f"line {number} is no line of an audit log"
        else:
            if previous != chain.head:
                why = "a line was changed, moved, added or removed"
                wrong = f"line {number} does not follow the line before it: {why}"
            elif _encoded({_PREVIOUS: previous, **table}) != content:
                wrong = f"line {number} is not written as meninx writes it"
        if wrong:
            return ChainCheck(chain.lines, chain.head, wrong, written, kept_out, unknown)
        chain.line(table)
        if isinstance(table.get("output"), str) and table["output"]:
            written[table["output"]] = str(table.get("output_sha256"))
            unknown += table.get("burned_in_unknown") is True
        else:
            kept_out[str(table.get("reason"))] += 1
    return ChainCheck(chain.lines, chain.head, "", written, kept_out, unknown)


def _encoded(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table).encode() + b"\n"
