"""What the study compares: datasets, the settings of every arm, and where pretrained weights come from.

Settings were chosen on the validation part, at epsilon 8, and are the same at every epsilon and seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"
EPSILONS = (1.0, 3.0, 8.0, 20.0)
NON_PRIVATE, OURS, PLAIN, WARM = "non-private", "meninx", "opacus", "opacus-pretrained"
ARMS = (NON_PRIVATE, OURS, PLAIN, WARM)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Settings of the Opacus arm; its steps are what fits into the CPU seconds that meninx took.

    Attributes:
        batch: expected patients a step.
        lr: learning rate, constant.
        momentum: of SGD.
        mode: grad-sample mode that was fastest for this network.
        physical: most patients in memory at once.
        max_grad_norm: clipping threshold, flat.
    """

    batch: int
    lr: float
    momentum: float = 0.9
    mode: str = "hooks"
    physical: int = 64
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A public network that recipes start from.

    Attributes:
        data: dataset folder below the data folder.
        recipe: file in the recipes folder.
        said: what the weights were trained on, for the run's records.
    """

    data: str
    recipe: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """One dataset of the study.

    Attributes:
        key: its name, also of the recipes ``key.toml`` (non-private) and ``key-dp.toml``.
        title: for tables and figures.
        data: dataset folder below the data folder.
        metric: ``AUROC`` or ``Dice``.
        labels: labels whose mean is reported; empty for all.
        delta: of every private run.
        start: key of :data:`PRETRAINING` that our recipe and the non-private network start from, their
            features standardised by its dataset; empty for random weights.
        plain: settings of the Opacus arm.
        warm: settings of Opacus when it starts from the same weights as we do; None leaves that row out.
    """

    key: str
    title: str
    data: str
    metric: str = "AUROC"
    labels: tuple[str, ...] = ()
    delta: float
    start: str = ""
    plain: Plain
    warm: Plain | None = None


PRETRAINING = {
    "nih": Pretraining(data="nih64", recipe="pretrain.toml", said="nih_cxr_64 (public)"),
    "kermany": Pretraining(
        data="kermany64", recipe="pretrain.toml", said="kermany_cxr_224 at 64 px (public)"
    ),
}

STUDIES = {
    item.key: item
    for item in (
        Study(
            key="nih64", title="Four findings, 64 px", data="nih64", delta=1e-3, start="kermany",
            labels=("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration"),
            plain=Plain(batch=64, lr=0.5), warm=Plain(batch=64, lr=0.5),
        ),
        Study(
            key="kermany224", title="Pneumonia, 224 px", data="kermany224", delta=1e-4, start="nih",
            plain=Plain(batch=128, lr=0.5, physical=16), warm=Plain(batch=128, lr=0.5, physical=16),
        ),
        Study(key="pad128", title="Skin cancer, 128 "
                "px", data="pad128", delta=1e-3, plain=Plain(batch=128, lr=0.2, physical=32)),
        Study(
            key="kermany64", title="Pneumonia, 64 px", data="kermany64", delta=1e-4, start="nih",
            plain=Plain(batch=256, lr=0.5), warm=Plain(batch=256, lr=0.5),
        ),
        Study(
            key="hippo", title="Hippocampus, 3-D", data="hippo", metric="Dice", delta=1e-3,
            plain=Plain(batch=16, lr=2.0, mode="functorch", physical=8, max_grad_norm=0.1),
        ),
    )
}  # fmt: skip
