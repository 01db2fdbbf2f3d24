"""Dropout masks keyed by row, and the refusal of all other random numbers in a private forward pass.

Masks drawn in batch order depend on the other patients of the batch: if one patient is removed, every later
patient gets another mask and another gradient, and the sum changes by far more than one clipped gradient. The
masks here are functions of the row's own key, the layer and the position in the row. Given the keys, the
gradient of a row is a function of that row alone. The keys need not be secret.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from meninx.core.errors import PrivacyRefusal, expected

_EACH = (nn.Dropout,)
_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SPAN = 1 << 32  # values of a 32-bit hash
_ROUNDS = ((0x7FEB352D, 16), (0x846CA68B - _SPAN, 15))  # multipliers and shifts of the lowbias32 hash
_LAST = 0x2C1B3C6D


@contextmanager
def keyed_dropout(
    model: nn.Module, row_keys: Tensor | None, *, leave: Collection[str] = ()
) -> Iterator[None]:
    """Make every active dropout layer of ``model`` use masks derived from the rows' keys, within a block.

    The function covers modules of exactly the types Dropout, Dropout1d, Dropout2d and Dropout3d. A layer
    whose input has a leading dimension that is no multiple of the rows keeps its own forward, and so does
    every layer without ``row_keys``. Those use torch's generator, which a private pass refuses
    (:func:`no_other_randomness`).

    Args:
        model: its modules get another ``forward`` for the block.
        row_keys: (rows,) int64, one key per row of the batch, in the order in which the model sees the rows;
            None for no keys.
        leave: paths of modules that keep their own dropout, including all modules inside them.

    Guarantee:
        The mask of a row depends on its key, the path of the layer, how often the layer was called before in
        this block, and the shape of one row; not on the position of the row, the other rows, the device or
        torch's generator.
    """
    stood_in: list[nn.Module] = []
    try:
        if row_keys is not None:
            keys, calls = row_keys.detach().cpu().numpy().astype(np.uint64), Counter[str]()
            for path, module in model.named_modules():
                if active(module) and not any(
                    path == outer or path.startswith(f"{outer}.") or not outer for outer in leave
                ):
                    module.__dict__["forward"] = _stand_in(path, module, keys, calls)
                    stood_in.append(module)
        yield
    finally:
        for module in stood_in:
            module.__dict__.pop("forward", None)


@contextmanager
def no_other_randomness(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Refuse a block that advances torch's generator.

    In that case ``inputs`` run once more, to find the module that drew from it.

    Raises:
        PrivacyRefusal: the forward pass drew numbers in batch order, from functional dropout, stochastic
            depth, RReLU, ...
    """
    before = _state(inputs.device)
    yield
    if not torch.equal(before, _state(inputs.device)):
        fix = (
            "use torch.nn.Dropout to Dropout3d, whose masks are drawn for each image, or set the "
            "rate to 0; numbers drawn for a"
            " whole batch make a patient's gradient depend on the other patients"
        )
        rule, got = "no random numbers but those of dropout layers", "others in the forward pass"
        raise PrivacyRefusal(
            expected(rule, got=got, where=f"module {_drawing(model, inputs) or '(root)'}", fix=fix)
        )


def mask(
    keys: npt.NDArray[np.uint64], name: str, shape: torch.Size, rate: float, device: torch.device
) -> Tensor:
    """Return which entries stay, (rows * entries, ...) bool, drawn from each row's own stream.

    Args:
        keys: (rows,) one key per row.
        name: of the stream within each row.
        shape: of the mask; the leading dimension is a multiple of the rows.
        rate: share of entries to drop, in [0, 1]; rounded to a multiple of 2**-32.
        device: where the mask is made; every device gives the same one.
    """
    dropped = round(rate * _SPAN)
    if dropped >= _SPAN:
        return torch.zeros(shape, dtype=torch.bool, device=device)
    own = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    words = torch.from_numpy(_mixed(_mixed(keys) ^ own).view(np.int32).reshape(-1, 2)).to(device)
    first, second = words[:, :1], words[:, 1:]
    # A counter hash of integers instead of a generator: the result is the same on every device, bit for bit.
    numbers = torch.arange(shape.numel() // len(keys), dtype=torch.int32, device=device) ^ first
    for factor, shift in _ROUNDS:  # 32-bit products wrap around
        numbers ^= _shifted(numbers, shift)
        numbers *= factor
    numbers ^= _shifted(numbers, 16)
    numbers ^= second
    numbers *= _LAST
    numbers ^= _shifted(numbers, 16)
    return (numbers >= dropped - _SPAN // 2).view(shape)


def active(module: nn.Module) -> bool:
    """Return whether a module is a dropout layer whose masks can be keyed, and drops something."""
    return type(module) in (*_EACH, *_CHANNELS) and module.training and float(getattr(module, "p", 0.0)) > 0


def _stand_in(
    path: str, module: nn.Module, keys: npt.NDArray[np.uint64], calls: Counter[str]
) -> Callable[[Tensor], Tensor]:
    own: Callable[[Tensor], Tensor] = type(module).forward.__get__(module)
    rate = float(getattr(module, "p", 0.0))

    def forward(input: Tensor) -> Tensor:
        if not len(keys) or not input.dim() or not len(input) or len(input) % len(keys):
            return own(input)
        name = f"{path}/{calls[path]}"
        calls[path] += 1
        whole = type(module) in _EACH or input.dim() < 2
        shape = input.shape if whole else torch.Size([*input.shape[:2], *(1 for _ in input.shape[2:])])
        with torch.no_grad():
            stay = mask(keys, name, shape, rate, input.device).to(input.dtype)
            stay *= 1 / (1 - rate) if rate < 1 else 0.0
        return input * stay

    return forward


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the splitmix64 hash of each number."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Return signed 32-bit numbers shifted right as if they were unsigned, a type that torch lacks here."""
    return (value >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _state(device: torch.device) -> Tensor:
    """Return the states of torch's generators that a pass on ``device`` could use."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    if device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return torch.cat(states)


@torch.enable_grad()
def _drawing(model: nn.Module, inputs: Tensor) -> str:
    """Return the path of the innermost module that draws from torch's generator in a forward pass.

    Empty for the model itself.
    """
    found: list[str] = []
    begun: dict[str, Tensor] = {}

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: begun.__setitem__(path, _state(inputs.device))

    def leave(path: str) -> Callable[..., None]:
        return lambda *_: None if torch.equal(begun[path], _state(inputs.device)) else found.append(path)

    modules = dict(model.named_modules())
    hooks = [module.register_forward_pre_hook(enter(path)) for path, module in modules.items()]
    hooks += [module.register_forward_hook(leave(path)) for path, module in modules.items()]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
