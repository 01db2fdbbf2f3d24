"""The proof by trial: forward code and losses that no list of layer types can judge."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from meninx.core.errors import PrivacyRefusal
from meninx.privacy.clipping.proof import prove


class Net(nn.Module):
    """A convolution and a head, with one spoilt line between them."""

    def __init__(self, spoilt=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.Linear(3, 2)
        self.spoilt = spoilt

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x)))
        if self.spoilt is not None:
            x = self.spoilt(self, x)
        return self.head(x.mean((2, 3)))


def mixed(net, x):
    return x - x.mean(0)


def borrowed(net, x):
    return functional.conv2d(x, net.conv.weight.transpose(0, 1).expand(3, 3, 3, 3), padding=1)


def reordered(net, x):
    return x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def rolled(net, x):
    return x + x.roll(1, 0)


def honest(outputs, targets):
    return (outputs - targets).square().sum(1)


def mixing(outputs, targets):
    return (outputs - outputs.mean(0) - targets).square().sum(1)


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 5, 5, generator=generator), torch.randn(4, 2, generator=generator)


def test_an_honest_model_passes():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prove(model, honest, *data())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("spoilt", [mixed, borrowed, reordered, rolled])
def test_forward_code_that_breaks_the_rows_is_refused(spoilt):
    with pytest.raises(PrivacyRefusal, match=r"conv\.weight"):
        prove(Net(spoilt), honest, *data())


def test_a_loss_that_mixes_rows_is_refused():
    with pytest.raises(PrivacyRefusal, match="computed for the row alone"):
        prove(Net(), mixing, *data())


def test_a_model_with_dropout_passes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    prove(model, honest, *data())
    assert model[2].training, "the copy alone runs without dropout"


# what two rows at the start do not show


def crowded(net, x):
    return x - 0.1 * x.mean(0) if len(x) > 2 else x


def more_than_thirty(net, x):
    return x - 0.1 * x.mean(0) if len(x) > 32 else x


def in_the_middle_of_many(net, x):
    row = len(x) // 2
    return torch.cat([x[:row], x[row : row + 1] + 0.1 * x[:1], x[row + 1 :]]) if len(x) > 32 else x


def in_the_middle_of_five(net, x):
    return torch.cat([x[:2], x[2:3] + x[:1] - x[:1].detach(), x[3:]]) if len(x) == 5 else x


def by_length(net, x):
    return x * (1 + 0.01 * (len(x) > 2))


def when_large(net, x):
    return x + x.mean(0) if float(x.detach().abs().max()) > 30 else x


class Gated(Net):
    """A mixture behind two convolutions that start at zero: neither value nor gradient shows it."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Tanh(), nn.Conv2d(3, 3, 1, bias=False))
        for value in self.gate.parameters():
            nn.init.zeros_(value)

    def forward(self, x):
        x = self.conv(x)
        return self.head((x + self.gate(x).mean(0)).mean((2, 3)))


def test_a_gate_that_opens_later_is_refused():
    with pytest.raises(PrivacyRefusal, match="alone"):
        prove(Gated(), honest, *data())


@pytest.mark.parametrize(
    "spoilt", [crowded, more_than_thirty, in_the_middle_of_many, in_the_middle_of_five, by_length]
)
def test_rows_that_see_each_other_only_in_a_crowd_are_refused(spoilt):
    with pytest.raises(PrivacyRefusal, match="alone"):
        prove(Net(spoilt), honest, *(item[:2] for item in data()))


class Bright(Net):
    """Nothing happens on images of noise."""

    def forward(self, x):
        return self.head(when_large(self, self.conv(x)).mean((2, 3)))


def test_rows_that_see_each_other_only_on_large_values_are_refused():
    with pytest.raises(PrivacyRefusal, match="alone"):
        prove(Bright(), honest, *(item[:2] for item in data()))


def test_the_first_module_that_mixes_is_named():
    with pytest.raises(PrivacyRefusal, match="module head, or the code before it"):
        prove(Net(more_than_thirty), honest, *data())


class Drawing(Net):
    def forward(self, x):
        return super().forward(self.noisy(x))


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class DropRows(nn.Module):
    """A name like that of a dropout layer, and one mask of the whole batch."""

    def forward(self, x):
        return x * torch.arange(len(x)).view(-1, 1, 1, 1) if self.training else x


def test_a_name_like_that_of_a_dropout_layer_exempts_nobody():
    net = Drawing()
    net.noisy = DropRows()
    with pytest.raises(PrivacyRefusal, match="alone"):
        prove(net, honest, *data())


def test_a_module_that_draws_random_numbers_is_refused_by_name():
    net = Drawing()
    net.noisy = Noisy()
    with pytest.raises(PrivacyRefusal, match=r"module noisy \(Noisy\)"):
        prove(net, honest, *data())


def test_nothing_is_changed_neither_weights_nor_generators():
    model, (inputs, targets) = Net(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, images = torch.get_rng_state(), inputs.clone()
    prove(model, honest, inputs, targets)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(inputs, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_a_single_row_and_whole_numbers_are_enough():
    prove(Net(), honest, *(item[:1] for item in data()))
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    prove(words, honest, torch.randint(0, 9, (2, 3)), torch.randn(2, 2))


def test_the_sum_refuses_a_weight_used_outside_its_layer_without_a_proof(oracle):
    """It used to leave that part of the gradient out."""
    inputs, targets = data()
    with pytest.raises(PrivacyRefusal, match=r"used outside its own layer.*conv\.weight"):
        oracle.engine(Net(borrowed), inputs, targets, loss=honest)
