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
        case inspect.UnionType(), dict():
            return _known(
                value, next((each for each in kind.types if isinstance(each, inspect.StructType)), kind.types[0])
            )
        case inspect.UnionType(), list():
            return _known(
                value, next((each for each in kind.types if isinstance(each, inspect.ListType)), kind.types[0])
            )
        case inspect.StructType(), dict():
            kinds = {each.encode_name: each.type for each in kind.fields}
            return {name: _known(part, kinds[name]) for name, part in value.items() if name in kinds}
        case inspect.ListType(), list():
            return [_known(part, kind.item_type) for part in value]
    return value
