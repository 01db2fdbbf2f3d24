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
    with pytest.raises(PrivacyRefusal, match="the gradient that the row has alone"):
        prove(Net(), mixing, *data())


def test_a_model_with_dropout_passes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    prove(model, honest, *data())
    assert model[2].training, "the copy alone runs without dropout"
