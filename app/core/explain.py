"""From msgspec's refusal of a client's message to ours: the field, its value, and what is allowed there.

msgspec says where and what it met; the value is looked up in the message, what is allowed in the type.
"""

import re
from typing import Any

import msgspec
from msgspec import inspect

from app.core.errors import SessionError, elide, invalid, shorten

_AT = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*?)`")


def explain(text: str, reason: str, messages: Any) -> SessionError:
    """Why `text` is no message of the union `messages`; `reason` is the text of msgspec's ValidationError."""
    try:
        raw = msgspec.json.decode(text)
    except (RecursionError, msgspec.DecodeError) as error:
        return SessionError("bad_json", f"a text frame must be one JSON object: {error}")
    if not isinstance(raw, dict):
        return SessionError("bad_json", f"a text frame must be one JSON object, not {shorten(raw)}")
    kinds = {str(kind.__struct_config__.tag): kind for kind in messages.__args__}
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in kinds or reason.endswith("`$.type`"):
        return invalid("type", kind, f"one of {', '.join(kinds)}")
    return _explain_field(raw, reason, inspect.type_info(kinds[kind]))


def _explain_field(raw: dict[str, Any], reason: str, shape: inspect.Type) -> SessionError:
    path = match.group(1) if (match := _AT.search(reason)) else ""
    if field := _FIELD.match(reason):
        param = elide(f"{path}.{field.group(2)}".lstrip("."))
        if field.group(1) == "missing required":
            allowed = _allowed(_walk_type(shape, param))
            return SessionError("invalid_config", f"{param}: is missing: {allowed}", param=param)
        return SessionError(
            "invalid_config",
            f"{param}: is no field here: allowed are {', '.join(_fields(_walk_type(shape, path)))}",
            param=param,
        )
    if reason.startswith("Invalid base64"):
        return SessionError("bad_audio", f"{path}: is not valid base64", param=path)
    return invalid(path, _walk_value(raw, path), _allowed(_walk_type(shape, path)))


def _steps(path: str) -> list[str]:
    """`phrases[0].boost` -> phrases, 0, boost. msgspec writes `[...]` where an index is not known."""
    return re.findall(r"[^.\[\]]+|(?<=\[)\.\.\.(?=\])", path)


def _walk_value(raw: Any, path: str) -> object:
    for step in _steps(path):
        if isinstance(raw, dict):
            raw = raw.get(step)
        elif isinstance(raw, list) and step.isdigit():
            raw = raw[int(step)]
    return raw


def _walk_type(shape: inspect.Type, path: str) -> inspect.Type:
    for step in _steps(path):
        shape = _bare(shape)
        if isinstance(shape, inspect.ListType):
            shape = shape.item_type
        elif isinstance(shape, inspect.StructType):
            shape = next(field.type for field in shape.fields if field.encode_name == step)
    return shape


def _bare(shape: inspect.Type) -> inspect.Type:
    """Without `| None` around it, and without its annotations."""
    if isinstance(shape, inspect.UnionType):
        shape = next(member for member in shape.types if not isinstance(member, inspect.NoneType))
    return shape.type if isinstance(shape, inspect.Metadata) else shape


def _fields(shape: inspect.Type) -> list[str]:
    shape = _bare(shape)
    return [field.encode_name for field in shape.fields] if isinstance(shape, inspect.StructType) else []


def _allowed(shape: inspect.Type) -> str:
    """What may stand there, in words."""
    match shape:
        case inspect.UnionType(types):
            return " or ".join(_allowed(member) for member in types if not isinstance(member, inspect.NoneType))
        case inspect.Metadata(extra_json_schema={"description": str(described)}):
            return described
        case inspect.Metadata(bare):
            return _allowed(bare)
        case inspect.LiteralType(values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.IntType() | inspect.FloatType():
            noun = "an integer" if isinstance(shape, inspect.IntType) else "a number"
            low = shape.ge if shape.gt is None else shape.gt + 1
            high = shape.le if shape.lt is None else shape.lt - 1
            return noun + (f" from {low}" if low is not None else "") + (f" to {high}" if high is not None else "")
        case inspect.StrType(min_length=shortest, max_length=int(longest)):
            return f"a string of {f'{shortest} to' if shortest else 'at most'} {longest} characters"
        case inspect.StrType():
            return "a string"
        case inspect.BytesType():
            return "base64 in a string"
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType(item, shortest, longest):
            return f"a list of {shortest or 0} to {longest}, each {_allowed(item)}"
        case inspect.StructType():
            return f"an object with {', '.join(_fields(shape))}"
        case _:
            return "null"
