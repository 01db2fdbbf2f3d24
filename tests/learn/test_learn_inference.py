"""Predictions: in the order of the manifest, of the image's own size, by the weights the run selected."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from meninx.core.errors import DataError
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.run import Run
from meninx.learn import checkpoint, inference
from meninx.learn.config import LearnConfig
from meninx.learn.fitting import fit

TINY = LearnConfig.of(
    model="resnet9-small", model_options={"width": 4}, batch_size=4, physical_batch=3, device="cpu", steps=3
)
Data = Callable[..., Manifest]
NewRun = Callable[..., Run]


def test_probabilities_are_in_the_order_of_the_manifest(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(), new_run()
    fit(TINY, data, run)
    model, config, info = inference.load_model(run)
    said = inference.predict(model, info, data, config)
    assert said.case_ids == tuple(case.case_id for case in data.cases)
    assert said.probabilities.shape == (12, 2)
    np.testing.assert_allclose(said.probabilities.sum(1), 1, rtol=1e-5)
    turned = replace(data, cases=data.cases[::-1])
    np.testing.assert_allclose(
        inference.predict(model, info, turned, config).logits, said.logits[::-1], rtol=1e-4, atol=1e-5
    )
    assert not model.training


def test_no_case_no_prediction(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(), new_run()
    fit(TINY, data, run)
    model, config, info = inference.load_model(run)
    assert inference.predict(model, info, data.split("test"), config).probabilities.shape == (0, 2)


def test_averaged_weights_predict_and_training_does_not_notice(dataset: Data, new_run: NewRun) -> None:
    data, plain, with_average = dataset(), new_run("plain"), new_run("average")
    config = TINY.replace(select="last", deterministic=True)
    fit(config, data, plain)
    fit(config.replace(ema=0.9), data, with_average)
    first, second = (checkpoint.load(run, "last")["players"]["model"] for run in (plain, with_average))
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    model, _, _ = inference.load_model(with_average)
    shadow = second["average"]["shadow"]
    assert all(torch.equal(model.state_dict()[name], shadow[name]) for name in shadow)
    assert any(not torch.equal(shadow[name], second["weights"][name]) for name in shadow)


def test_the_best_weights_are_those_of_the_best_evaluation(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    result = fit(TINY.replace(steps=12, eval_every=1, lr=0.05, monitor="loss"), dataset(), run)
    best = checkpoint.load(run, "best")
    assert best["step"] == result.best_step < 12
    assert result.weights == "best"
    assert result.checkpoint == checkpoint.path_of(run, "best")
    model, _, _ = inference.load_model(run)
    weights = best["players"]["model"]["weights"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert inference.load_model(run, weights="last")[1] == inference.load_model(run)[1]


@pytest.mark.parametrize("size", [(19, 21), (13, 12, 14)])
def test_label_maps_have_the_size_of_their_image_with_a_sliding_window(
    size: tuple[int, ...], dataset: Data, new_run: NewRun
) -> None:
    data, run = dataset(TaskKind.SEGMENTATION, size=size, cases=2, valid=1), new_run()
    config = TINY.replace(
        model="unet-small", model_options={"base": 2, "depth": 2}, patch_size=(8,) * len(size), steps=2
    )
    result = fit(config, data, run)
    assert result.metric_name == "dice"
    model, loaded, info = inference.load_model(run)
    maps = list(inference.predict_maps(model, info, data, loaded))
    assert [case.case_id for case, _ in maps] == [case.case_id for case in data.cases]
    assert all(
        label_map.shape == size and label_map.dtype == np.uint8 and label_map.max() <= 1
        for _, label_map in maps
    )


def test_padded_images_get_maps_of_their_own_size_and_need_no_mask(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(TaskKind.SEGMENTATION), new_run()
    config = TINY.replace(model="unet-small", model_options={"base": 2, "depth": 2}, image_size=(24, 18))
    fit(config, data, run)
    model, loaded, info = inference.load_model(run)
    bare = replace(data, cases=tuple(replace(case, mask="") for case in data.cases))
    assert all(
        label_map.shape == (16, 16) for _, label_map in inference.predict_maps(model, info, bare, loaded)
    )


def test_the_wrong_kind_of_prediction_is_refused(dataset: Data, new_run: NewRun) -> None:
    data, run = dataset(), new_run()
    fit(TINY, data, run)
    model, config, info = inference.load_model(run)
    with pytest.raises(DataError, match="segmentation"):
        next(inference.predict_maps(model, info, data, config))
    flat = replace(data, info=replace(data.info, spatial_dims=3, size=(16, 16, 16)))
    with pytest.raises(DataError, match="2-D images"):
        inference.predict(model, info, flat, config)


def test_a_damaged_or_missing_checkpoint_is_named(dataset: Data, new_run: NewRun) -> None:
    run = new_run()
    with pytest.raises(DataError, match=r"last\.pt"):
        inference.load_model(run)
    fit(TINY.replace(select="last"), dataset(), run)
    path = checkpoint.path_of(run, "last")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        inference.load_model(run)


def test_weights_of_a_bundle_that_expand_are_refused_before_they_are_read(tmp_path, monkeypatch):
    """The archive of torch may hold packed members: a small file would become a large state dict."""
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"weight": torch.zeros(1000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    assert set(inference._weights(plain)) == {"weight"}
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match="larger than the file"):
        inference._weights(packed)
