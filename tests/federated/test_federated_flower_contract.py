"""What meninx uses of Flower without a promise of Flower: each class and attribute, with what it has to take.

When one of these tests fails after an update of Flower, the named piece of ``federated/flower.py`` has to
follow.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest

pytest.importorskip("flwr")

CALLABLES = {
    "flwr.app.message:Array": ["dtype", "shape", "stype", "data"],
    "flwr.app.message:make_message": ["metadata", "content"],
    "flwr.app.message:remove_content_from_message": ["message"],
    "flwr.app.message:Message": ["reply_to"],
    "flwr.app.metadata:Metadata": [
        "run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "created_at",
        "ttl", "message_type",
    ],
    "flwr.common.serde:message_from_proto": ["message_proto"],
    "flwr.common.serde:message_to_proto": ["message"],
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": ["obj"],
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": ["obj"],
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": ["tree"],
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": [],
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_confirm_message_received_fn_protobuf": [
        "confirm_message_received_protobuf", "node", "run_id",
    ],
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": [
        "pull_object_protobuf", "node", "run_id",
    ],
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_push_object_fn_protobuf": [
        "push_object_protobuf", "node", "run_id", "session_id",
    ],
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": [
        "object_id", "object_contents",
    ],
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": [
        "object_ids", "pull_object_fn", "initial_backoff", "backoff_cap",
    ],
    "flwr.supercore.inflatable.inflatable_utils:push_objects": [
        "objects", "push_object_fn", "object_ids_to_push",
    ],
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ["public_key"],
    "flwr.superlink.auth_plugin:NoOpControlAuthnPlugin": [],
    "flwr.superlink.cli.flower_superlink:SuperLinkLifespan": ["config", "state_factory"],
    "flwr.superlink.main:create_app": ["config", "superlink_lifespan_class"],
    "flwr.superlink.servicer.runtime.runtime_handlers:push_messages": ["request", "state", "task"],
    "flwr.superlink.servicer.runtime.runtime_handlers:pull_messages": ["request", "state", "task"],
    "flwr.supernode.fleet_http_client:FleetHttpClient.from_server_address": [
        "server_address", "insecure", "root_certificates", "interceptors",
    ],
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": ["private_key", "public_key"],
}  # fmt: skip
CALLABLES |= {
    f"flwr.supernode.fleet_http_client:FleetHttpClient.{name}": ["request"]
    for name in (
        "ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun",
        "PushObject", "PullObject", "ConfirmMessageReceived",
    )
}  # fmt: skip
CALLABLES["flwr.supercore.object_store:ObjectStore.delete"] = ["object_id"]
CALLABLES |= {
    f"flwr.server.superlink.linkstate:LinkState.{name}": parameters
    for name, parameters in {
        "create_run": [
            "fab_id", "fab_version", "fab_hash", "override_config", "federation_id", "federation_config",
            "flwr_aid", "primary_task_type",
        ],
        "get_run_info": ["run_ids"],
        "stop_run": ["run_id"],
        "get_tasks": ["task_ids"],
        "claim_task": ["task_id"],
        "activate_task": ["task_id"],
        "acknowledge_task_heartbeat": ["task_id"],
        "create_node": ["owner_aid", "owner_name", "public_key", "heartbeat_interval", "name"],
        "delete_node": ["owner_aid", "node_id"],
        "get_node_info": ["statuses"],
        "delete_messages": ["message_ins_ids"],
        "store_object": ["run_id", "session_id", "object_id", "object_content"],
        "get_object": ["run_id", "object_id"],
    }.items()
}  # fmt: skip
CONFIGURATION = [
    "control_address", "health_server_address", "host", "port", "insecure", "certificates",
    "superexec_auth_secret", "authn_plugin", "event_log_plugin", "fleet_event_log_plugin", "enable_event_log",
    "artifact_provider", "enable_supernode_auth", "fleet_api_type", "fleet_api_address", "simulation",
    "ssl_ca_certfile", "ssl_certfile", "ssl_keyfile", "database", "isolation", "runtime_dependency_install",
]  # fmt: skip
PROTOBUF = {
    "fleet_pb2:ActivateNodeRequest": ["public_key", "heartbeat_interval"],
    "fleet_pb2:ActivateNodeResponse": ["node_id"],
    "fleet_pb2:DeactivateNodeRequest": ["node_id"],
    "fleet_pb2:PullMessagesRequest": ["node"],
    "fleet_pb2:PullMessagesResponse": ["messages_list", "message_object_trees"],
    "fleet_pb2:PushMessagesRequest": [
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    ],
    "fleet_pb2:PushMessagesResponse": ["objects_to_push", "session_id"],
    "heartbeat_pb2:SendNodeHeartbeatRequest": ["node", "heartbeat_interval"],
    "node_pb2:Node": ["node_id"],
    "node_pb2:NodeInfo": ["node_id", "public_key", "status", "last_activated_at"],
    "run_pb2:GetRunRequest": ["node", "run_id"],
    "run_pb2:Run": ["fab_hash"],
    "runtime_pb2:PullAppMessagesRequest": ["message_ids"],
    "runtime_pb2:PushAppMessagesRequest": ["messages_list", "message_object_trees"],
    "runtime_pb2:PushAppMessagesResponse": ["message_ids", "objects_to_push", "session_id"],
}
CONSTANTS = {
    "flwr.common.constant": [
        "HEARTBEAT_MIN_INTERVAL",
        "HEARTBEAT_PATIENCE",
        "NOOP_ACCOUNT_NAME",
        "NOOP_FLWR_AID",
        "SUPERLINK_NODE_ID",
    ],
    "flwr.supercore.constant": ["FLWR_IN_MEMORY_DB_NAME", "NOOP_FEDERATION_ID"],
    "flwr.supercore.telemetry": ["FLWR_TELEMETRY_ENABLED"],
}


def found(place: str) -> object:
    """Return a piece of Flower by ``module:name.name``."""
    module, _, path = place.partition(":")
    try:
        piece: object = importlib.import_module(module)
        for name in path.split("."):
            piece = getattr(piece, name)
    except (ImportError, AttributeError):
        pytest.fail(f"Flower no longer has {place}; federated/flower.py uses it.")
    return piece


@pytest.mark.parametrize("place", sorted(CALLABLES))
def test_flower_has_the_callables_with_their_parameters(place: str) -> None:
    parameters = inspect.signature(found(place)).parameters  # type: ignore[arg-type]
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    missing = [name for name in CALLABLES[place] if name not in parameters and not open_ended]
    assert not missing, f"{place} of Flower no longer takes {missing}; federated/flower.py passes it."


def test_the_server_is_configured_by_exactly_the_fields_that_meninx_sets() -> None:
    configuration = found("flwr.superlink.config_loader:SuperLinkLifespanConfig")
    fields = [field.name for field in dataclasses.fields(configuration)]  # type: ignore[arg-type]
    assert sorted(fields) == sorted(CONFIGURATION), (
        "Flower's SuperLinkLifespanConfig has other fields; decide in federated/flower.py what each shall be."
    )


@pytest.mark.parametrize("place", sorted(PROTOBUF))
def test_the_messages_on_the_wire_have_the_fields(place: str) -> None:
    descriptor = found(f"flwr.proto.{place}").DESCRIPTOR  # type: ignore[attr-defined]
    missing = [name for name in PROTOBUF[place] if name not in descriptor.fields_by_name]
    assert not missing, f"{place} of Flower no longer has {missing}; federated/flower.py uses it."


@pytest.mark.parametrize("module", sorted(CONSTANTS))
def test_flower_has_the_constants(module: str) -> None:
    for name in CONSTANTS[module]:
        found(f"{module}:{name}")


def test_the_fleet_routes_are_the_known_ones_and_meninx_leaves_two_kinds_out() -> None:
    from flwr.superlink.routers.fleet.router import router

    from meninx.federated.flower import FLEET_ROUTES

    routes = {route.path for route in router.routes}
    left_out = {"/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab"}
    assert routes == FLEET_ROUTES | left_out, (
        "Flower's fleet interface has other routes; decide in federated/flower.py which of them a site needs."
    )


def test_flower_answers_in_the_words_that_meninx_compares() -> None:
    from flwr.supercore.constant import NodeStatus, TaskType

    assert (NodeStatus.ONLINE, NodeStatus.UNREGISTERED) == ("online", "unregistered")
    assert TaskType.SERVER_APP == "flwr-serverapp"


def test_telemetry_and_update_checks_are_off_once_the_engine_is_imported() -> None:
    import os

    import flwr.supercore.telemetry as telemetry

    import meninx.federated.flower  # noqa: F401

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
