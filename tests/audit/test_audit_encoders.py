"""Linear encoders of images that were fitted on public images."""

from __future__ import annotations

import pytest
import torch

from meninx.audit.reconstruction.encoders import ENCODERS, Encoder, EncoderName, fit_encoder
from meninx.core.errors import DataError

SHAPES = [(1, 12, 10), (2, 6, 5, 4)]


def public(shape: tuple[int, ...], count: int = 40) -> torch.Tensor:
    """Return images that vary in six directions, and hardly in all others."""
    source = torch.Generator().manual_seed(3)
    size = torch.Size(shape).numel()
    patterns = torch.randn(6, size, generator=source) * torch.tensor([9.0, 5, 3, 2, 1, 0.5])[:, None]
    weights = torch.randn(count, 6, generator=source)
    noise = 1e-3 * torch.randn(count, size, generator=source)
    return (weights @ patterns + noise + 4.0).reshape(count, *shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_decoded_code_is_the_image(name: EncoderName, shape: tuple[int, ...]) -> None:
    images = public(shape)
    encoder = fit_encoder(name, images, components=6)
    found = encoder.decode(encoder.encode(images))
    assert found.dtype == torch.float32
    assert found.shape == images.shape
    assert (found - images).abs().max() < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_of_whitened_public_images_have_equal_variance_and_no_correlation(
    shape: tuple[int, ...],
) -> None:
    images = public(shape, 200)
    codes = fit_encoder("whitened", images, components=6).encode(images)
    assert torch.allclose(torch.cov(codes.T), torch.eye(6), atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_matrix_and_offset_are_a_linear_layer_that_encodes(name: EncoderName) -> None:
    images = public((1, 8, 8))
    encoder = fit_encoder(name, images, components=4)
    by_layer = torch.nn.functional.linear(images.flatten(1), encoder.matrix(), encoder.offset())
    assert torch.allclose(by_layer, encoder.encode(images), atol=1e-4)


def test_many_small_images_and_few_large_ones_give_the_same_directions() -> None:
    images = public((1, 8, 8), 64)
    tall, wide = fit_encoder("pca", images, components=5), fit_encoder("pca", images[:63], components=5)
    assert tall.directions is not None
    assert wide.directions is not None
    overlap = (tall.directions @ wide.directions.T).abs().diagonal()
    assert (overlap > 0.95).all()


def test_no_more_components_than_the_public_images_span() -> None:
    assert fit_encoder("whitened", public((1, 12, 10), 5), components=64).size == 4


def encode_wrong(images: torch.Tensor) -> Encoder:
    """Return an encoder of 1 x 8 x 8 images after it was given others."""
    encoder = fit_encoder("pca", public((1, 8, 8)), components=3)
    encoder.encode(images)
    return encoder


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode_wrong(torch.zeros(2, 1, 8, 9)),
        lambda: encode_wrong(torch.zeros(2, 64)),
        lambda: encode_wrong(torch.full((2, 1, 8, 8), float("nan"))),
        lambda: fit_encoder("pca", public((1, 8, 8))).decode(torch.zeros(2, 65)),
        lambda: fit_encoder("pca", torch.zeros(4, 8, 8)),
        lambda: fit_encoder("pca", torch.zeros(4, 1, 8, 8)),
        lambda: fit_encoder("pca", torch.zeros(1, 1, 8, 8)),
        lambda: fit_encoder("raw", torch.zeros(3, 0, 8, 8)),
        lambda: fit_encoder("pca", public((1, 8, 8)), components=0),
        lambda: fit_encoder("sharp", public((1, 8, 8))),  # type: ignore[arg-type]
        lambda: fit_encoder("raw", torch.zeros(1, 1, 1, 1).expand(1, 1, 2**16, 2**16)),
        lambda: fit_encoder("centred", torch.zeros(1, 1, 1, 1).expand(2, 1, 2**15, 2**15)),
        lambda: fit_encoder("raw", torch.zeros(1, 1, 300, 300)).matrix(),
    ],
)
def test_images_that_do_not_fit_are_refused(call: object) -> None:
    with pytest.raises(DataError):
        call()  # type: ignore[operator]
