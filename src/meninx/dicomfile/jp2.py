"""JP2 files, which wrap a JPEG 2000 codestream in boxes: the codestream alone is taken over.

Some scanners write a whole JP2 file where DICOM wants a codestream. The boxes may hold any text, so they are
dropped. A file whose header boxes describe another image than the codestream
is refused, because a decoder that obeys the boxes would show other pixels.

References:
    ITU-T T.800 annex I.
"""

from __future__ import annotations

import struct

from meninx.dicomfile.codestreams import AnotherFrame, AnotherSize, Size, Unparsable

_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_PALETTE = frozenset({b"pclr", b"cmap"})


def codestream(frame: bytes, size: Size) -> bytes:
    """Return the codestream in a JP2 file; a frame that is none stays as it is.

    Args:
        frame: codestream or JP2 file, padding included.
        size: the size that the header of the instance states.

    Raises:
        AnotherFrame: a second codestream.
        AnotherSize: header boxes that describe an image of another size or depth than the codestream.
        Unparsable: a palette or colours that would be lost, boxes of another form, or no codestream.
    """
    if not frame.startswith(_START):
        return frame
    at, found, header = 0, b"", b""
    while at + 8 <= len(frame) and any(frame[at:]):
        length, kind = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8]
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(frame[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(frame)
        if not start <= end <= len(frame):
            break  # bytes after the last box; they are dropped, and the codestream is checked on its own
        if kind == b"jp2h" and any(name in frame[start:end] for name in _PALETTE):
            raise Unparsable("a palette outside the codestream")
        header += frame[start:end] if kind == b"jp2h" else b""
        if kind == b"jp2c":
            if found:
                raise AnotherFrame("a second codestream")
            found = frame[start:end]
        at = end
    if not found:
        raise Unparsable("no codestream")
    _check_header(header, found, size)
    return found


def _check_header(header: bytes, stream: bytes, size: Size) -> None:
    """Refuse header boxes that describe another image than the codestream (T.800 I.5.3)."""
    depths = stream[
        42 : 42 + 3 * size.samples : 3
    ]  # Ssiz of every component, in a stream that begins with SOC and SIZ
    at = 0
    while at + 8 <= len(header):
        length, kind = int.from_bytes(header[at : at + 4], "big"), header[at + 4 : at + 8]
        end = at + length if length else len(header)
        if not at + 8 <= end <= len(header):
            raise Unparsable("a header box of another form")
        content = header[at + 8 : end]
        if kind == b"ihdr":
            rows, columns, samples = struct.unpack_from(">LLH", content.ljust(14, b"\0"))
            depth = depths[:1] if len(set(depths)) == 1 else b"\xff"
            if len(content) != 14 or (rows, columns, samples) != size or content[10:11] != depth:
                raise AnotherSize("JP2 header")
        if kind == b"bpcc" and content != depths:
            raise AnotherSize("JP2 header")
        if kind == b"colr" and not _is_usual_colour(content, size.samples):
            raise Unparsable("colours that the codestream does not tell")
        at = end


def _is_usual_colour(content: bytes, samples: int) -> bool:
    """Return whether a colour box names grey for one sample and RGB or YCC for three, by number.

    A colour profile is not accepted.
    """
    colours = (17,) if samples == 1 else (16, 18)
    return content[:1] == b"\1" and int.from_bytes(content[3:7], "big") in colours and len(content) == 7
