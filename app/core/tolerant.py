"""Reads what another version of the gateway has written: fields that this one does not know are left out, also where a
client's message must not have any (`forbid_unknown_fields`)."""

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")


def decode(text: str, kind: type[T]) -> T:
    """Raises msgspec.MsgspecError where nothing can be made of it."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_known(msgspec.json.decode(text), inspect.type_info(kind)), kind)


def _known(value: Any, kind: inspect.Type) -> Any:
    match kind, value:
        case inspect.Metadata(), _:
            return _known(value, kind.type)
        case inspect.UnionType(), _:
            for each in kind.types:  # one of them has the shape of the value, and the others leave it alone
                value = _known(value, each)
        case inspect.StructType(), dict():
            kinds = {field.encode_name: field.type for field in kind.fields}
            return {name: _known(part, kinds[name]) for name, part in value.items() if name in kinds}
        case inspect.ListType(), list():
            return [_known(part, kind.item_type) for part in value]
    return value
