"""What strangers reach on the public listener: nothing."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federated_network import Authority, EchoSite, Network, coordinator

from meninx.core.errors import StorageError, UsageError
from meninx.federated import mailbox
from meninx.federated.connections import CoordinatorServer, SiteClient
from meninx.federated.envelope import COORDINATOR, EnvelopeRefused, Signer
from meninx.federated.flower import FLEET_ROUTES
from meninx.federated.line import NotAdmitted, open_line
from meninx.federated.listener import AllowList
from meninx.federated.mailbox import MailboxClient
from meninx.serving.http_listener import Listener


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def server(network: Network) -> Iterator[CoordinatorServer]:
    with coordinator(network.coordinator_setup()) as server:
        yield server


@pytest.fixture
def stranger(network: Network, server: CoordinatorServer) -> Iterator[httpx.Client]:
    with open_line(network.authority.root) as line:
        line.base_url = f"https://127.0.0.1:{server.port}"
        yield line


CLOSED = [
    "/", "/docs", "/openapi.json", "/health", "/v1/control/start-run", "/v1/control/list-runs",
    "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/runtime/pull-task-input",
    "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab",
    "/v1/fleet/../control/start-run", "/v1/fleet/pull-messages/", "//v1/fleet/pull-messages",
    "/v1/fleet/%2e%2e/control/start-run", "/v1/meninx/", "/v1/meninx/status",
]  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_control_runtime_and_every_unlisted_route_are_not_there(stranger: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT", "OPTIONS"):
        response = stranger.request(method, path, content=b"")
        assert (response.status_code, response.content) == (404, b"")


@pytest.mark.parametrize("path", [*sorted(FLEET_ROUTES), *(mailbox.POLL, mailbox.REPLY, mailbox.WELCOME)])
def test_a_listed_route_takes_post_only_and_nothing_without_a_key(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(path).status_code == 404
    protobuf = {"content-type": "application/x-protobuf", "accept": "application/x-protobuf"}
    assert stranger.post(path, content=b"", headers=protobuf).status_code in {401, 415}


def test_a_websocket_finds_nobody(stranger: httpx.Client) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "x",
    }
    assert stranger.get("/v1/meninx/poll", headers=upgrade).status_code == 404


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
@pytest.mark.parametrize("path", ["/v1/fleet/push-object", mailbox.REPLY])
def test_a_body_above_the_limit_is_cut_off(stranger: httpx.Client, path: str, declared: bool) -> None:
    body = bytes(9 << 20)
    content = body if declared else (body[start : start + 65536] for start in range(0, len(body), 65536))
    try:
        status = stranger.post(path, content=content).status_code
    except (
        httpx.WriteError,
        httpx.ReadError,
    ):  # the listener closed the connection while the client was writing
        status = 413
    assert status == 413


def test_plaintext_gets_no_answer(server: CoordinatorServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(b"POST /v1/meninx/poll HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        try:
            answer = line.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer


def test_old_tls_is_refused(server: CoordinatorServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line, pytest.raises(ssl.SSLError):
        context.wrap_socket(line)


def test_a_site_does_not_talk_to_a_coordinator_of_another_authority(
    network: Network, server: CoordinatorServer, tmp_path: Path
) -> None:
    setup = network.site_setup("east", server.port, root_certificate=Authority(tmp_path).root)
    with pytest.raises(NotAdmitted, match="certificate is not one of this study"):
        SiteClient(setup).run(EchoSite("east"))


def test_an_unregistered_node_key_is_refused(network: Network, server: CoordinatorServer) -> None:
    setup = network.site_setup("east", server.port, node_key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(NotAdmitted, match="not enrolled"):
        SiteClient(setup).run(EchoSite("east"))


def test_an_unregistered_signing_key_is_refused(network: Network, server: CoordinatorServer) -> None:
    setup = network.site_setup("east", server.port, signing_key=Ed25519PrivateKey.generate())
    with pytest.raises(NotAdmitted, match="not that of an enrolled and unrevoked key"):
        SiteClient(setup).run(EchoSite("east"))


@pytest.mark.parametrize(
    ("key", "words"), [("signing", "unrevoked key"), ("node", "not enrolled, or revoked")]
)
def test_a_revoked_key_is_refused_although_the_coordinator_has_its_state(
    tmp_path: Path, key: str, words: str
) -> None:
    network = Network(tmp_path)
    with coordinator(network.coordinator_setup()):
        pass
    setup = network.coordinator_setup()
    keys = {"signing": setup.signing_keys, "node": setup.node_keys}[key]
    left = {f"{key}_keys": {"north": keys["north"]}}
    with (
        coordinator(network.coordinator_setup(**left)) as server,
        pytest.raises(NotAdmitted, match=words),
    ):
        SiteClient(network.site_setup("east", server.port)).run(EchoSite("east"))


def test_a_site_that_does_not_take_part_says_why_and_nobody_says_it_for_another(
    network: Network, server: CoordinatorServer
) -> None:
    SiteClient(network.site_setup("east", server.port)).refuse("the source differs")
    forged = SiteClient(network.site_setup("north", server.port, signing_key=Ed25519PrivateKey.generate()))
    with pytest.raises(NotAdmitted, match="enrolled and unrevoked"):
        forged.refuse("we leave")
    assert server.exchange.refusals() == {"east": "the source differs"}
    assert server.exchange.refusals() == {}
    for reason in ("é" * 5000, "the last one counts"):
        SiteClient(network.site_setup("east", server.port)).refuse(reason)
    assert server.exchange.present() == frozenset()  # a site that refuses is not there
    assert server.exchange.refusals() == {"east": "the last one counts"}


class Tap(httpx.BaseTransport):
    """Passes requests on and keeps their bodies and the answers, as a stranger on a broken TLS line would."""

    def __init__(self, line: httpx.Client) -> None:
        self.line, self.sent, self.answers = line, [], []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.url.path, request.read()))
        response = self.line.post(request.url, content=self.sent[-1][1])
        self.answers.append(response.content)
        return httpx.Response(response.status_code, content=response.content)


def test_a_replayed_call_and_a_replayed_answer_are_refused(
    network: Network, server: CoordinatorServer, stranger: httpx.Client
) -> None:
    signer = Signer(
        "chest", "east", network.signing["east"], {COORDINATOR: network.signing["coordinator"].public_key()}
    )
    tap = Tap(stranger)
    client = MailboxClient(signer, f"127.0.0.1:{server.port}", httpx.Client(transport=tap))
    client.reply("label", b"reply")
    path, body = tap.sent[0]
    again = stranger.post(path, content=body)
    assert again.status_code == 401
    assert "opened before" in again.text
    old = tap.answers[0]
    replayed = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=old)))
    with pytest.raises(EnvelopeRefused, match="question"):
        MailboxClient(signer, "x", replayed).reply("label", b"reply")


def test_plain_http_is_for_loopback_only() -> None:
    with pytest.raises(UsageError, match="without TLS"):
        Listener(AllowList({}), "0.0.0.0", 0)


def test_an_occupied_port_and_a_wrong_key_are_errors_with_a_sentence(
    network: Network, tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match="not free"):
            Listener(AllowList({}), "127.0.0.1", other.getsockname()[1])
    listener = Listener(
        AllowList({}), "127.0.0.1", 0, certificate=network.authority.certificate, key=Authority(tmp_path).key
    )
    with pytest.raises(StorageError, match="check certificate and key"):
        listener.start()
    listener.stop()


def test_a_site_without_a_coordinator_waits_and_stops_when_it_is_told(
    network: Network, tmp_path: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = SiteClient(network.site_setup("east", port))
    thread = threading.Thread(target=client.run, args=(EchoSite("east"),))
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    client.stop()
    thread.join(10)
    assert not thread.is_alive()
