"""The network follows the task of the dataset."""

from __future__ import annotations

import pytest

from meninx.core.errors import ConfigError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.learn.config import LearnConfig
from meninx.learn.task import with_network


def info(task: TaskKind) -> DatasetInfo:
    return DatasetInfo(name="x", task=task, labels=("a", "b"))


@pytest.mark.parametrize(
    ("task", "name"),
    [(TaskKind.SEGMENTATION, "unet"), (TaskKind.MULTILABEL, "resnet9"), (TaskKind.MULTICLASS, "resnet9")],
)
def test_the_default_network_follows_the_task(task, name):
    assert with_network(LearnConfig(), info(task)).model.name == name


@pytest.mark.parametrize("name", ["monai:UNet", "own:Net", "unet-small"])
def test_a_named_network_stays(name):
    assert with_network(LearnConfig.of(model=name), info(TaskKind.SEGMENTATION)).model.name == name


@pytest.mark.parametrize(
    ("task", "name", "usual"),
    [(TaskKind.SEGMENTATION, "resnet9-small", "unet"), (TaskKind.MULTILABEL, "unet-small", "resnet9")],
)
def test_a_network_for_another_task_is_refused_by_its_name(task, name, usual):
    with pytest.raises(ConfigError, match=f"got {name}, which is for .*{usual}"):
        with_network(LearnConfig.of(model=name), info(task))
