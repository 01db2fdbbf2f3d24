"""Viewmaker networks: the published shape, any size and channels, random numbers, the cosine domain."""

from __future__ import annotations

import pytest
import torch

from meninx.core.errors import ConfigError
from meninx.models.viewmaker_networks import NETWORKS, cosine_basis, viewmaker


def built(name="slim", **more):
    torch.manual_seed(0)
    return viewmaker(name, **{"channels": 1, "budget": 0.1, "residual_blocks": 1, **more}).eval()


def noise_for(network, images, fill=None):
    shapes = network.noise_shapes(*images.shape[2:])
    generator = torch.Generator().manual_seed(1)
    made = [torch.rand(len(images), 1, *shape, generator=generator) for shape in shapes]
    return made if fill is None else [torch.full_like(one, fill) for one in made]


def test_the_full_network_has_the_published_number_of_weights():
    count = sum(value.numel() for value in viewmaker("full", channels=3, budget=0.05).parameters())
    assert count == 1_120_131


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (17, 30)), (1, (41, 9))])
@pytest.mark.parametrize("dct", [False, True])
def test_any_channels_and_sides(name, channels, size, dct):
    network = built(name, channels=channels, dct=dct)
    images = torch.rand(2, channels, *size)
    views = network(images, noise_for(network, images))
    assert views.shape == images.shape
    assert (views != images).float().mean() > 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_change_depends_on_the_random_numbers_and_on_the_image(name):
    network = built(name)
    images = torch.rand(2, 1, 16, 16)
    one, other = (network(images, noise_for(network, images, fill)) for fill in (None, 0.5))
    assert not torch.allclose(one, other)
    swapped = network(images.flip(0), noise_for(network, images, 0.5)).flip(0)
    torch.testing.assert_close(swapped, other)


def test_the_cosine_domain_changes_what_the_network_sees():
    images = torch.rand(2, 1, 16, 16)
    plain, cosine = built(), built(dct=True)
    cosine.load_state_dict(plain.state_dict())
    assert not torch.allclose(*(net(images, noise_for(net, images)) for net in (plain, cosine)))
    basis = cosine_basis(13)
    torch.testing.assert_close(basis @ basis.T, torch.eye(13))
    torch.testing.assert_close(basis[0], torch.full((13,), 13**-0.5))


def test_a_slim_network_computes_the_change_on_32_pixels():
    assert built().noise_shapes(224, 112) == ((32, 16), (8, 4))
    assert built("full").noise_shapes(224, 112) == ((224, 112), (56, 28))


def test_an_unknown_network_and_a_budget_outside_the_range_are_refused():
    with pytest.raises(ConfigError, match="network"):
        viewmaker("thin", channels=1, budget=0.1)
    with pytest.raises(ConfigError, match="budget"):
        viewmaker("slim", channels=1, budget=0.0)
