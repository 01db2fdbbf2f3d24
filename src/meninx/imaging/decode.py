"""Opening DICOM files and decoding their pixels, with errors that never quote a value from the file."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy.typing as npt
import pydicom
from pydicom import config as pydicom_config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from meninx.core.errors import DataError, expected, problem
from meninx.imaging import jpeg

_MAGIC_AT = 128
_UNDEFINED = 0xFFFFFFFF
_TAG_AND_LENGTH = 8
# Limits of a deflated data set, the same as in deid: a multiple of the file's size, a size that is always
# allowed, and one that never is, in bytes.
_MOST_TIMES, _ALWAYS_INFLATED, _MOST_INFLATED = 100, 32 << 20, 512 << 20
_CHUNK = 1 << 20
_FIRST_GROUP = b"\x08\x00"  # first bytes of a data set without preamble
_TURBO, _CHARLS, _OPENJPEG = (
    (jpeg.NAME, jpeg.PACKAGE),
    ("pyjpegls", "pyjpegls"),
    ("pylibjpeg", "pylibjpeg-openjpeg"),
)
_DECODERS = {
    "1.2.840.10008.1.2.4.50": _TURBO,
    "1.2.840.10008.1.2.4.51": _TURBO,
    "1.2.840.10008.1.2.4.57": _TURBO,
    "1.2.840.10008.1.2.4.70": _TURBO,
    "1.2.840.10008.1.2.4.80": _CHARLS,
    "1.2.840.10008.1.2.4.81": _CHARLS,
    "1.2.840.10008.1.2.4.90": _OPENJPEG,
    "1.2.840.10008.1.2.4.91": _OPENJPEG,
    "1.2.840.10008.1.2.4.201": _OPENJPEG,
    "1.2.840.10008.1.2.4.202": _OPENJPEG,
    "1.2.840.10008.1.2.4.203": _OPENJPEG,
}
"""Transfer syntax -> plug-in of pydicom, and the package that contains it.

The plug-in is fixed because decoders of lossy JPEG differ by up to three grey levels: otherwise the same file
would give a different image if a different package is installed.
"""


_UNMASKED: dict[str, Any] = {
    "correct_unused_bits": False,
    "apply_jls_sign_correction": False,
    "apply_j2k_sign_correction": False,
}


for _syntax in jpeg.DECODER_DEPENDENCIES:
    with suppress(ValueError):  # already registered by a bundle's copy of this module
        get_decoder(_syntax).add_plugin(jpeg.NAME, (jpeg.__name__, "_decode_frame"))


_LOGGERS = tuple(
    logging.getLogger(name)
    for name in (
        "pydicom",
        "pydicom.pixels.decoders.base",
        "pydicom.pixels.utils",
        "pydicom.pixels.encoders.base",
        "openjpeg.utils",
        "openjpeg.encode",
        "pylibjpeg.utils",
    )
)


class _Quiet:
    """Counts the active :func:`quiet` blocks of all threads: the first silences, the last restores."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.depth = 0
        self.end = ExitStack()

    def enter(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                self.end.enter_context(warnings.catch_warnings())
                self.end.enter_context(pydicom_config.disable_value_validation())
                warnings.simplefilter("ignore")
                for logger in _LOGGERS:
                    self.end.callback(setattr, logger, "disabled", logger.disabled)
                    logger.disabled = True

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.end.close()


_QUIET = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings and value checks inside the block: their texts quote patients' values."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


@contextmanager
def guarded() -> Iterator[None]:
    """Be :func:`quiet`, and turn errors of pydicom and numpy about a malformed header into a DataError.

    Raises:
        DataError: the value of an attribute is malformed.
    """
    try:
        with quiet():
            yield
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        NotImplementedError,
    ) as error:
        got = f"one that contradicts itself ({type(error).__name__})"
        raise DataError(
            expected("a DICOM header of the standard's form", got=got, where="DICOM file")
        ) from None


def is_dicom(path: Path) -> bool:
    """Return whether a file begins like DICOM: with preamble and ``DICM``, or an element of group 0008."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_MAGIC_AT + 4)
    except OSError:
        return False
    return head[_MAGIC_AT:] == b"DICM" or (head[:2] == _FIRST_GROUP and len(head) > 8)


def find_files(folder: Path) -> list[Path]:
    """Return all regular files below a folder, sorted by relative path; links to folders are not followed.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(problem("there is no such folder", where="source", fix="check the path"))
    return sorted(
        (path for path in folder.rglob("*") if path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def is_marked_clean(removed: object) -> bool:
    """Return whether a value of PatientIdentityRemoved says that a program removed the identity.

    >>> is_marked_clean("YES "), is_marked_clean("NO"), is_marked_clean(None)
    (True, False, False)
    """
    return str(removed or "").strip(" \0") == "YES"


def open_dataset(path: Path, *, pixels: bool = True, keywords: tuple[str, ...] | None = None) -> Dataset:
    """Return the data set of a DICOM file, with or without preamble and file meta.

    Args:
        path: the file.
        pixels: False stops before the pixels.
        keywords: read only these attributes; None reads all.

    Raises:
        DataError: no such file, not DICOM, compressed by a factor of more than 100 (32 MiB are always
            allowed, 512 MiB never), or (if the whole file is read) truncated.
    """
    tags: list[Any] | None = None if keywords is None else list(keywords)
    if not path.is_file() or not is_dicom(path):
        got = "something else" if path.exists() else "no such file"
        raise DataError(expected("a DICOM file", got=got, where="DICOM file"))
    try:
        with quiet():
            if _inflates_too_far(path):
                got, fix = "one that inflates too far", "take it out of the source"
                raise DataError(expected("a DICOM file", got=got, where="DICOM file", fix=fix))
            dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=True)
            _complete_meta(dataset)
            if pixels and keywords is None and _is_cut(dataset, path.stat().st_size):
                raise EOFError
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            expected("a DICOM file", got=f"damage ({type(error).__name__})", where="DICOM file")
        ) from None
    return dataset


def _inflates_too_far(path: Path) -> bool:
    """Return whether a deflated data set is larger than :func:`open_dataset` allows.

    pydicom inflates the whole data set at once, so a small hostile file could exhaust the memory. This
    function inflates it in chunks first and keeps none of them.
    """
    with path.open("rb") as stream:
        read_preamble(stream, force=True)
        meta = _read_file_meta_info(stream)
        if not UID(meta.get("TransferSyntaxUID", "")).name.startswith("Deflated Explicit"):
            return False
        most = min(max(_MOST_TIMES * path.stat().st_size, _ALWAYS_INFLATED), _MOST_INFLATED)
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        waiting = stream.read(_CHUNK)
        while waiting and not inflater.eof and size <= most:
            size += len(inflater.decompress(waiting, _CHUNK))
            waiting = inflater.unconsumed_tail or stream.read(_CHUNK)
    return size > most


def pixels_of(dataset: Dataset) -> npt.NDArray[Any]:
    """Return the decoded pixels: (rows, columns) or (frames, rows, columns), with a last axis of RGB.

    Compressed pixels are decompressed, YBR becomes RGB, and bits beyond ``BitsStored`` are cleared.

    Raises:
        DataError: there are no pixels, or they cannot be decoded; the message names transfer syntax and
            plug-in.
    """
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(expected("pixels", got="an object without PixelData", where="DICOM file"))
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ""))
    try:
        with quiet():
            pixels = pixel_array(dataset, decoding_plugin=_DECODERS.get(syntax, ("", ""))[0])
            return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    except Exception as error:
        raise _undecodable(syntax, error) from None


def stored_values(dataset: Dataset, *, masked: bool = True) -> tuple[npt.NDArray[Any], str]:
    """Return the first frame of compressed pixels as it is stored, and its photometric interpretation.

    No colours are converted, except by a codestream that declares its own transform (JPEG 2000).

    Args:
        dataset: with its file meta.
        masked: take bits beyond ``BitsStored`` away; False gives every bit that was coded.

    Returns:
        Shape (rows, columns) or (rows, columns, samples), in native byte order.

    Raises:
        DataError: the pixels cannot be decoded; the message names transfer syntax and plug-in.
    """
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ""))
    try:
        with quiet():
            plugin = _DECODERS.get(syntax, ("", ""))[0]
            values, about = get_decoder(syntax).as_array(
                dataset, index=0, raw=True, decoding_plugin=plugin, **({} if masked else _UNMASKED)
            )
            return values, str(about["photometric_interpretation"])
    except Exception as error:
        raise _undecodable(syntax, error) from None


def _undecodable(syntax: UID, error: Exception) -> DataError:
    package = _DECODERS.get(syntax, ("", ""))[1]
    name = f"{syntax.name} ({syntax})" if syntax.is_transfer_syntax else "an unknown transfer syntax"
    fix = "the file may be damaged"
    try:
        get_decoder(syntax)
    except NotImplementedError:
        got, fix = name, "convert it to Explicit VR Little Endian first"
    else:
        if package and not _installed(package):
            got, fix = f"{name} without a decoder", f"install {package}"
        else:
            got = f"{name} that failed to decode ({type(error).__name__})"
            fix = f"decoder: {package}; {fix}" if package else fix
    return DataError(
        expected(
            "pixels in a transfer syntax that can be decoded", got=got, where="TransferSyntaxUID", fix=fix
        )
    )


def codecs() -> dict[str, str]:
    """Return keyword of each compressed transfer syntax -> ``yes`` with the package, or what to install."""
    return {
        UID(syntax).keyword: f"yes ({package})" if _installed(package) else f"no: install {package}"
        for syntax, (_, package) in _DECODERS.items()
    }


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _is_cut(dataset: Dataset, size: int) -> bool:
    """Return whether the file ends within an element, which pydicom accepts without an error."""
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        return False
    last: Any = dataset.get_item(max(dataset.keys())) if len(dataset) else None
    if last is None:
        return True
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED:
        return False
    return not 0 <= size - (last.value_tell + last.length) < _TAG_AND_LENGTH


def _complete_meta(dataset: Dataset) -> None:
    """Add the transfer syntax with which it was read to a data set without file meta."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = bool(dataset.original_encoding[0])
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
