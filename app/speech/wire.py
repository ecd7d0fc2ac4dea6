"""What goes over gRPC in a leg: bytes up, raw protobuf messages down.

The generated client would have proto-plus objects made of both: 226 us for a final of 12 words, and 16 us without.
"""

from typing import Any

import grpc


def raw_stream(channel: grpc.aio.Channel, service: str, response: Any) -> Any:
    """`StreamingRecognize` of `service`: takes serialized requests. `response`: the proto-plus type of what comes."""
    return channel.stream_stream(f"/{service}/StreamingRecognize", response_deserializer=response.pb().FromString)


def serialized(message: Any) -> bytes:
    """A proto-plus message."""
    raw: bytes = type(message).serialize(message)
    return raw
