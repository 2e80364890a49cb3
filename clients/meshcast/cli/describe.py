"""Descriptors as proto text, for a person who wants to know what to send."""

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

__all__ = ["describe"]


def describe(symbol: ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor) -> str:
    """The symbol as it would stand in a .proto file; a method comes with its messages."""
    if isinstance(symbol, ServiceDescriptor):
        lines = [f"  {_rpc(method)}" for method in symbol.methods]
        return "\n".join([f"service {symbol.full_name} {{", *lines, "}"])
    if isinstance(symbol, MethodDescriptor):
        messages = {one.full_name: one for one in (symbol.input_type, symbol.output_type)}
        return "\n\n".join([_rpc(symbol), *(_message(message) for message in messages.values())])
    if isinstance(symbol, EnumDescriptor):
        return _enum(symbol, symbol.full_name, "")
    return _message(symbol)


def _rpc(method: MethodDescriptor) -> str:
    takes = ("stream " if method.client_streaming else "") + method.input_type.full_name
    gives = ("stream " if method.server_streaming else "") + method.output_type.full_name
    return f"rpc {method.name}({takes}) returns ({gives});"


def _message(message: Descriptor) -> str:
    return "\n".join(_message_lines(message, message.full_name, ""))


def _message_lines(message: Descriptor, name: str, indent: str) -> list[str]:
    lines = [f"{indent}message {name} {{"]
    inner = indent + "  "
    shown: set[str] = set()
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            lines += _message_lines(nested, nested.name, inner)
    lines += [_enum(enum, enum.name, inner) for enum in message.enum_types]
    for field in message.fields:
        oneof = field.containing_oneof
        if oneof is None or _is_optional(field):
            lines.append(inner + _field(field))
        elif oneof.name not in shown:
            shown.add(oneof.name)
            choices = [f"{inner}  {_field(choice)}" for choice in oneof.fields]
            lines += [f"{inner}oneof {oneof.name} {{", *choices, f"{inner}}}"]
    return [*lines, f"{indent}}}"]


def _enum(enum: EnumDescriptor, name: str, indent: str) -> str:
    values = [f"{indent}  {value.name} = {value.number};" for value in enum.values]
    return "\n".join([f"{indent}enum {name} {{", *values, f"{indent}}}"])


def _field(field: FieldDescriptor) -> str:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        kind = f"map<{_type(entry.fields_by_name['key'])}, {_type(entry.fields_by_name['value'])}>"
    else:
        label = "repeated " if field.is_repeated else "optional " if _is_optional(field) else ""
        kind = label + _type(field)
    return f"{kind} {field.name} = {field.number};"


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()  # type: ignore[arg-type]  # an int


def _is_optional(field: FieldDescriptor) -> bool:
    """True for a proto3 `optional` scalar, which the compiler puts into a oneof of its own."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) == 1 and oneof.name == f"_{field.name}"
