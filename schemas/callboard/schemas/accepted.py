"""Reading again what was accepted before: as it is, whatever limits have come since.

Rules:
- A limit holds for who comes in. What was accepted under another limit is kept, so a later and narrower one must not
  make it unreadable: sizes, ranges and patterns are not checked here.
- What fits together is (`__post_init__`), and so are types and unknown fields: on these the meaning depends.
"""

from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")


def decoder_of_accepted(kind: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder of JSON that gives `kind`, or subclasses of the structs in it, without their limits.

    Such a subclass is equal to what has the same content, also to the struct that it stands for.
    Its `decode` raises `msgspec.ValidationError` for what is no `kind` at all, `msgspec.DecodeError` for no JSON.
    """
    return msgspec.json.Decoder(cast("type[T]", _unlimited(kind)))


def _unlimited(kind: Any) -> Any:  # noqa: ANN401 - any annotation that msgspec knows
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _unlimited(arguments[0])
    if origin in {Union, UnionType}:
        return Union[tuple(map(_unlimited, arguments))]  # noqa: UP007 - there is no `|` over a tuple
    if arguments:
        return origin[tuple(map(_unlimited, arguments))]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _unlimited_struct(kind)
    return kind


def _unlimited_struct(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    annotations = get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for field in msgspec.structs.fields(kind):
        unlimited = _unlimited(annotations[field.name])
        if field.default is not msgspec.NODEFAULT:
            fields.append((field.name, unlimited, field.default))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, unlimited, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, unlimited))

    def equals(this: msgspec.Struct, other: object) -> bool:
        # msgspec's own calls structs of different classes unequal.
        return isinstance(other, kind) and msgspec.structs.astuple(this) == msgspec.structs.astuple(other)

    def hashed(this: msgspec.Struct) -> int:
        return hash(kind(**msgspec.structs.asdict(this)))

    namespace = {"__eq__": equals, "__hash__": hashed}
    return msgspec.defstruct(kind.__name__, fields, bases=(kind,), kw_only=True, namespace=namespace)
