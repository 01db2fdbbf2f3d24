"""Attacks of an honest but curious server: it changes nothing and reads the gradients that it gets.

- :class:`LinearReadout`: the gradient of a first linear layer is a multiple of its input.
- :class:`GradientMatching`: an image is sought whose gradient points where the seen one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.victim import Gradients
from meninx.core.errors import UsageError, problem
from meninx.privacy.clipping.clipped_sum import PerSampleLoss

MOST_PARAMETERS = 300_000
"""Of a network whose gradients are matched; with more, an image takes minutes."""
_SMOOTHNESS, _NOISE_SMOOTHNESS, _MOST_SMOOTHNESS = 0.01, 20.0, 0.5
"""Weight of the total variation: without noise, for each unit of the noise multiplier, and at most."""
_RATE = 0.1
_TOGETHER = 16


class ImageInput(nn.Module):
    """A network behind the fixed scaling from image values in [0, 1] to network input."""

    def __init__(self, network: nn.Module, lowest: float, span: float) -> None:
        super().__init__()
        self.network, self.lowest, self.span = network, lowest, span
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits of images in [0, 1]."""
        result: Tensor = self.network(images * self.span + self.lowest)
        return result


def linear_classifier(shape: tuple[int, ...], outputs: int, generator: torch.Generator) -> nn.Module:
    """Return a linear classifier of whole images with random weights."""
    layer = nn.Linear(math.prod(shape), outputs)
    with torch.no_grad():
        layer.weight.copy_(1e-3 * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def first_linear(network: nn.Module, values: int) -> str:
    """Return the name of the weight of a linear layer that sees the whole image first, or an empty text."""
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        fits = isinstance(module, nn.Linear) and module.in_features == values
        return f"{name}.weight".lstrip(".") if fits else ""
    return ""


class LinearReadout:
    """Reads the images of single-image steps from the weight gradient of a first linear layer.

    Where the run's network has no such layer, a linear classifier stands in for it.

    Args:
        knowledge: what the server has.
        outputs: of the network.
    """

    def __init__(self, knowledge: Knowledge, outputs: int) -> None:
        values = math.prod(knowledge.shape)
        name = first_linear(knowledge.network, values)
        self.lowest, self.span = (knowledge.lowest, knowledge.span) if name else (0.0, 1.0)
        generator = torch.Generator().manual_seed(knowledge.seed)
        network = knowledge.network if name else linear_classifier(knowledge.shape, outputs, generator)
        self.words = (
            "the run's network" if name else "a linear classifier that stands in for the run's network"
        )
        self.network: nn.Module = ImageInput(network, self.lowest, self.span)
        self.watched = (f"network.{name or '1.weight'}",)
        self.shape = knowledge.shape
        seen = knowledge.public.flatten(1) * self.span + self.lowest
        self.typical_norm, self._known = float(seen.norm(dim=1).median()), seen.mean(dim=0)
        self.candidates = 1

    def decode(self, steps: Sequence[Gradients], targets: Tensor, noise: float) -> Tensor:
        """Return one image of each step, (steps, 1, *shape): the direction that its gradient's rows share.

        Args:
            steps: gradients of the layer.
            targets: not used.
            noise: not used.
        """
        return torch.stack([self._image(seen[self.watched[0]]) for seen in steps])

    def _image(self, rows: Tensor) -> Tensor:
        weights = _shared_weights(rows)
        code = weights @ rows
        length = float(code.norm())
        if length == 0:
            return torch.zeros(1, *self.shape)
        sign = -1.0 if float(code @ self._known) < 0 else 1.0
        found = (sign * self.typical_norm / length * code - self.lowest) / self.span
        return found.reshape(1, *self.shape)


def _shared_weights(rows: Tensor) -> Tensor:
    """Return how much of each row to take: the first left singular vector, from the small Gram matrix."""
    _, vectors = torch.linalg.eigh((rows @ rows.T).double())
    first: Tensor = vectors[:, -1].to(rows.dtype)
    return first


class GradientMatching:
    """Seeks images whose gradients have the direction of the seen ones; labels are known.

    Args:
        knowledge: what the server has.
        loss: of the run.

    Raises:
        UsageError: the network has too many parameters.

    References:
        Geiping et al. 2020, "Inverting gradients: how easy is it to break privacy in federated learning?"
    """

    def __init__(self, knowledge: Knowledge, loss: PerSampleLoss) -> None:
        network = ImageInput(knowledge.network, knowledge.lowest, knowledge.span)
        trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
        count = sum(value.numel() for value in trained.values())
        if count > MOST_PARAMETERS:
            what = f"the network has {count:,} parameters; gradients are matched up to {MOST_PARAMETERS:,}"
            raise UsageError(problem(what, where="gradient matching"))
        self.network: nn.Module = network
        self.watched = tuple(trained)
        self.words = "the run's network"
        self.shape, self.candidates = knowledge.shape, 1
        self._loss, self._iterations = loss, knowledge.iterations
        self._start = knowledge.public.mean(dim=0)

    def decode(self, steps: Sequence[Gradients], targets: Tensor, noise: float) -> Tensor:
        """Return one image of each step, (steps, 1, *shape).

        Args:
            steps: gradients of all parameters.
            targets: of the steps, (steps, 1, ...).
            noise: multiplier of the noise in the gradients; the noisier they are, the smoother the image.
        """
        found = []
        for first in range(0, len(steps), _TOGETHER):
            part = steps[first : first + _TOGETHER]
            goal = torch.stack([torch.cat([seen[name].flatten() for name in self.watched]) for seen in part])
            found.append(self._sought(goal, targets[first : first + _TOGETHER], noise))
        return torch.cat(found)

    def _sought(self, goal: Tensor, targets: Tensor, noise: float) -> Tensor:
        """Return the images whose gradients have the directions of ``goal``, (steps, 1, *shape)."""
        steps, smoothness = len(goal), min(_MOST_SMOOTHNESS, _SMOOTHNESS + _NOISE_SMOOTHNESS * noise)
        nothing = goal.norm(dim=1) == 0
        place = next(self.network.parameters()).device
        goal, targets = goal.to(place), targets.to(place)
        goal = goal / goal.norm(dim=1, keepdim=True).clamp(min=1e-30)
        images = self._start.to(place).expand(steps, *self.shape).clone().requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._iterations, eta_min=1e-3)
        gradient_of = self._gradients()
        for _ in range(self._iterations):
            optimizer.zero_grad()
            now = gradient_of(images, targets)
            apart = 1 - (now * goal).sum(1) / now.norm(dim=1).clamp(min=1e-30)
            (apart.sum() + smoothness * _variation(images)).backward()
            assert images.grad is not None
            images.grad.sign_()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
        found = images.detach().cpu()
        found[nothing.cpu()] = 0.0
        return found[:, None]

    def _gradients(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function of images and targets that gives the gradient of each, (steps, parameters)."""
        values = dict(self.network.named_parameters())
        trained = {name: values[name].detach() for name in self.watched}
        rest = {name: value.detach() for name, value in values.items() if name not in trained}
        rest |= {name: value.detach() for name, value in self.network.named_buffers()}

        def loss(weights: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            output = functional_call(self.network, {**rest, **weights}, (image[None],))
            return self._loss(output, target).sum()

        each = vmap(grad(loss), in_dims=(None, 0, 0))

        def together(images: Tensor, targets: Tensor) -> Tensor:
            found = each(trained, images, targets)
            return torch.cat([found[name].flatten(1) for name in self.watched], dim=1)

        return together


def _variation(images: Tensor) -> Tensor:
    """Return the sum over images of the mean absolute difference of neighbouring values along each axis."""
    total = images.new_zeros(())
    for axis in range(2, images.ndim):
        total = total + images.diff(dim=axis).abs().flatten(1).mean(1).sum()
    return total
