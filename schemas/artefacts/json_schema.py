"""JSON Schemas (2020-12) of the messages, drawn from the structs as `msgspec.inspect` tells them.

Not by `msgspec.json.schema`: it cannot write a default that is a `Raw`, and it knows of neither the protocol's form of
an instant nor the rules of `__post_init__`, which stand here in `RULES`. What no schema can say is left to the decoder:
how deep and how large a payload is.
"""

import inspect
from typing import Any, Final

import msgspec.inspect as mi

from callboard.schemas.base import Message
from callboard.schemas.errors import ErrorAnswer
from callboard.schemas.labels import MEMBERSHIP, ORDERING, LabelMatch, LabelOp, Preference
from callboard.schemas.operations import OPERATIONS
from callboard.schemas.tasks import GetTask, SubmitMany, SubmitResult, TaskSpec
from callboard.schemas.why import AskWhy

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
INSTANT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$",
    "description": "RFC 3339 UTC with a Z",
}


def _given(name: str) -> Schema:
    """The field is there and not null: null means absent."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _not_both(one: str, other: str) -> Schema:
    return {"not": {"allOf": [_given(one), _given(other)]}}


def _when_op(ops: frozenset[LabelOp], then: Schema) -> Schema:
    return {"if": {"properties": {"op": {"enum": sorted(ops)}}}, "then": then}


def _value_of(schema: Schema) -> Schema:
    return {"required": ["value"], "properties": {"value": schema}}


_LABEL_RULES: Final = [
    _when_op(frozenset({LabelOp.EXISTS}), {"properties": {"value": {"type": "null"}}}),
    _when_op(MEMBERSHIP, _value_of({"type": "array"})),
    _when_op(ORDERING, _value_of({"type": "number"})),
    _when_op(frozenset({LabelOp.EQUALS, LabelOp.DIFFERS}), _value_of({"type": ["string", "boolean", "number"]})),
]
RULES: Final[dict[type[Message], list[Schema]]] = {
    TaskSpec: [_not_both("deadline", "ttl_ms"), _not_both("not_before", "delay_ms")],
    LabelMatch: _LABEL_RULES,
    Preference: _LABEL_RULES,
    GetTask: [{"oneOf": [_given("task_id"), _given("key")]}],
    AskWhy: [{"oneOf": [_given("task_id"), _given("task")]}],
    SubmitResult: [{"oneOf": [_given("task_id"), _given("error")]}],
}
"""What the structs check beyond their fields."""

RAW: Final[dict[tuple[type[Message], str], type[Message]]] = {(SubmitMany, "tasks"): TaskSpec}
"""Items that are decoded one by one, so that each gets an answer of its own."""


def messages() -> dict[str, type[Message]]:
    """Every message that goes over the wire as a whole, by its name."""
    found: list[type[Message]] = [ErrorAnswer]
    for operation in OPERATIONS:
        found += [operation.message, *([operation.answer] if operation.answer else [])]
    return {message.__name__: message for message in sorted(found, key=lambda message: message.__name__)}


def schema_of(message: type[Message]) -> Schema:
    """The schema of a message: one document, which refers to nothing outside."""
    drawing = _Drawing()
    drawing.struct(message)
    own = drawing.parts.pop(message.__name__)
    whole = {"$schema": DIALECT, "$id": f"urn:callboard:v1:{message.__name__}", **own}
    return {**whole, "$defs": dict(sorted(drawing.parts.items()))} if drawing.parts else whole


class _Drawing:
    """One document in the making; `parts` become its `$defs`."""

    def __init__(self) -> None:
        self.parts: dict[str, Schema] = {}

    def struct(self, message: type[Any]) -> Schema:
        """The reference to a struct, drawn when it is met first."""
        name = message.__name__
        if name not in self.parts:
            self.parts[name] = {}
            self.parts[name] = self._object(message)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, message: type[Any]) -> Schema:
        info = mi.type_info(message)
        if not isinstance(info, mi.StructType):
            raise TypeError(f"not a struct: {message}")
        drawn: Schema = {"title": message.__name__, "description": _first_line(message), "type": "object"}
        drawn["properties"] = {field.encode_name: self._field(message, field) for field in info.fields}
        if required := [field.encode_name for field in info.fields if field.required]:
            drawn["required"] = required
        if info.forbid_unknown_fields:
            drawn["additionalProperties"] = False
        if rules := RULES.get(message):
            drawn["allOf"] = rules
        return drawn

    def _field(self, message: type[Any], field: mi.Field) -> Schema:
        if item := RAW.get((message, field.name)):
            return {**self.type(field.type), "items": self.struct(item)}
        return self.type(field.type)

    def type(self, kind: mi.Type) -> Schema:  # noqa: C901, PLR0911, PLR0912 - one case for each kind of type
        """The schema of one type."""
        match kind:
            case mi.Metadata(type=inner):
                return self.type(inner)
            case mi.StructType(cls=cls):
                return self.struct(cls)
            case mi.EnumType(cls=cls):
                return {"enum": [member.value for member in cls]}
            case mi.LiteralType(values=(value,)):
                return {"const": value}
            case mi.UnionType(types=types):
                return {"anyOf": [self.type(one) for one in types]}
            case mi.ListType(item_type=item):
                return {"type": "array", "items": self.type(item), **_bounds(kind, "Items")}
            case mi.DictType(key_type=key, value_type=value):
                names = {name: form for name, form in self.type(key).items() if name != "type"}
                drawn = {"type": "object", "additionalProperties": self.type(value), **_bounds(kind, "Properties")}
                return {**drawn, "propertyNames": names} if names else drawn
            case mi.StrType(pattern=pattern):
                form = {"pattern": _portable(pattern)} if pattern else {}
                return {"type": "string", **_bounds(kind, "Length"), **form}
            case mi.IntType() | mi.FloatType():
                return _number(kind)
            case mi.DateTimeType():
                return dict(INSTANT)
            case mi.BoolType():
                return {"type": "boolean"}
            case mi.NoneType():
                return {"type": "null"}
            case mi.RawType() | mi.AnyType():
                return {}
            case _:
                raise TypeError(f"no message has had a {kind} so far")


def _number(kind: mi.IntType | mi.FloatType) -> Schema:
    limits = {"minimum": kind.ge, "maximum": kind.le, "exclusiveMinimum": kind.gt, "exclusiveMaximum": kind.lt}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return {"type": "integer" if isinstance(kind, mi.IntType) else "number", **given}


def _bounds(kind: mi.ListType | mi.DictType | mi.StrType, of: str) -> Schema:
    limits = {f"min{of}": kind.min_length, f"max{of}": kind.max_length}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _portable(pattern: str) -> str:
    """Without what only Python needs, and what Go and Rust cannot read: elsewhere `$` is the very end already."""
    return pattern.removesuffix(r"(?!\n)")


def _first_line(message: type[Any]) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join(inspect.cleandoc(message.__doc__ or "").partition("\n\n")[0].split())
