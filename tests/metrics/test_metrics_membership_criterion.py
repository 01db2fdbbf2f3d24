"""An overfitted network: reference models find more members than the loss does (acceptance criterion 19)."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from meninx.metrics.attack_success import measure_attack
from meninx.metrics.membership_attacks import Signals, loss_scores, rmia_scores

PATIENTS, FEATURES = 2400, 40


def fitted(inputs, labels, rows, seed):
    """Log-likelihoods of all patients by a small network that was trained on some rows until it overfits."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 48), torch.nn.ReLU(), torch.nn.Linear(48, 1), torch.nn.Flatten(0)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(network(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return -functional.binary_cross_entropy_with_logits(network(inputs), labels, reduction="none").numpy()


@pytest.mark.slow
def test_rmia_with_16_references_finds_more_members_than_the_loss():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(PATIENTS, FEATURES))
    chance = 1 / (1 + np.exp(-1.5 * values[:, :4].sum(axis=1)))
    inputs = torch.tensor(values, dtype=torch.float32)
    labels = torch.tensor(rng.random(PATIENTS) < chance, dtype=torch.float32)
    member = np.arange(PATIENTS) < PATIENTS // 2
    halves = [rng.permutation(PATIENTS) < PATIENTS // 2 for _ in range(8)]
    included = np.array([bits for half in halves for bits in (half, ~half)])
    signals = Signals(
        target=fitted(inputs, labels, member, 0),
        references=np.array(
            [fitted(inputs, labels, rows, 1 + number) for number, rows in enumerate(included)]
        ),
        included=included,
    )
    found = {
        name: measure_attack(name, scores[member], scores[~member], fprs=(0.01,))
        for name, scores in (("loss", loss_scores(signals)), ("rmia", rmia_scores(signals)))
    }
    rates = {name: attack.points[0] for name, attack in found.items()}
    assert rates["rmia"].low >= 1.3 * rates["loss"].high  # of 95 % intervals, more than the criterion asks
    assert found["rmia"].auc > found["loss"].auc
