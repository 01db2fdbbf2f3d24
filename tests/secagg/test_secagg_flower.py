"""The attacks that SiteProtocol refuses recover one client's update from Flower's own SecAgg+ modifier."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("flwr")
import flower_mod as flower

VICTIM, TOLERANCE = 1, 2 * 8.0 / 2**22 * 2


@pytest.fixture
def clients():
    rng = np.random.default_rng(0)
    return flower.FlowerClients(
        {client: rng.uniform(-1, 1, 500).astype(np.float32) for client in (1, 2, 3, 4, 5)}, 3
    )


def joined(replies, owner, number=0):
    return flower.combine_shares([reply[owner][number] for reply in replies[:3]])


def test_client_listed_active_and_lost_is_opened(clients):
    masked = clients.upload([1, 2, 3, 4, 5])
    keys = dict(clients.public_keys)
    replies = [clients.shares(other, [1, 2, 3, 4, 5], [VICTIM]) for other in (2, 3, 4)]
    own, private = joined(replies, VICTIM, 0), joined(replies, VICTIM, 1)
    like = masked[VICTIM]
    found = flower.opened(like, [flower.mask(own, like), flower.pair_masks(VICTIM, private, keys, like)])
    np.testing.assert_allclose(found, clients.updates[VICTIM], atol=TOLERANCE)


def test_split_view_opens_a_client(clients):
    """Three clients see the victim survive, two others and the rest see it lost: no one is asked twice."""
    clients.threshold = 2
    masked = clients.upload([1, 2, 3, 4, 5])
    keys = dict(clients.public_keys)
    alive = [clients.shares(other, [1, 2, 3, 4, 5], []) for other in (2, 3)]
    lost = [clients.shares(other, [2, 3, 4, 5], [VICTIM]) for other in (4, 5)]
    own = flower.combine_shares([reply[VICTIM][0] for reply in alive])
    private = flower.combine_shares([reply[VICTIM][0] for reply in lost])
    like = masked[VICTIM]
    found = flower.opened(like, [flower.mask(own, like), flower.pair_masks(VICTIM, private, keys, like)])
    np.testing.assert_allclose(found, clients.updates[VICTIM], atol=TOLERANCE)


def sum_of(clients, members):
    """One attempt of a server that keeps to Flower's workflow."""
    masked = clients.upload(members)
    replies = [clients.shares(member, members, []) for member in members]
    masks = [flower.mask(joined(replies, member), masked[member]) for member in members]
    first = masked[members[0]]
    total = [sum(masked[member][part].astype(np.int64) for member in members) for part in range(len(first))]
    return flower.opened(total, masks, len(members))


def test_second_attempt_opens_a_client(clients):
    found = sum_of(clients, [1, 2, 3, 4, 5]) - sum_of(clients, [2, 3, 4, 5])
    np.testing.assert_allclose(found, clients.updates[VICTIM], atol=10 * TOLERANCE)


def test_partition_opens_a_client(clients):
    """No quorum of the enrolled clients is asked: the victim is told that it is alone."""
    clients.threshold = 1
    found = sum_of(clients, [VICTIM])
    np.testing.assert_allclose(found, clients.updates[VICTIM], atol=TOLERANCE)
