"""The sum over units: many of one direction, one of them removed, in every kernel and layer.

Precision set by the caller.
"""

import threading

import pytest
import torch
from torch import nn

from meninx.models.blocks import StandardizedConv2d
from meninx.privacy.clipping import ClippedSum, conv_geometry
from meninx.privacy.clipping.gradient_record import Ghost, GradientRecord, scale_rows

BOUND = 0.05
UNITS = (256, 1024)
IMAGE, TOKENS, FLAT = (3, 5, 5), (6, 7), (12,)
LAYERS = {
    "conv": (IMAGE, lambda: nn.Conv2d(3, 4, 3, padding=1)),
    "pointwise": (IMAGE, lambda: nn.Conv2d(3, 4, 1)),
    "strided": (IMAGE, lambda: nn.Conv2d(3, 4, 3, stride=2, bias=False)),
    "transposed": (IMAGE, lambda: nn.ConvTranspose2d(3, 4, 2, stride=2)),
    "standardised": (IMAGE, lambda: StandardizedConv2d(3, 4, 3, padding=1)),
    "linear": (FLAT, lambda: nn.Linear(12, 5)),
    "linear over positions": (TOKENS, lambda: nn.Linear(7, 5)),
    "group norm": (
        IMAGE,
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1).requires_grad_(False), nn.GroupNorm(2, 4)),
    ),
    "layer norm": (TOKENS, lambda: nn.LayerNorm(7)),
    "slopes": (IMAGE, lambda: nn.PReLU(3)),
    "embedding": ((6,), lambda: nn.Embedding(9, 5)),
}


def moved(oracle, layer, units, **settings):
    """Return the sum's change, over the bound, when one of ``units`` units with one record is removed."""
    torch.manual_seed(0)
    shape, make = LAYERS[layer]
    model = make()
    one = torch.randint(0, 9, (1, *shape)) if layer == "embedding" else torch.randn(1, *shape)
    inputs, targets = one.expand(units, *shape).contiguous(), torch.ones(units, 1)
    everyone, without = (
        oracle.flat(oracle.engine(model, inputs[:n], targets[:n], bound=BOUND, **settings)).double()
        for n in (units, units - 1)
    )
    assert float(everyone.norm()) > 0.9 * units * BOUND, "the records are clipped and point one way"
    return float((everyone - without).norm()) / BOUND


@pytest.mark.parametrize("mode", ["rule", "store", "ghost", "norm"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_unit_among_many_moves_the_sum_by_the_bound_at_most(oracle, precision, layer, mode):
    for units in UNITS:
        rounding = units * 2.0**-24 if precision == "fp32" else 0.0  # of the sum itself
        assert moved(oracle, layer, units, mode=mode, precision=precision) <= 1 + 1e-5 + rounding


@pytest.mark.parametrize("mode", ["ghost", "store"])
def test_physical_batches_are_added_in_float32(oracle, mode):
    for layer in ("conv", "linear"):
        assert moved(oracle, layer, 257, mode=mode, precision="bf16", chunk=16) <= 1 + 1e-5


def test_a_product_rounded_to_bfloat16_is_over_the_bound(oracle, monkeypatch):
    """The planted fault: the weighted product in the type of its factors, as it was."""
    monkeypatch.setattr(conv_geometry, "widen", lambda value: value)
    monkeypatch.setattr(
        conv_geometry, "scale_rows", lambda value, factor: scale_rows(value, factor).to(torch.bfloat16)
    )
    assert moved(oracle, "conv", 1024, mode="ghost", precision="bf16") > 1.1


GHOSTLY = ["conv", "pointwise", "transposed", "linear", "linear over positions", "embedding"]


def ghost_sum(oracle, layer, units=256):
    """Return the sum over the units of one record in bfloat16, where no unit's gradient is kept."""
    torch.manual_seed(0)
    shape, make = LAYERS[layer]
    one = torch.randint(0, 9, (1, *shape)) if layer == "embedding" else torch.randn(1, *shape)
    inputs, targets = one.expand(units, *shape).contiguous(), torch.ones(units, 1)
    gradients = oracle.engine(make(), inputs, targets, bound=BOUND, mode="ghost", precision="bf16").gradients
    return next(value for name, value in gradients.items() if name.endswith("weight"))


def is_rounded(value):
    return bool(torch.equal(value, value.to(torch.bfloat16).to(value.dtype)))


@pytest.mark.parametrize("layer", GHOSTLY)
def test_a_ghost_sum_keeps_the_digits_of_float32(oracle, layer):
    found = ghost_sum(oracle, layer)
    assert found.dtype == torch.float32
    assert not is_rounded(found)


@pytest.mark.parametrize(
    "layer", [name for name in GHOSTLY if name != "pointwise"]
)  # there its digits alone show it, above
def test_a_ghost_sum_rounded_to_bfloat16_is_seen(oracle, monkeypatch, layer):
    """The planted fault, in the sum itself: both tests of it turn red."""
    part = GradientRecord._part

    def rounded(self, piece, factor, keep):
        found = part(self, piece, factor, keep)
        return found.to(torch.bfloat16).to(found.dtype) if isinstance(piece, Ghost) else found

    monkeypatch.setattr(GradientRecord, "_part", rounded)
    assert is_rounded(ghost_sum(oracle, layer))
    assert max(moved(oracle, layer, units, mode="ghost", precision="bf16") for units in UNITS) > 1 + 1e-3


# parts


def part(model, present=(), value=1.0, units=4):
    total = ClippedSum.empty(model, max_grad_norm=1.0, n_units=units)
    for gradient in total.gradients.values():
        gradient.fill_(value)
    total.present[list(present)] = True
    return total


def test_a_part_is_never_dropped_from_a_sum(oracle):
    """A canary, or another rank's share, has gradients and names no unit."""
    model = nn.Linear(2, 2)
    whole, canary, nothing = (
        part(model, [0]),
        part(model, value=2.0),
        ClippedSum.empty(model, max_grad_norm=1.0, n_units=4),
    )
    for total in (whole + canary, canary + whole, whole + canary + nothing, nothing + whole + canary):
        assert bool((oracle.flat(total) == 3.0).all())
    assert bool((oracle.flat(canary + canary) == 4.0).all())
    assert bool((oracle.flat(nothing + whole) == 1.0).all())
    assert bool((oracle.flat(whole) == 1.0).all()), "no part is changed"


# precision


class Spy(nn.Module):
    """Notes what a pass would compute with."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails, self.seen = fails, []

    def forward(self, x):
        self.seen.append((torch.get_float32_matmul_precision(), *leaves(), torch.is_autocast_enabled("cpu")))
        x.register_hook(lambda _: self.seen.append((torch.get_float32_matmul_precision(), *leaves(), False)))
        if self.fails:
            raise RuntimeError("in the middle")
        return x


def leaves():
    backends = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    more = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    return tuple(item.fp32_precision for item in (*parts, *more))


@pytest.fixture
def settings():
    """Let a test change torch's precision, and put back what it was."""
    yield torch.backends
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for item in (
        torch.backends.mkldnn.conv,
        torch.backends.mkldnn.rnn,
        torch.backends.mkldnn,
        torch.backends,
    ):
        item.fp32_precision = "none"


def by_name(name):
    return lambda backends: torch.set_float32_matmul_precision(name)


def by_switch(backends):
    backends.cuda.matmul.allow_tf32 = True
    backends.cudnn.allow_tf32 = True


def by_backend(backends):
    backends.mkldnn.conv.fp32_precision = "bf16"
    backends.mkldnn.rnn.fp32_precision = "tf32"


def for_all(backends):
    backends.fp32_precision = "tf32"


@pytest.mark.parametrize(
    "choice", [by_name("medium"), by_name("high"), by_name("highest"), by_switch, by_backend]
)
@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_cannot_lower_the_precision_of_a_pass(oracle, settings, choice, fails):
    choice(settings)
    before = (torch.get_float32_matmul_precision(), *leaves(), settings.cudnn.allow_tf32)
    model, (inputs, targets) = nn.Sequential(nn.Linear(6, 5), Spy(fails), nn.Linear(5, 2)), oracle.data(3, 6)
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            oracle.engine(model, inputs, targets)
    else:
        oracle.engine(model, inputs, targets)
        assert len(model[1].seen) == 2, "forward and backward"
    for name, *rest in model[1].seen:
        assert name == "highest"
        assert not {"tf32", "bf16", True} & set(rest)
    assert before == (torch.get_float32_matmul_precision(), *leaves(), settings.cudnn.allow_tf32)


def test_a_precision_for_all_backends_is_pinned_and_restored(oracle, settings):
    for_all(settings)
    before, seen = leaves(), []
    model, (inputs, targets) = nn.Linear(6, 5), oracle.data(3, 6)
    model.register_forward_hook(lambda *_: seen.extend(leaves()))
    oracle.engine(model, inputs, targets)
    assert "tf32" in before
    assert seen
    assert not {"tf32", "bf16"} & set(seen)
    assert leaves() == before
    settings.fp32_precision = "none"
    assert settings.mkldnn.conv.fp32_precision == "none", "what was inherited is inherited again"


def test_an_autocast_around_the_call_is_switched_off(oracle):
    torch.manual_seed(0)
    model, (inputs, targets) = nn.Sequential(nn.Linear(6, 5), Spy()), oracle.data(8, 6)
    plain = oracle.engine(model, inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        inside = oracle.engine(model, inputs, targets)
    assert torch.equal(oracle.flat(plain), oracle.flat(inside))


def test_passes_of_several_threads_restore_the_precision_once_all_are_done(oracle, settings):
    torch.set_float32_matmul_precision("medium")
    (inputs, targets), spies = oracle.data(4, 6), [Spy() for _ in range(4)]
    models = [
        nn.Sequential(nn.Linear(6, 5), spy) for spy in spies
    ]  # here: a pass refuses that torch's generator moves

    def work(model):
        for _ in range(10):
            oracle.engine(model, inputs, targets)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {note[0] for spy in spies for note in spy.seen} == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"
