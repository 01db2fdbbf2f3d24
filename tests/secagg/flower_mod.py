"""Flower's own SecAgg+ client modifier, driven by a server of ours that may cheat; no process, no network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.client.mod import secaggplus_mod
    from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_extract
    from flwr.common.secure_aggregation.quantization import dequantize
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.compat.common import recorddict_compat
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
    )
    from flwr.supercore.task_identity import TaskIdentity

CLIP, LEVELS, MODULUS, MAX_WEIGHT, WEIGHT = 8.0, 2**22, 2**32, 1000.0, 1000


class FlowerClients:
    """Clients that keep to the modifier; ``ask`` is what a server can do."""

    def __init__(self, updates: dict[int, np.ndarray[Any, Any]], threshold: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
        self.updates, self.threshold = updates, threshold
        self.contexts = {
            client: Context(run_id=1, node_id=client, node_config={}, state=RecordDict(), run_config={})
            for client in updates
        }
        self.public_keys: dict[int, list[bytes]] = {}

    def ask(self, client: int, configs: dict[str, Any]) -> Any:
        content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(configs)})
        message = Message(content, dst_node_id=client, message_type="train")

        def fit(request: Message, _: Context) -> Message:
            parameters = ndarrays_to_parameters([self.updates[client]])
            result = FitRes(Status(Code.OK, ""), parameters, WEIGHT, {})
            return Message(recorddict_compat.fitres_to_recorddict(result, True), reply_to=request)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reply = secaggplus_mod(message, self.contexts[client], fit)
        return reply.content.config_records[RECORD_KEY_CONFIGS]

    def upload(self, clients: Sequence[int]) -> dict[int, list[np.ndarray[Any, Any]]]:
        """Setup, shares and masked vectors of an attempt."""
        size = len(clients)
        setup = {
            Key.STAGE: Stage.SETUP, Key.SAMPLE_NUMBER: size, Key.SHARE_NUMBER: size,
            Key.THRESHOLD: self.threshold, Key.CLIPPING_RANGE: CLIP, Key.TARGET_RANGE: LEVELS,
            Key.MOD_RANGE: MODULUS, Key.MAX_WEIGHT: MAX_WEIGHT,
        }  # fmt: skip
        for client in clients:
            found = self.ask(client, setup)
            self.public_keys[client] = [found[Key.PUBLIC_KEY_1], found[Key.PUBLIC_KEY_2]]
        names = {str(client): self.public_keys[client] for client in clients}
        parcels: dict[int, list[tuple[int, bytes]]] = {client: [] for client in clients}
        for client in clients:
            found = self.ask(client, {**names, Key.STAGE: Stage.SHARE_KEYS})
            for recipient, sealed in zip(
                found[Key.DESTINATION_LIST], found[Key.CIPHERTEXT_LIST], strict=True
            ):
                parcels[recipient].append((client, sealed))
        masked = {}
        for client in clients:
            request = {
                Key.STAGE: Stage.COLLECT_MASKED_VECTORS,
                Key.CIPHERTEXT_LIST: [sealed for _, sealed in parcels[client]],
                Key.SOURCE_LIST: [source for source, _ in parcels[client]],
            }
            found = self.ask(client, request)
            masked[client] = [bytes_to_ndarray(part) for part in found[Key.MASKED_PARAMETERS]]
        return masked

    def shares(self, client: int, active: list[int], dead: list[int]) -> dict[int, list[bytes]]:
        """What a client opens when it is shown these lists: shares by owner, in the order of the lists."""
        request = {Key.STAGE: Stage.UNMASK, Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: dead}
        found = self.ask(client, request)
        opened: dict[int, list[bytes]] = {}
        for owner, share in zip(found[Key.NODE_ID_LIST], found[Key.SHARE_LIST], strict=True):
            opened.setdefault(owner, []).append(share)
        return opened


def mask(seed: bytes, like: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return pseudo_rand_gen(seed, MODULUS, [part.shape for part in like])


def pair_masks(client: int, private_key: bytes, keys: dict[int, list[bytes]], like: Any) -> Any:
    """What a client added for its pairs, from its private key."""
    total = [np.zeros(part.shape, np.int64) for part in like]
    for other, public in keys.items():
        if other != client:
            shared = generate_shared_key(bytes_to_private_key(private_key), bytes_to_public_key(public[0]))
            sign = 1 if client > other else -1
            total = [one + sign * two for one, two in zip(total, mask(shared, like), strict=True)]
    return total


def opened(
    masked: list[np.ndarray[Any, Any]], masks: Sequence[list[np.ndarray[Any, Any]]], clients: int = 1
) -> np.ndarray[Any, Any]:
    """The sum of updates under the masks, as Flower's server computes it; all weights are full."""
    parts = [part.astype(np.int64) for part in masked]
    for one in masks:
        parts = [part - other for part, other in zip(parts, one, strict=True)]
    _, vectors = factor_extract([part % MODULUS for part in parts])
    return np.asarray(dequantize(vectors, CLIP, LEVELS)[0]) - (clients - 1) * CLIP


__all__ = ["FlowerClients", "Key", "Stage", "combine_shares", "mask", "opened", "pair_masks"]
