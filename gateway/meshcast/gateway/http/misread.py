"""What is wrong with a request in JSON, in the words of whoever wrote it: the field's path and what it must be."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["Misread", "misread"]

_NAMES_MAX = 20  # names that are told of a message's fields or of an enum's values
_TOLD_MAX = 80  # characters of a caller's own name

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: "a whole number within 32 bits",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number within 32 bits, not below 0",
    FieldDescriptor.CPPTYPE_INT64: "a whole number within 64 bits",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number within 64 bits, not below 0",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": 'a time as "2026-01-31T12:00:00Z"',
    "google.protobuf.Duration": 'a duration as "1.5s"',
}


class Misread(NamedTuple):
    """Where a request in JSON cannot be read, and why.

    Attributes:
        field: path as `content.hour_of_day` or `rows[3].text`; `body` where it is the whole.
        why: what is wrong, as the end of a sentence that begins with the field.
    """

    field: str
    why: str


class _Twice(ValueError):
    """An object has a key twice."""


def misread(text: bytes, kind: type[Message], pool: descriptor_pool.DescriptorPool) -> Misread:
    """What keeps a text from being a message's JSON. The text is one that protobuf has refused.

    Args:
        text: as it came.
        kind: of the message.
        pool: where its types are.
    """
    if not text.strip():
        return Misread("body", "is empty; send {}")
    try:
        document = json.loads(text.decode(), object_pairs_hook=_object)
        return _Search(pool).whole(document, kind)
    except UnicodeDecodeError:
        return Misread("body", "is no UTF-8")
    except json.JSONDecodeError as error:
        return Misread("body", f"is no JSON from line {error.lineno}, column {error.colno} on")
    except _Twice as error:
        return Misread("body", f"has the key {_told(str(error))} twice in one object")
    except RecursionError:
        return Misread("body", "is nested too deeply")
    except ValueError:  # a number of thousands of digits
        return Misread("body", "is no JSON that can be read")


class _Search:
    """Follows the first field that cannot be read down to what is wrong in it."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def whole(self, document: Any, kind: type[Message]) -> Misread:
        if not isinstance(document, dict):
            return Misread("body", "must be an object")
        return self._message(document, kind, "")

    def _reads(self, document: Any, kind: type[Message]) -> bool:
        try:
            json_format.ParseDict(document, kind(), descriptor_pool=self._pool)
        except (json_format.ParseError, ValueError, TypeError):
            return False
        return True

    def _message(self, document: dict[str, Any], kind: type[Message], path: str) -> Misread:
        fields: dict[str, Any] = {}
        for field in kind.DESCRIPTOR.fields:
            fields[field.name] = fields[field.camelcase_name] = fields[field.json_name] = field
        for key, value in document.items():
            known = fields.get(key)
            if known is None:
                if key.startswith("["):
                    continue  # an extension
                names = ", ".join([field.json_name for field in kind.DESCRIPTOR.fields][:_NAMES_MAX]) or "no fields"
                return Misread(path + _told(key), f"is no field of {kind.DESCRIPTOR.full_name}, which has {names}")
            if not self._reads({key: value}, kind):
                return self._field(key, value, known, kind, path + known.name)
        return Misread(path.rstrip(".") or "body", "gives a field twice, or two fields of which it may have one")

    def _field(self, key: str, value: Any, field: FieldDescriptor, kind: type[Message], path: str) -> Misread:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            if not isinstance(value, dict):
                return Misread(path, "must be an object")
            for name, one in value.items():
                if not self._reads({key: {name: one}}, kind):
                    return self._one(one, inner.fields_by_name["value"], f'{path}["{_told(name)}"]')
        elif field.is_repeated:
            if not isinstance(value, list):
                return Misread(path, "must be a list")
            for index, one in enumerate(value):
                if not self._reads({key: [one]}, kind):
                    return self._one(one, field, f"{path}[{index}]")
        return self._one(value, field, path)

    def _one(self, value: Any, field: FieldDescriptor, path: str) -> Misread:
        inner = field.message_type
        if inner is None or inner.file.name.startswith("google/protobuf/"):
            if isinstance(value, str) and field.type == FieldDescriptor.TYPE_STRING:
                return Misread(path, "holds half a character (a lone surrogate)")
            return Misread(path, f"must be {_wanted(field)}")
        if not isinstance(value, dict):
            return Misread(path, "must be an object")
        return self._message(value, message_factory.GetMessageClass(inner), path + ".")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise _Twice(key)
        document[key] = value
    return document


def _told(key: str) -> str:
    return key.encode(errors="replace").decode()[:_TOLD_MAX]


def _wanted(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        inner: Descriptor = field.message_type
        return _WELL_KNOWN.get(inner.full_name, f"a {inner.full_name} as JSON")
    if field.enum_type is not None:
        return "one of " + ", ".join([value.name for value in field.enum_type.values][:_NAMES_MAX])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "bytes as base64" if field.type == FieldDescriptor.TYPE_BYTES else "a text"
    return _WHOLE[field.cpp_type]
