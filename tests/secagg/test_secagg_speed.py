"""A site's processor time for masks beside Flower's own modifier, in one process; bytes per parameter."""

from __future__ import annotations

import time

import numpy as np
import pytest
from secagg_sites import Consortium

from meninx.secagg import Quantiser
from meninx.secagg.masks import Mask, apply_masks

pytest.importorskip("flwr")
import flower_mod as flower

MILLION = 1_000_000


def fastest(action, rounds=3):
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        spent.append(time.process_time() - start)
    return min(spent)


def flower_seconds(parameters, update):
    """Masking of one of five clients, and what is added by asking for it."""
    clients = flower.FlowerClients(dict.fromkeys(range(1, 6), update), 3)
    spent = []
    ask = clients.ask

    def timed(client, configs):
        start = time.process_time()
        reply = ask(client, configs)
        if client == 1 and configs[flower.Key.STAGE] == flower.Stage.COLLECT_MASKED_VECTORS:
            spent.append(time.process_time() - start)
        return reply

    clients.ask = timed
    for _ in range(3 if parameters == MILLION else 1):
        clients.upload([1, 2, 3, 4, 5])
    return min(spent)


@pytest.mark.slow
@pytest.mark.parametrize(("parameters", "ratio"), [(MILLION, 8), (10 * MILLION, 12)])
def test_quantising_and_masking_takes_a_fraction_of_flowers(parameters, ratio):
    update = (np.random.default_rng(0).standard_normal(parameters) * 0.01).astype(np.float32)
    quantiser = Quantiser(clip=0.05, sites=5, max_weight=1000)
    masks = [Mask(bytes([number]) * 32, add=number % 2 == 0) for number in range(5)]

    def ours():
        apply_masks(quantiser.encode(update, 100), masks)

    ours()
    assert flower_seconds(parameters, update) / fastest(ours) >= ratio


def test_upload_takes_four_bytes_per_parameter():
    """Statement, shares and digests of ten sites are below 0.1 bytes for each of a million parameters."""
    consortium = Consortium(10)
    upload = consortium.sites["site00"].upload(0, 0, consortium.names, np.zeros(MILLION, dtype="<u4"))
    assert len(upload) / MILLION <= 4.1
