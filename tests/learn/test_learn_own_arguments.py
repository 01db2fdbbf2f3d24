"""What a caller gives to `privacy.training`: every wrong type or name is refused by the argument's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.core.errors import ConfigError, MeninxError, UsageError
from meninx.learn import own_arguments
from meninx.privacy import training

ROWS = 12
PATIENTS = [f"p{row // 2}" for row in range(ROWS)]
INPUTS, TARGETS = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % 2


def opened(folder: Path, **changes: Any) -> Any:
    """Return the context; ``model``, ``optimizer`` and ``loss`` may be among the changes."""
    model = changes.pop("model", nn.Linear(4, 2))
    optimizer = changes.pop("optimizer", None)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = changes.pop("loss", nn.CrossEntropyLoss(reduction="none"))
    terms = {"units": PATIENTS, "noise_multiplier": 1.0, "delta": 1e-3, "batch": 3, "steps": 2, "run": folder}
    return training(model, optimizer, loss, **{**terms, **changes})


NET = nn.Linear(4, 2)
SCATTERED = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"run": 7}, r"the path of a folder, got int .*run"),
        ({"run": ""}, r"an empty text .*run"),
        ({"run": b"folder"}, r"got bytes .*run"),
        ({"units": 60}, r"one patient per row, got int .*units.*rows=N"),
        ({"units": "p1p2p3"}, r"got str .*units"),
        ({"units": {"p1": 0}}, r"got dict .*units"),
        ({"units": {"p1", "p2"}}, r"got set .*units"),
        ({"units": [["p1"], ["p2"]]}, r"for row 0, got list .*units"),
        ({"units": np.zeros((2, 2))}, r"got ndarray .*units"),
        ({"units": None, "rows": "many"}, r"rows"),
        ({"units": None, "rows": 0}, r"rows > 0"),
        ({"max_gradnorm": 1.0}, r"got 'max_gradnorm'.*did you mean 'max_grad_norm'"),
        ({"epsilom": 1.0}, r"did you mean 'epsilon'"),
        ({"target_epsilon": 1.0}, r"did you mean 'epsilon'"),
        ({"clip": "flat"}, r"did you mean 'clipping'"),
        ({"colour": "red"}, r"beside the arguments there are clipping, "),
        ({"n_units": 5}, r"an argument of privacy\.training, got 'n_units'"),
        ({"views": 2}, r"got 'views'"),
        ({"batch": "three"}, r"a value of type float, got 'three' .*batch"),
        ({"batch": 0}, r"batch > 0"),
        ({"delta": "1e-5"}, r"delta"),
        ({"steps": 2.5}, r"a value of type int, got 2\.5 .*steps"),
        ({"max_grad_norm": -1}, r"max_grad_norm > 0"),
        ({"physical_batch": 0}, r"physical_batch > 0"),
        ({"save_every": 0}, r"save_every > 0"),
        ({"resume": "yes"}, r"resume"),
        ({"deterministic_seed": "one"}, r"deterministic_seed"),
        ({"clipping": "flatt"}, r"did you mean 'flat'"),
        ({"noise_bands": 0}, r"noise_bands > 0"),
        (
            {"model": nn.Linear, "optimizer": torch.optim.SGD(NET.parameters(), lr=1)},
            r"the class Linear .*model",
        ),
        ({"model": "resnet", "optimizer": torch.optim.SGD(NET.parameters(), lr=1)}, r"got str .*model"),
        ({"model": NET, "optimizer": torch.optim.SGD}, r"the class SGD .*optimizer.*SGD\(\.\.\.\)"),
        ({"model": NET, "optimizer": torch.optim.LBFGS(NET.parameters())}, r"LBFGS evaluates .*optimizer"),
        ({"loss": nn.CrossEntropyLoss}, r"the class CrossEntropyLoss .*loss"),
        ({"loss": "mean"}, r"got str .*loss"),
        ({"model": SCATTERED}, r"on one device, got cpu and meta .*model\.to\(device\)"),
        ({"model": nn.Linear(4, 2, device="meta")}, r"on one device, got meta"),
        ({"model": nn.Linear(4, 2).requires_grad_(False)}, r"no parameter to train"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name_and_leaves_no_trace(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says), opened(tmp_path / "run", **change):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="run is a file"), opened(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [([0.0] * 4, TARGETS), (INPUTS.numpy(), TARGETS), (INPUTS, None), (INPUTS.sum(), TARGETS)],
)
def test_rows_that_are_no_tensors_are_refused(tmp_path, inputs, targets):
    with opened(tmp_path / "run", batch=6) as dp:
        for rows in dp:
            with pytest.raises(UsageError, match=r"a tensor with one row .*dp\.step: (inputs|targets)"):
                dp.step(inputs, targets)
            dp.step(INPUTS[rows], TARGETS[rows])


def test_a_loss_that_gives_no_tensor_is_refused(tmp_path):
    with opened(tmp_path / "run", batch=6, loss=lambda outputs, targets: 1.0) as dp:
        rows = next(iter(dp))
        with pytest.raises(ConfigError, match="got float"):
            dp.step(INPUTS[rows], TARGETS[rows])


@pytest.mark.parametrize(
    "units",
    [
        np.array(PATIENTS),
        torch.arange(ROWS) // 2,
        tuple(PATIENTS),
        np.arange(ROWS) // 2,
        list(np.arange(ROWS) // 2),
    ],
)
def test_units_may_be_any_ordered_column(units):
    members, names, _ = own_arguments.grouped(units, None)
    assert members == tuple((row, row + 1) for row in range(0, ROWS, 2))
    assert names in (tuple(f"p{unit}" for unit in range(6)), tuple(map(str, range(6))))


def test_numbers_of_numpy_are_numbers(tmp_path):
    with opened(tmp_path / "run", batch=np.float32(3), steps=np.int64(2), delta=np.float64(1e-3)) as dp:
        assert (dp.plan.steps, dp.plan.expected_batch_size) == (2, 3.0)


@given(
    st.dictionaries(
        st.sampled_from([*own_arguments._TYPES, "max_gradnorm", ""]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
        min_size=1,
    )
)
@settings(max_examples=80, deadline=None)
def test_no_value_of_any_type_ends_in_an_error_of_python(values):
    try:
        found = own_arguments.checked(values, ["units"])
    except MeninxError:
        return
    assert found.keys() == values.keys()
