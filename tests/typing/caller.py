"""A caller's code, checked by mypy in `make types`: right calls pass, wrong calls are expected errors.

An unused ``type: ignore`` is an error, too, so a signature that stops refusing something fails the check.
"""

from __future__ import annotations

import torch
from torch import nn

import meninx
from meninx.core.budget import PrivacySpent
from meninx.deid import Deidentifier
from meninx.metrics import Estimate
from meninx.models import build
from meninx.privacy import Plan, calibrate, training


def right_calls(net: nn.Module) -> None:
    version: str = meninx.__version__
    run = meninx.train(
        "data", model=net, recipe="tiny", epsilon=8.0, delta=1e-4, optimizer="momentum", augment=["flip"]
    )
    spent: PrivacySpent | None = run.privacy
    again = meninx.train("data", model="resnet9", privacy={"epsilon": 8.0}, lr=0.1)
    auroc: Estimate = meninx.evaluate(again.out, split="valid").metrics["auroc"]
    low: float = auroc.low
    predicted: int = meninx.predict(run.out, "new", "out", format=["dicom-seg"], device="cpu").cases
    loaded: nn.Module = meninx.load_model(run.out, model=net)
    meninx.prepare(["north", "south"], "data", reader="csv", label_columns=("effusion",), size=(64, 64))
    meninx.deidentify("archive", "clean", key="north.key", site="north", profile="basic")
    meninx.report(["clean", "data", run.out], "page.html", utility_floor=0.8)
    meninx.sweep("data", "sweep", epsilons=[1, 8], recipe="tiny")
    meninx.audit(
        run.out, parts=["bounds"], fail_if="largest-auc > 0.9", one_run={"canaries": 400}
    ).raise_if_failed()
    ok: bool = meninx.verify("data").ok
    print(version, spent, low, loaded, predicted, ok, Deidentifier, build)


def wrong_calls() -> None:
    meninx.train("data", epsilom=8.0)  # type: ignore[call-arg]
    meninx.train("data", lr="fast")  # type: ignore[arg-type]
    meninx.train("data", optimizer="sdg")  # type: ignore[arg-type]
    meninx.train("data", model=3)  # type: ignore[arg-type]
    meninx.predict("run", "new", "out", format=["png"])  # type: ignore[list-item]
    meninx.audit("run", parts=["bound"])  # type: ignore[list-item]
    meninx.deidentify("archive", "clean")  # type: ignore[call-arg]
    print(meninx.evaluate("run").metrics["auroc"].number)  # type: ignore[attr-defined]
    print(meninx.federate)  # type: ignore[attr-defined]


def own_loop(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    plan: Plan = calibrate(n_units=100, expected_batch_size=10, delta=1e-3, epsilon=8, steps=10)
    optimizer = torch.optim.SGD(net.parameters(), lr=plan.max_grad_norm)
    loss = nn.CrossEntropyLoss(reduction="none")
    with training(net, optimizer, loss, rows=100, run="own", epsilon=8, delta=1e-3, batch=10, steps=10) as dp:
        for rows in dp:
            dp.step(images[rows], labels[rows])
    return dp.spent.epsilon
