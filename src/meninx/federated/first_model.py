"""The first common model of a study: the network that its settings and seed give, at every site the same."""

from __future__ import annotations

import torch

from meninx.core.manifest import DatasetInfo
from meninx.federated.vector import Vector
from meninx.federated.weight_layout import WeightLayout
from meninx.learn import assemble, finetune
from meninx.learn.task import with_network
from meninx.train.config import TrainConfig


def first_model(
    config: TrainConfig, info: DatasetInfo, local: tuple[str, ...] = ()
) -> tuple[Vector, WeightLayout]:
    """Return the first common weights of a study and their layout.

    Args:
        config: training settings of the study.
        info: what every dataset of the study is like.
        local: prefixes of weights that stay at each site.

    Raises:
        ConfigError: there is no such network, or a prefix fits no weight.
    """
    config = with_network(config, info)
    with torch.random.fork_rng():
        network, _ = assemble.initial_network(config, info)
    layout = WeightLayout.of(network, local=local, frozen=finetune.never_trained(network, config.model))
    return layout.flatten(network.state_dict()), layout
