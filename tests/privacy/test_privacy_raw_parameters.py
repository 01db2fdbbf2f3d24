"""Parameters that a module's own code uses: exact gradients beside activations, refusals elsewhere."""

import pytest
import torch
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.privacy.clipping import prove, trained_layers

ROWS, UNITS = 7, [0, 2, 1, 2, 0, 2, 3]


class Own(nn.Module):
    """A module with parameters and code of its own, given as a function of the module and the activations."""

    def __init__(self, code, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * 0.5 + 0.3))
        self.register_buffer("index", torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 3]]))
        self.code = code

    def forward(self, x):
        return self.code(self, x)


def net(own):
    """(rows, 5) -> (rows, 3, 4) -> own code -> (rows, 2)."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Unflatten(1, (3, 4)))
    return nn.Sequential(first, own, nn.Flatten(), nn.Tanh(), nn.LazyLinear(2))


def inplace(x, p):
    x = x * 1.0
    x += p
    return x


def window_bias(m, x):
    """As Swin: rows are cut into windows, whose scores get a bias looked up by relative position."""
    windows = torch.cat([x, x + 1], 1).reshape(len(x) * 2, 3, 4)
    scores = (windows @ windows.transpose(1, 2)).unsqueeze(1)
    bias = m.p[m.index.reshape(-1)].reshape(3, 3, -1).permute(2, 0, 1).contiguous()
    return ((scores + bias.unsqueeze(0)).softmax(-1)[:, 0] @ windows).reshape(len(x), 6, 4)


CASES = {
    "position embedding": (lambda m, x: x + m.p, {"p": (1, 3, 4)}),
    "on the left": (lambda m, x: m.p - x, {"p": (3, 4)}),
    "layer scale": (lambda m, x: m.p * x, {"p": (4,)}),
    "a number": (lambda m, x: x / (1.5 + m.p.sigmoid()), {"p": ()}),
    "in place": (lambda m, x: inplace(x, m.p), {"p": (3, 4)}),
    "class token": (lambda m, x: torch.cat((m.p.expand(x.shape[0], -1, -1), x), dim=1), {"p": (1, 1, 4)}),
    "class token by expand_as": (lambda m, x: torch.cat([x, m.p.expand_as(x[:, :1])], 1), {"p": (1, 1, 4)}),
    "mask token": (lambda m, x: torch.where(x > 0, x, m.p), {"p": (1, 1, 4)}),
    "projection": (lambda m, x: x @ m.p, {"p": (4, 6)}),
    "projection from the left": (lambda m, x: torch.matmul(m.p, x), {"p": (2, 3)}),
    "window bias": (window_bias, {"p": (4, 1)}),
    "two parameters in one": (lambda m, x: x * (m.p * m.q.exp()), {"p": (4,), "q": (3, 1)}),
    "used twice": (lambda m, x: (x + m.p).tanh() * m.p.square(), {"p": (3, 4)}),
    "a norm of the parameter": (lambda m, x: x * (m.p / m.p.norm()), {"p": (4,)}),
    "detached": (lambda m, x: x + m.p * m.q.detach(), {"p": (4,), "q": (4,)}),
    "of the loss itself": (lambda m, x: x.flatten(1).sum(1, keepdim=True) + m.p.sum(), {"p": (3,)}),
}


@pytest.mark.parametrize("mode", ["store", "ghost"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_each_row_alone(oracle, name, mode):
    code, shapes = CASES[name]
    torch.manual_seed(1)
    model, (inputs, targets) = net(Own(code, **shapes)), oracle.data(ROWS, 5)
    model(inputs)
    truth = oracle.truth(model, inputs, targets, UNITS)
    found = oracle.engine(model, inputs, targets, UNITS, bound=0.3, mode=mode)
    assert torch.allclose(found.unit_norms, truth.norms, rtol=5e-5)
    assert oracle.distance(found, truth.clipped(0.3)) <= 2e-5
    assert [*found.gradients] == truth.names
    assert isinstance(model[1].p, nn.Parameter)
    prove(model, oracle.loss, inputs, targets)


def test_views_chunks_and_bfloat16(oracle):
    code, shapes = CASES["window bias"]
    model, (inputs, targets) = net(Own(code, **shapes)), oracle.data(8, 5)
    model(inputs)
    units = [0, 1, 0, 2]
    truth = oracle.truth(model, inputs, targets, units, views=2)
    for changes, most in (({}, 2e-5), ({"chunk": 1}, 2e-5), ({"precision": "bf16"}, 2e-2)):
        found = oracle.engine(model, inputs, targets, units, views=2, bound=0.3, **changes)
        assert oracle.distance(found, truth.clipped(0.3)) <= most


REFUSED = {
    "convolution": (lambda m, x: torch.nn.functional.linear(x, m.p), {"p": (2, 4)}, "'linear'"),
    "joined along the batch": (
        lambda m, x: torch.cat([x, m.p])[: len(x)],
        {"p": (1, 3, 4)},
        "along the batch",
    ),
    "rows of a table": (lambda m, x: x + m.p[x[:, 0, 0].long().abs() % 4][:, None], {"p": (4, 4)}, "shape"),
    "through a layer": (lambda m, x: x + m.inner(m.p), {"p": (1, 4)}, "module 1.inner"),
    "other leading dimension": (
        lambda m, x: (x.transpose(0, 1) + m.p).transpose(0, 1),
        {"p": (4,)},
        "multiple",
    ),
    "hidden in a function": (lambda m, x: Hidden.apply(x, m.p), {"p": (4,)}, "1.p"),
    "alone": (lambda m, x: m.p.expand(len(x), -1, -1), {"p": (1, 3, 4)}, "module 4"),
}


class Hidden(torch.autograd.Function):
    """Code that no torch function sees."""

    @staticmethod
    def forward(ctx, x, p):
        ctx.save_for_backward(x, p)
        return x * p

    @staticmethod
    def backward(ctx, dy):
        x, p = ctx.saved_tensors
        return dy * p, (dy * x).sum((0, 1))


@pytest.mark.parametrize("name", REFUSED)
def test_other_uses_are_refused_with_the_place(oracle, name):
    code, shapes, where = REFUSED[name]
    own = Own(code, **shapes)
    own.inner = nn.Linear(4, 4)
    model, (inputs, targets) = net(own), oracle.data(ROWS, 5)
    model(inputs)
    with pytest.raises(PrivacyRefusal, match=where):
        oracle.engine(model, inputs, targets)
    assert isinstance(model[1].p, nn.Parameter)


def test_an_output_of_parameters_alone_is_refused(oracle):
    model, (inputs, targets) = Own(lambda m, x: m.p.expand(len(x), -1), p=(1, 3)), oracle.data(ROWS, 5)
    with pytest.raises(PrivacyRefusal, match="got one of parameters alone"):
        oracle.engine(
            model,
            inputs,
            targets,
            loss=lambda y, t: nn.functional.cross_entropy(
                y, torch.zeros(len(y), dtype=torch.long), reduction="none"
            ),
        )


def test_rows_that_see_each_other_through_a_parameter_are_found_by_the_proof(oracle):
    model, (inputs, targets) = (
        net(Own(lambda m, x: x + m.p * x.mean(0, keepdim=True), p=(3, 4))),
        oracle.data(ROWS, 5),
    )
    model(inputs)
    with pytest.raises(PrivacyRefusal):
        prove(model, oracle.loss, inputs, targets)


def test_a_frozen_parameter_stays_what_it_is(oracle):
    own = Own(lambda m, x: torch.nn.functional.linear(x, m.p), p=(2, 4))
    own.requires_grad_(False)
    model, (inputs, targets) = net(own), oracle.data(ROWS, 5)
    model(inputs)
    assert not any(layer.raw for layer in trained_layers(model))
    assert oracle.engine(model, inputs, targets).gradients.keys() == {
        "0.0.weight",
        "0.0.bias",
        "4.weight",
        "4.bias",
    }
