"""The AsyncAPI 3 document, as seen from the orchestrator: it receives requests, and sends to agents and to all.

Messages refer to the JSON Schemas beside it. A reply's channel has no address: it is the reply subject that the request
carries, as everywhere in NATS.
"""

from typing import Any, Final

from callboard.schemas.base import Message
from callboard.schemas.errors import ERRORS, ErrorAnswer
from callboard.schemas.names import NAME_PATTERN, POOL_PATTERN, TASK_ID_PATTERN
from callboard.schemas.operations import OPERATIONS, Operation, Party
from callboard.schemas.subjects import DEFAULT_POOL, DEFAULT_PREFIX

Json = dict[str, Any]

SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
PARAMETERS: Final[dict[str, Json]] = {
    "prefix": {"description": "Configurable first token", "default": DEFAULT_PREFIX},
    "pool": {"description": f"A pool: {POOL_PATTERN.partition('(?')[0]}", "default": DEFAULT_POOL},
    "agent_id": {"description": f"The agent, which NATS permissions guard: {NAME_PATTERN.partition('(?')[0]}"},
    "task_id": {"description": f"A task: {TASK_ID_PATTERN.partition('(?')[0]}"},
    "state": {"description": "The state that it is in now"},
}
ROOT: Final = "{prefix}.v1.{pool}."


def document(messages: dict[str, type[Message]], version: str) -> Json:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Callboard wire protocol",
            "version": version,
            "description": "NATS subjects and UTF-8 JSON. The rules that no schema can say are in docs/protocol.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: channel for operation in OPERATIONS for name, channel in _channels(operation).items()},
        "operations": {operation.name: _operation(operation) for operation in OPERATIONS},
        "components": {
            "messages": {name: _message(name) for name in messages},
            "parameters": PARAMETERS,
        },
    }


def _channels(operation: Operation) -> dict[str, Json]:
    """The subject, and where the answer goes."""
    address = ROOT + operation.subject
    used = [name for name in PARAMETERS if f"{{{name}}}" in address]
    channels: dict[str, Json] = {
        operation.name: {
            "address": address,
            "summary": operation.summary,
            "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in used},
            "messages": _references([operation.message]),
        }
    }
    if answers := _answers(operation):
        channels[f"{operation.name}.reply"] = {
            "address": None,
            "summary": "The reply subject of the request",
            "messages": _references(answers),
        }
    return channels


def _operation(operation: Operation) -> Json:
    drawn: Json = {
        "action": "send" if operation.sender is Party.ORCHESTRATOR else "receive",
        "channel": {"$ref": f"#/channels/{operation.name}"},
        "summary": operation.summary,
        "messages": [_in_channel(operation.name, operation.message)],
    }
    if answers := _answers(operation):
        reply = f"{operation.name}.reply"
        drawn["reply"] = {
            "channel": {"$ref": f"#/channels/{reply}"},
            "messages": [_in_channel(reply, answer) for answer in answers],
        }
    return drawn


def _answers(operation: Operation) -> list[type[Message]]:
    if operation.answer is None:
        return []
    return [operation.answer, ErrorAnswer] if operation.is_refusable else [operation.answer]


def _message(name: str) -> Json:
    drawn: Json = {
        "name": name,
        "contentType": "application/json",
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": f"./json/{name}.json"}},
    }
    if name == ErrorAnswer.__name__:
        drawn["headers"] = {
            "type": "object",
            "required": ["Nats-Service-Error", "Nats-Service-Error-Code"],
            "properties": {
                "Nats-Service-Error": {"type": "string"},
                "Nats-Service-Error-Code": {"enum": sorted({str(error.number) for error in ERRORS.values()})},
            },
        }
    return drawn


def _references(messages: list[type[Message]]) -> Json:
    return {message.__name__: {"$ref": f"#/components/messages/{message.__name__}"} for message in messages}


def _in_channel(channel: str, message: type[Message]) -> Json:
    return {"$ref": f"#/channels/{channel}/messages/{message.__name__}"}
