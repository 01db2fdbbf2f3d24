"""Flower as the engine of a study: the only module of meninx that imports it.

The coordinator runs Flower's SuperLink (node registry, node authentication, store of messages and objects) in
its own process and serves some of its fleet routes to the sites. A site runs a node. What a study does not
need does not exist:

- **No code travels.** A site executes what is installed and approved at the site. Instead of an application
  package the Flower run of a study carries the digest of the study file, which states the hash of the code. A
  site refuses a run with another digest, and the route that would give out a package is not served.
- **No control and no runtime interface.** Flower's open-source part leaves both without access control. The
  coordinator holds the task of the server application itself and calls the handlers in memory, so these
  interfaces have no listener, not even on loopback.
- **No state on disk.** Uploads stay in memory until they are collected. What has to survive a kill is in the
  state of the study (:mod:`.study_state`); both ends send again what was lost with the coordinator.
- **No process per message.** A node has neither Flower's fixed pause of three seconds between messages nor a
  new Python process for each of them.

Flower 1.42 has no stable interface for this. ``tests/federated/test_federated_flower_contract.py`` names
every class and attribute that this module uses and fails with a sentence when one changes.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flwr.supercore.telemetry as flower_telemetry
import httpx
from flwr.app.message import (
    Array,
    ArrayRecord,
    Message,
    RecordDict,
    make_message,
    remove_content_from_message,
)
from flwr.app.metadata import Metadata
from flwr.common.constant import (
    HEARTBEAT_MIN_INTERVAL,
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    UnexpectedObjectContentError,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.runtime import runtime_handlers
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from meninx.core.errors import DataError, PrivacyRefusal, StorageError, expected, problem
from meninx.federated.line import NotAdmitted, Unreachable, line_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from fastapi import FastAPI

FLEET_ROUTES = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)  # what a node needs; the routes that register a node or give out a package are not among them
_PACKAGE = ("meninx/study", "1")  # name and version of the application that a Flower run has to have
_ARRAYS, _DATA = "arrays", "data"  # where the bytes lie in a Flower message
_MESSAGE_TYPE = "train.meninx"
_OBJECTS = 512  # of one message, at most; Flower cuts the bytes into objects of 5 MB
_HEARTBEAT = 10.0  # seconds between two signs that the run is alive
LOST_SECONDS = float(HEARTBEAT_MIN_INTERVAL * HEARTBEAT_PATIENCE)
"""Seconds after its last sign after which Flower reports a node as lost."""
_ACTIVATIONS = 3  # tries of a node
_ACTIVATION_PAUSE = 0.5  # seconds between them
_RETRY, _RETRY_CAP = 0.05, 1.0  # seconds before an object that is still arriving is asked for again

flower_telemetry.FLWR_TELEMETRY_ENABLED = "0"  # a hospital's process tells nobody that it runs
for _name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ[_name] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
logging.getLogger("flwr").setLevel(
    logging.CRITICAL
)  # it logs to the terminal, and errors of meninx say the same


@dataclass(frozen=True)
class Arrival:
    """A message that arrived through Flower.

    Attributes:
        label: the label that its sender gave it.
        data: its bytes; empty at the coordinator if the message or the node was lost.
        origin: Flower's message without its content, which a reply has to name.
    """

    label: str
    data: bytes
    origin: Message


class StudyDiffers(PrivacyRefusal):
    """The coordinator runs another study, or another revision of it, than this site approved.

    Attributes:
        arrival: the message, which was not fetched; a reply to it tells the coordinator.
    """

    def __init__(self, text: str, arrival: Arrival) -> None:
        super().__init__(text)
        self.arrival = arrival


class FlowerLink:
    """The coordinator's end: Flower's SuperLink in this process, with one run for this process's life."""

    def __init__(self, digest: str) -> None:
        """Start a run.

        Args:
            digest: of the study file, 64 hexadecimal digits; every site compares it with what it approved.
        """
        self.app: FastAPI = create_app(_configuration(), SuperLinkLifespan)
        self._state: Any = self.app.state.linkstate_factory.state()
        self._nodes: dict[str, int] = {}
        self._sent: dict[str, str] = {}  # Flower's identifier of an open message -> its label
        self._run_id = self._state.create_run(
            *_PACKAGE, digest, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        run = self._state.get_run_info(run_ids=[self._run_id])[0]
        self._task_id: int = run.primary_task_id
        if not self._state.claim_task(self._task_id) or not self._state.activate_task(self._task_id):
            raise StorageError(problem("Flower did not start a run", where="coordinator"))
        self._task = self._state.get_tasks(task_ids=[self._task_id])[0]
        self._incoming: list[_Incoming] = []
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="flower-run", daemon=True).start()

    def enrol(self, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> None:
        """Register new nodes, and revoke those that are missing, at once."""
        wanted = {public_key_to_bytes(key): name for name, key in keys.items()}
        registered = {
            node.public_key: node.node_id
            for node in self._state.get_node_info()
            if node.status != NodeStatus.UNREGISTERED
        }
        for key, node_id in registered.items():
            if key not in wanted:
                self._state.delete_node(NOOP_FLWR_AID, node_id)
        for key, name in wanted.items():
            self._nodes[name] = registered.get(key) or self._state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_MIN_INTERVAL, name=name
            )
        for name in [name for name in self._nodes if name not in keys]:
            del self._nodes[name]

    def connected(self) -> dict[str, str]:
        """Return the sites whose node is online, each with the time of its last activation (ISO 8601)."""
        names = {node_id: name for name, node_id in self._nodes.items()}
        nodes = self._state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {names[node.node_id]: node.last_activated_at for node in nodes if node.node_id in names}

    def number(self, site: str) -> int:
        """Return the number of a site's node; 0 if it has none, which no node has."""
        return self._nodes.get(site, 0)

    def send(self, site: str, label: str, data: bytes, *, within: float) -> bool:
        """Store a message for a site; return False if its node was never connected."""
        metadata = Metadata(
            run_id=self._run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=self._nodes[site],
            reply_to_message_id="",
            group_id=label,
            created_at=time.time(),
            ttl=within,
            message_type=_MESSAGE_TYPE,
        )
        message = make_message(metadata, _content(data))
        request, objects = _stored(message)
        response = runtime_handlers.push_messages(PushAppMessagesRequest(**request), self._state, self._task)
        identifier = response.message_ids[0]
        if not identifier:
            return False
        for wanted in response.objects_to_push:
            content = objects[wanted].deflate()
            self._state.store_object(self._run_id, response.session_id, wanted, content)
        self._sent[identifier] = label
        return True

    def arrivals(self) -> list[Arrival]:
        """Return new replies, and a report without data for each message that was lost."""
        if self._sent:
            request = PullAppMessagesRequest(message_ids=set(self._sent))
            response = runtime_handlers.pull_messages(request, self._state, self._task)
            for part, tree in zip(response.messages_list, response.message_object_trees, strict=True):
                label = self._sent.pop(part.metadata.reply_to_message_id, None)
                if label is not None:
                    identifiers = [one.object_id for one in iterate_object_tree(tree)]
                    self._incoming.append(
                        _Incoming(label, message_from_proto(part), tree.object_id, identifiers)
                    )
        found = [arrival for one in self._incoming if (arrival := self._arrived(one)) is not None]
        labels = {arrival.label for arrival in found}
        self._incoming = [one for one in self._incoming if one.label not in labels]
        return found

    def _arrived(self, incoming: _Incoming) -> Arrival | None:
        """Return a reply that is complete or lost, None while its objects are arriving."""
        while incoming.missing:
            content = self._state.get_object(self._run_id, incoming.missing[-1])
            if content is None:  # the site stopped in the middle, and Flower removed the rest
                return Arrival(incoming.label, b"", incoming.message)
            if not content:
                return None
            incoming.contents[incoming.missing.pop()] = content
        self._state.object_store.delete(incoming.root)
        return Arrival(incoming.label, _data(_inflated(incoming.root, incoming.contents)), incoming.message)

    def forget(self, labels: Collection[str]) -> None:
        """Stop waiting for replies to messages with these labels."""
        for identifier in [identifier for identifier, label in self._sent.items() if label in labels]:
            del self._sent[identifier]
            self._state.delete_messages({identifier})
        self._incoming = [one for one in self._incoming if one.label not in labels]

    def close(self) -> None:
        """End the run, with its messages."""
        self._closed.set()
        self._state.stop_run(self._run_id)

    def _beat(self) -> None:
        while not self._closed.wait(_HEARTBEAT):
            self._state.acknowledge_task_heartbeat(self._task_id)


@dataclass
class _Incoming:
    """A reply whose objects are arriving."""

    label: str
    message: Message
    root: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


class FlowerNode:
    """The site's end: a node of Flower that fetches one message at a time."""

    def __init__(
        self,
        address: str,
        root_certificate: bytes,
        node_key: ec.EllipticCurvePrivateKey,
        *,
        digest: str,
        number: Callable[[], int],
    ) -> None:
        """Prepare; nothing is sent before :meth:`connect`.

        Args:
            address: ``host:port`` of the coordinator.
            root_certificate: the study's certificate authority, PEM.
            node_key: the site's enrolled key on P-384.
            digest: of the study file that the site approved; a run with another one is refused.
            number: asks the coordinator for the number of this node, so that a killed site may come back
                before its previous connection has timed out.
        """
        self._client = FleetHttpClient.from_server_address(
            address, False, root_certificate, [NodeAuthHttpInterceptor(node_key, node_key.public_key())]
        )
        self._key, self._digest, self._number = public_key_to_bytes(node_key.public_key()), digest, number
        self._node = Node()  # number 0 until it is active
        self._approved: set[int] = set()

    def connect(self) -> None:
        """Activate the node, after a kill without the wait for its previous connection to time out.

        Raises:
            NotAdmitted: the key is not registered, or the coordinator's certificate is not trusted.
            Unreachable: no connection.
        """
        number = self._number()
        for left in reversed(range(_ACTIVATIONS)):
            try:
                self._node = Node(node_id=self._activated(number).node_id)
                return
            except Unreachable as error:
                if not _is_refusal(error):
                    raise
                if not left:
                    what = (
                        "the coordinator does not admit this site: its node key is not enrolled, or revoked"
                    )
                    raise NotAdmitted(problem(what, where="coordinator", fix="enrol again")) from error
            time.sleep(_ACTIVATION_PAUSE)  # an earlier call of a line that was cut may have arrived late

    def beat(self) -> None:
        """Tell the coordinator that the node is alive."""
        with _line_errors():
            self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
            )

    def receive(self) -> Arrival | None:
        """Return the next message, or None if there is none.

        Raises:
            StudyDiffers: the run is of another study than the approved one; the message was not fetched.
            Unreachable: the line broke. The message may be lost; after the next :meth:`connect` the
                coordinator sends it again.
        """
        with _line_errors():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
            if not response.messages_list:
                return None
            message = message_from_proto(response.messages_list[0])
            run_id = message.metadata.run_id
            self._approve(run_id, message)
            tree = response.message_object_trees[0]
            identifiers = [part.object_id for part in iterate_object_tree(tree)]
            if len(identifiers) > _OBJECTS:
                raise DataError(
                    expected(f"at most {_OBJECTS} objects", got=len(identifiers), where="message of Flower")
                )
            contents = pull_objects(
                identifiers,
                make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id),
                initial_backoff=_RETRY,
                backoff_cap=_RETRY_CAP,
            )
            confirm = make_confirm_message_received_fn_protobuf(
                self._client.ConfirmMessageReceived, self._node, run_id
            )
            confirm(tree.object_id)
        return Arrival(message.metadata.group_id, _data(_inflated(tree.object_id, contents)), message)

    def reply(self, arrival: Arrival, data: bytes) -> None:
        """Send the reply to a message.

        Raises:
            Unreachable: the line broke, or the coordinator no longer waits for it.
        """
        message = Message(_content(data), reply_to=arrival.origin)
        request, objects = _stored(message)
        with _line_errors():
            response = self._client.PushMessages(
                PushMessagesRequest(node=self._node, clientapp_runtime_list=[0.0], **request)
            )
            push_objects(
                objects,
                make_push_object_fn_protobuf(
                    self._client.PushObject, self._node, message.metadata.run_id, response.session_id
                ),
                object_ids_to_push=set(response.objects_to_push),
            )

    def close(self) -> None:
        """Deactivate the node if the line still works, and close the connection."""
        if self._node.node_id:
            with suppress(httpx.HTTPError):
                self._deactivate(self._node.node_id)
        self._client.close()

    def _activated(self, number: int) -> ActivateNodeResponse:
        with _line_errors():
            self._deactivate(number)
            return self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._key, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
            )

    def _deactivate(self, node_id: int) -> None:
        with suppress(httpx.HTTPStatusError):  # it is offline already, or another key's
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))

    def _approve(self, run_id: int, message: Message) -> None:
        if run_id in self._approved:
            return
        run = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id)).run
        if not secrets.compare_digest(run.fab_hash.encode(), self._digest.encode()):
            theirs, ours = run.fab_hash[:12], self._digest[:12]
            raise StudyDiffers(
                problem(
                    f"the coordinator runs revision {theirs!r} of the study, this site approved {ours!r}",
                    where="study",
                    fix="review the coordinator's current study file and approve it",
                ),
                Arrival(message.metadata.group_id, b"", message),
            )
        self._approved.add(run_id)


def _configuration() -> SuperLinkLifespanConfig:
    """Return a SuperLink without simulation, gRPC, plug-ins and processes, whose nodes authenticate."""
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=False,
        certificates=None,
        superexec_auth_secret=secrets.token_bytes(32),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",
        runtime_dependency_install=False,
    )


def _content(data: bytes) -> RecordDict:
    array = Array(dtype="uint8", shape=(len(data),), stype="meninx", data=data)
    return RecordDict({_ARRAYS: ArrayRecord({_DATA: array})})


def _stored(message: Message) -> tuple[dict[str, Any], dict[str, InflatableObject]]:
    """Return the fields of a request that announces a message, and its objects by identifier."""
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        fields = {
            "messages_list": [message_to_proto(remove_content_from_message(message))],
            "message_object_trees": [get_object_tree(message)],
        }
        return fields, get_all_nested_objects(message)


def _inflated(identifier: str, contents: dict[str, bytes]) -> Message:
    """Return a message from its objects, which come from the network."""
    try:
        whole = inflate_object_from_contents(identifier, contents)
    except (KeyError, ValueError, TypeError, UnexpectedObjectContentError) as error:
        raise DataError(problem("an object of Flower is damaged", where="message of Flower")) from error
    if not isinstance(whole, Message):
        raise DataError(problem("an object is not a message", where="message of Flower"))
    return whole


def _data(message: Message) -> bytes:
    """Return the bytes in a message, none if it reports an error or holds something else."""
    if not message.has_content():
        return b""
    arrays: Mapping[str, Array] = message.content.array_records.get(_ARRAYS, {})
    return bytes(arrays[_DATA].data) if _DATA in arrays else b""


def _is_refusal(error: Unreachable) -> bool:
    """Return whether the coordinator itself said no."""
    cause = error.__cause__
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code < 500


@contextmanager
def _line_errors() -> Iterator[None]:
    """Turn failures of a call into errors of meninx."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 403:  # the run ended
            raise Unreachable(problem("the coordinator ended the run", where="coordinator")) from error
        raise line_error(error) from error
    except httpx.HTTPError as error:
        raise line_error(error) from error
    except (ObjectPullError, ObjectPushError) as error:
        raise Unreachable(problem("a part of a message was lost", where="network")) from error
