"""A disparity planted in the generated cohort: it is in the images, the report finds it and invents none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meninx.core.errors import ConfigError
from meninx.metrics.evaluation import evaluate_classification
from meninx.synthetic import PhantomConfig, radiographs, subjects
from meninx.synthetic.dataset import render


def test_a_planted_disparity_makes_the_findings_of_women_alone_fainter():
    everyone = subjects(60, 4, prevalence=1.0)
    found = {}
    for one in everyone:
        clear = render(replace(one, images=((False,) * 3,)), 0, 32, 4).array.astype(float)
        shown = [render(one, 0, 32, 4, disparity=share).array.astype(float) for share in (0.0, 0.5)]
        found.setdefault(one.sex, []).append([np.abs(image - clear).mean() for image in shown])
        if one.sex == "M":
            assert (shown[0] == shown[1]).all()
        assert (shown[0] == render(one, 0, 32, 4).array).all()
    plain, fainter = np.mean(found["F"], axis=0)
    assert fainter < 0.9 * plain


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_disparity_is_a_share(share):
    with pytest.raises(ConfigError, match="disparity"):
        PhantomConfig(disparity=share)
    with pytest.raises(ConfigError, match="disparity"):
        radiographs(2, disparity=share)


@pytest.mark.slow
def test_the_report_finds_a_planted_disparity_and_invents_none():
    """A linear model of real pixels: the AUROC of women is lower with the disparity and not without."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    for share, found in ((0.0, False), (0.8, True)):
        data = radiographs(1500, size=32, seed=3, prevalence=0.5, contrast=3.0, disparity=share)
        pixels = data.images.reshape(len(data.images), -1) / 4095
        patient = np.unique(data.patient_ids, return_inverse=True)[1]
        train = patient < patient.max() // 2
        parts = PCA(60, random_state=0).fit(pixels[train]).transform(pixels)
        truth = np.stack([data.labels[name] for name in data.labels], axis=1)
        models = [LogisticRegression(max_iter=500).fit(parts[train], labels[train]) for labels in truth.T]
        scores = np.stack([model.predict_proba(parts[~train])[:, 1] for model in models], axis=1)
        index = np.unique(patient[~train], return_inverse=True)[1]
        sexes = np.array(data.sex)[~train].tolist()
        rows = evaluate_classification(
            truth[~train],
            scores,
            index,
            list(data.labels),
            {"sex": sexes},
            task="multilabel",
            seed=0,
            draws=300,
        )
        gap = next(item for item in rows.gaps if item.name == "auroc_gap" and not item.label)
        assert (gap.p_holm < 0.05) == found, gap
        assert not found or gap.value < -0.02
