"""Precision of private gradients: a context for float32 products in full precision, and a refusal of fp16."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from meninx.core import check
from meninx.core.errors import PrivacyRefusal, expected

PRECISIONS = ("fp32", "bf16")
"""Precisions in which gradients of single units may be computed."""

_lock = threading.Lock()
_active = 0
_undo: Callable[[], None] | None = None


def refuse_unbounded(precision: str) -> None:
    """Refuse a precision in which the norm of a clipped gradient is not bounded.

    Raises:
        PrivacyRefusal: float16.
        ConfigError: an unknown name.
    """
    if precision == "fp16":
        fix = (
            "use bf16 or fp32: no margin is proved for what float16 rounds off a clipped gradient, and the "
            "range of float16 makes a loss scale necessary that follows the private gradients"
        )
        raise PrivacyRefusal(
            expected("precision fp32 or bf16 for private training", got="fp16", where="precision", fix=fix)
        )
    check.one_of(PRECISIONS, precision=precision)


@contextmanager
def pinned(device: str) -> Iterator[None]:
    """Compute float32 products of cuBLAS, cuDNN and oneDNN in float32, and leave an autocast around the call.

    Norms are measured and gradients are summed by separate products. With TF32 or bfloat16 in these products
    a gradient may be longer than measured and the sum of many is rounded coarsely; both raise the
    sensitivity.

    The settings belong to the process, not to the thread. The caller's values are restored, also after an
    error, when the last of several concurrent passes has ended. Another thread must not change them during a
    pass.

    Args:
        device: type of the device, ``"cpu"`` or ``"cuda"``, ...
    """
    global _active, _undo
    with _lock:
        if not _active:
            _undo = _set_full()
        _active += 1
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        with _lock:
            _active -= 1
            if not _active and _undo is not None:
                _undo()


def _leaves() -> tuple[Any, ...]:
    """Return the backends' operations that have their own precision setting."""
    backends: Any = torch.backends
    cudnn, onednn = backends.cudnn, backends.mkldnn
    return (backends.cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv, onednn.rnn)


def _set_full() -> Callable[[], None]:
    """Set full precision everywhere and return a function that restores the previous settings.

    Besides one setting per operation, torch has older switches for all matrix products and for cuDNN. Reading
    an older switch that disagrees with the newer settings raises an error; such a switch is left unchanged.
    """
    before = [(leaf, leaf.fp32_precision) for leaf in _leaves()]
    products, convolutions = "highest", False
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = bool(torch.backends.cudnn.allow_tf32)
    _switch("highest" if products != "highest" else None, False if convolutions else None)
    for leaf, value in before:
        if value not in ("ieee", "none"):
            leaf.fp32_precision = "ieee"

    def undo() -> None:
        _switch(products if products != "highest" else None, True if convolutions else None)
        for leaf, value in before:
            if leaf.fp32_precision != value:
                leaf.fp32_precision = "none"  # inherits, as it may have done before
            if leaf.fp32_precision != value:
                leaf.fp32_precision = value

    return undo


def _switch(products: str | None, convolutions: bool | None) -> None:
    """Set the older switches; None leaves one as it is."""
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
