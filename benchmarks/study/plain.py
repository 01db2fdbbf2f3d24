"""Plain DP-SGD with Opacus: flat clipping, one random case per patient, constant learning rate.

It has no views and no averaged weights, and it starts from random weights.

What it shares with meninx: the network, the images, the privacy unit, delta, epsilon, the noise multiplier's
accountant (dp-accounting's PLD, tighter than the one Opacus takes by default) and the CPU seconds.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from meninx.core.artifacts import FeatureStatistics
from meninx.core.manifest import Manifest
from meninx.learn.assemble import feature_statistics
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.features import standardize
from meninx.learn.pretrained import initialise
from meninx.learn.task import ImageTask, image_task
from meninx.models import registry
from meninx.privacy.noise_calibration import solve_noise
from study.sets import Plain, Study

_TRIAL_STEPS = 7  # sizes of Poisson batches differ: fewer would misjudge a step


class Patients(Dataset[tuple[Tensor, Tensor]]):
    """Patients of a training split; asking for one gives one of their cases, drawn at random."""

    def __init__(self, part: Manifest, config: LearnConfig, seed: int) -> None:
        self.store = CaseStore(part, config.model)
        self.cases: list[list[int]] = [[] for _ in part.patients]
        for case, patient in enumerate(part.patient_index()):
            self.cases[int(patient)].append(case)
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, patient: int) -> tuple[Tensor, Tensor]:
        own = self.cases[patient]
        sample = self.store.patch(own[int(self.generator.integers(len(own)))], self.generator, foreground=0.0)
        return sample.image, sample.target


def run(
    study: Study,
    plain: Plain,
    config: LearnConfig,
    data: Path,
    seed: int,
    epsilon: float,
    seconds: float,
) -> dict[str, Any]:
    """Train with Opacus for about ``seconds`` of CPU time and return model, CPU seconds, steps and noise.

    Args:
        study: the dataset.
        plain: settings of Opacus.
        config: the network and patch size of the recipe that it is compared with, and what it starts from.
        data: folder of prepared datasets.
        seed: of initialisation and order.
        epsilon: to be spent.
        seconds: CPU seconds that may be used.
    """
    warnings.filterwarnings("ignore", module="opacus|torch")
    begun = time.process_time()
    whole = Manifest.read(data / study.data)
    people = Patients(whole.split("train"), config, seed)
    goal = image_task(whole.info, config.task)
    statistics = feature_statistics(config, whole.info) if config.model.standardize else None
    for patient in range(len(people)):
        people[patient]
    read = time.process_time() - begun
    rate = 1 / len(DataLoader(people, batch_size=plain.batch))
    times = _fit(
        _network(config, whole, goal, 0, statistics), people, goal, plain, noise=1.0, steps=_TRIAL_STEPS
    )[1]
    cost = sum(times[1:]) / (_TRIAL_STEPS - 1)  # the first one also compiles and allocates
    steps = max(2, int((seconds - read) / cost))
    noise = solve_noise(sample_rate=rate, steps=steps, epsilon=epsilon, delta=study.delta)
    torch.manual_seed(seed)
    begun = time.process_time()
    model, _ = _fit(
        _network(config, whole, goal, seed, statistics), people, goal, plain, noise=noise, steps=steps
    )
    spent = read + time.process_time() - begun
    return {
        "model": model.eval(),
        "config": config.replace(physical_batch=plain.physical),
        "info": whole.info,
        "cpu": spent,
        "steps": steps,
        "noise": noise,
        "q": rate,
        "step_cpu": cost,
    }


def _network(
    config: LearnConfig, data: Manifest, goal: ImageTask, seed: int, statistics: FeatureStatistics | None
) -> nn.Module:
    torch.manual_seed(seed)
    info = data.info
    shape = {
        "spatial_dims": info.spatial_dims,
        "in_channels": info.channels,
        "out_channels": goal.out_channels,
    }
    network = registry.build(config.model.name, **shape, **config.model.options)
    if statistics is not None:
        initialise(network, Path(config.model.pretrained))
        standardize(network, statistics)
    return network.train()


def _fit(
    network: nn.Module, people: Patients, goal: ImageTask, plain: Plain, *, noise: float, steps: int
) -> tuple[Any, list[float]]:
    """Return the network after some Poisson-sampled steps, and the CPU seconds of each step."""
    optimizer: Any = torch.optim.SGD(network.parameters(), lr=plain.lr, momentum=plain.momentum)
    loader: Any = DataLoader(people, batch_size=plain.batch)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=network,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=plain.max_grad_norm,
        grad_sample_mode=plain.mode,
    )
    done, times, since = 0, list[float](), time.process_time()
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=plain.physical, optimizer=optimizer
    ) as parts:
        while done < steps:
            for images, targets in parts:
                optimizer.zero_grad()
                goal.loss(model(images), targets).mean().backward()
                optimizer.step()
                if optimizer._is_last_step_skipped:
                    continue
                done += 1
                times.append(time.process_time() - since)
                since = time.process_time()
                if done == steps:
                    break
    optimizer.zero_grad()
    return model.to_standard_module(), times
