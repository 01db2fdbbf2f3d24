"""Finding and reading text in pictures, with the models that the rapidocr package contains.

A detection network gives every pixel the probability that it belongs to a line of text, and a recognition
network reads one line. Both run on the processor, in one thread, by onnxruntime. The models are files of the
``rapidocr`` package (PP-OCRv6, Apache-2.0). They are loaded from there and no other code of that package
runs: nothing is downloaded and nothing is logged.

    >>> from meninx.imaging import ocr
    >>> ocr.is_available() in (True, False)  # False without `pip install "meninx[ocr]"`
    True

References:
    Liao et al., Real-time Scene Text Detection with Differentiable Binarization, AAAI 2020.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from meninx.core.errors import UsageError, problem

Picture = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
_PACKAGES = ("rapidocr", "onnxruntime", "cv2")
_STEP = 32  # the detection network halves a picture five times
_TILE, _OVERLAP = 1344, 64  # pixels; a larger picture is searched in tiles, so that memory stays bounded
_ENLARGED, _MOST_ENLARGED = 320, 4.0  # pixels of the shorter side of a small picture; factor at most
_LINE_HEIGHT, _WIDEST_LINE = 48, 1536  # pixels of a line as the recognition network reads it
_MOST_BESIDE = 0.5  # height of a shape beside a letter, as a share of its own
_FLAT = 3  # grey levels; a tile with a smaller range holds nothing to read


class Box(NamedTuple):
    """A rectangle of pixels; right and bottom are exclusive.

    Attributes:
        left, top, right, bottom: pixels, from the upper left corner.
    """

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns of the box."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows of the box."""
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """Pixels of the box."""
        return max(self.width, 0) * max(self.height, 0)

    def grown(self, pixels: int, shape: tuple[int, ...]) -> Box:
        """Return the box with a margin on each side, inside a picture of this shape (rows, columns)."""
        return Box(
            max(self.left - pixels, 0),
            max(self.top - pixels, 0),
            min(self.right + pixels, shape[1]),
            min(self.bottom + pixels, shape[0]),
        )

    def shared(self, other: Box) -> int:
        """Return how many pixels two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


@dataclass(frozen=True)
class Search:
    """How a picture is searched.

    The values were chosen by ``benchmarks/bench_burned_text.py --choose`` on one half of its pictures.

    Attributes:
        scale: factor by which the picture is enlarged before the search; small text needs more than 1.
        threshold: lowest probability of a pixel that belongs to text.
        least: lowest mean probability of a line of text.
        growth: how far a found line is grown, as a multiple of its area divided by its perimeter, because
            the network is trained to find the middle of a line.
    """

    scale: float = 1.0
    threshold: float = 0.2
    least: float = 0.3
    growth: float = 1.7


class Found(NamedTuple):
    """One line of text in a picture.

    Attributes:
        box: its place.
        score: mean probability that its pixels are text.
    """

    box: Box
    score: float


class Reading(NamedTuple):
    """What the recognition network reads in a box.

    Attributes:
        text: the characters.
        confidence: mean probability of the characters, 0 to 1; 0 where nothing was read.
    """

    text: str
    confidence: float


class Glyph(NamedTuple):
    """One connected shape, as a single letter has it.

    Attributes:
        box: its place.
        beside: places of smaller shapes beside it.
    """

    box: Box
    beside: tuple[Box, ...] = ()


def is_available() -> bool:
    """Return whether the packages of the extra ``ocr`` are installed."""
    return all(find_spec(name) is not None for name in _PACKAGES)


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Return a digest of the models, empty when they are not installed.

    Text is found in the same places only with the same models.
    """
    if not is_available():
        return ""
    digest = hashlib.sha256()
    for kind in ("det", "rec"):
        with _model(kind).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def find(picture: Picture, search: Search | None = None) -> list[Found]:
    """Return the lines of text in a picture, from top to bottom.

    Args:
        picture: shape (rows, columns, 3), RGB, 0 to 255.
        search: how to search.

    Raises:
        UsageError: the extra ``ocr`` is not installed.
    """
    search = search or Search()
    cv2 = _opencv()
    probability = _probability(picture, search.scale)
    area = (probability > search.threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(area, connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height, pixels = (int(value) for value in stats[number])
        if min(width, height) < 2 or pixels < 6:
            continue
        inside = labels[top : top + height, left : left + width] == number
        score = float(probability[top : top + height, left : left + width][inside].mean())
        if score >= search.least:
            growth = search.growth * width * height / (2 * (width + height))
            box = Box(left, top, left + width, top + height).grown(int(np.ceil(growth)) + 1, picture.shape)
            found.append(Found(box, score))
    return sorted(found, key=lambda one: (one.box.top, one.box.left))


def read(picture: Picture, box: Box) -> Reading:
    """Return the text of one upright line.

    Args:
        picture: shape (rows, columns, 3), RGB, 0 to 255.
        box: where the line is.

    Raises:
        UsageError: the extra ``ocr`` is not installed.
    """
    if box.width < 2 or box.height < 2:
        return Reading("", 0.0)
    cv2, (session, characters) = _opencv(), _recognizer()
    line = _stretched(picture[box.top : box.bottom, box.left : box.right, ::-1])  # the network expects BGR
    width = min(max(int(np.ceil(_LINE_HEIGHT * box.width / box.height)), 8), _WIDEST_LINE)
    line = cv2.resize(np.ascontiguousarray(line), (width, _LINE_HEIGHT))
    padded = np.zeros((1, 3, _LINE_HEIGHT, max(width, 96)), dtype=np.float32)
    padded[0, :, :, :width] = line.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    steps = _run(session, padded)[0]
    best = steps.argmax(axis=1)
    # Connectionist temporal classification: a character counts where it begins; class 0 separates repeats.
    begins = (best != 0) & (best != np.concatenate([[-1], best[:-1]]))
    if not begins.any():
        return Reading("", 0.0)
    confidence = float(steps.max(axis=1)[begins].mean())
    return Reading("".join(characters[number] for number in best[begins]), confidence)


def glyph(picture: Picture, box: Box) -> Glyph | None:
    """Return the one connected shape of a box, as a single letter has it, or None.

    Smaller shapes may stand beside it, such as initials above a side marker, if none of them reaches half its
    height or stands within its rows and columns.

    Args:
        picture: shape (rows, columns, 3), RGB, 0 to 255.
        box: where to look.

    Raises:
        UsageError: the extra ``ocr`` is not installed.
    """
    grey = _stretched(picture[box.top : box.bottom, box.left : box.right]).max(axis=2)
    bright = grey > 127
    shape = bright if bright.mean() < 0.5 else ~bright
    if not 0.03 < shape.mean() < 0.6:
        return None
    _, _, stats, _ = _opencv().connectedComponentsWithStats(shape.astype(np.uint8), connectivity=8)
    parts = sorted(((int(pixels), *map(int, place)) for *place, pixels in stats[1:]), reverse=True)
    pixels, *place = parts[0]
    if pixels >= 0.95 * int(shape.sum()):
        return Glyph(box)
    main = _moved(place, box)
    others = [(_moved(one, box), size) for size, *one in parts[1:]]
    beside = [one for one, size in others if size > 0.02 * pixels]
    apart = not any(main.shared(one) or one.height > _MOST_BESIDE * main.height for one in beside)
    return Glyph(main, tuple(one for one, _ in others if not main.shared(one))) if apart else None


def _moved(place: Sequence[int], box: Box) -> Box:
    left, top, width, height = place
    return Box(box.left + left, box.top + top, box.left + left + width, box.top + top + height)


def _stretched(line: Picture) -> Picture:
    """Return a line whose values reach from 0 to 255, so that dim text is read as well as bright text."""
    low, high = int(line.min()), int(line.max())
    if high - low < _FLAT:
        return line
    scaled: Picture = ((line.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
    return scaled


def _probability(picture: Picture, scale: float) -> Plane:
    """Return the probability of text for each pixel of a picture."""
    result = np.zeros(picture.shape[:2], dtype=np.float32)
    scale = max(scale, min(_ENLARGED / min(picture.shape[:2]), _MOST_ENLARGED))
    side = int(_TILE / scale)
    for rows in _pieces(picture.shape[0], side):
        for columns in _pieces(picture.shape[1], side):
            tile = picture[rows, columns]
            if int(tile.max()) - int(tile.min()) < _FLAT:
                continue
            np.maximum(result[rows, columns], _tile_probability(tile, scale), out=result[rows, columns])
    return result


def _pieces(length: int, most: int) -> list[slice]:
    """Return overlapping pieces of equal length, each of at most ``most`` pixels, that cover a length."""
    count = max(-(-(length - _OVERLAP) // (most - _OVERLAP)), 1)
    size = -(-(length + (count - 1) * _OVERLAP) // count)
    starts = [min(number * (size - _OVERLAP), max(length - size, 0)) for number in range(count)]
    return [slice(start, start + size) for start in starts]


def _tile_probability(tile: Picture, scale: float) -> Plane:
    cv2 = _opencv()
    rows, columns = tile.shape[:2]
    size = max(round(columns * scale), 1), max(round(rows * scale), 1)
    scaled = cv2.resize(np.ascontiguousarray(tile), size, interpolation=cv2.INTER_CUBIC)
    below, right = -size[1] % _STEP, -size[0] % _STEP
    padded = np.pad(scaled, ((0, below), (0, right), (0, 0)), mode="edge")
    batch = (padded[:, :, ::-1].transpose(2, 0, 1)[None] / np.float32(127.5) - 1).astype(np.float32)
    plane = _run(_detector(), batch)[0, 0, : size[1], : size[0]]
    back: Plane = cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return back


def _run(session: Any, batch: npt.NDArray[np.float32]) -> Plane:
    result: Plane = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(batch)})[0]
    return result


@lru_cache(maxsize=1)
def _detector() -> Any:
    return _session("det")


@lru_cache(maxsize=1)
def _recognizer() -> tuple[Any, list[str]]:
    session = _session("rec")
    characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return session, ["", *characters, " "]


def _session(kind: str) -> Any:
    onnxruntime = _module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a worker process uses one core
    options.log_severity_level = 4  # fatal errors only
    options.enable_cpu_mem_arena = False  # memory goes back after each picture
    return onnxruntime.InferenceSession(
        str(_model(kind)), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _model(kind: str) -> Path:
    """Return the file of the detection (``det``) or recognition (``rec``) network in the rapidocr package."""
    spec = find_spec("rapidocr")
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or ())] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob(f"*_{kind}_*.onnx"))]
    if len(found) != 1:
        raise _missing("rapidocr")
    return found[0]


def _opencv() -> Any:
    cv2 = _module("cv2")
    cv2.setNumThreads(1)
    return cv2


@lru_cache(maxsize=4)
def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _missing(name) from None


def _missing(name: str) -> UsageError:
    fix = "pip install 'meninx[ocr]'"
    return UsageError(problem(f"text in pixels cannot be read without {name}", where="pixels", fix=fix))
