"""Access to Google: a token is renewed once for all who need it."""

import asyncio
import datetime
import time
from typing import Any

import grpc
from google.auth.credentials import Credentials
from google.auth.transport.grpc import AuthMetadataPlugin

from app.speech.credentials import OneRefresh

HOUR = datetime.timedelta(hours=1)


class Counted(Credentials):
    """Expired at first; renewing takes a while, as it does over a network."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refreshes = 0

    def refresh(self, request: Any) -> None:
        self.refreshes += 1
        time.sleep(0.1)  # in a thread of grpc's plugin
        self.token = f"token-{self.refreshes}"
        self.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + HOUR


async def test_fifty_calls_at_once_renew_an_expired_token_once() -> None:
    tokens: list[str] = []

    async def handle(request: bytes, context: Any) -> bytes:
        tokens.append(dict(context.invocation_metadata())["authorization"])
        return request

    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": method}),))
    port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    await server.start()
    counted = Counted()
    calls = grpc.metadata_call_credentials(AuthMetadataPlugin(OneRefresh(counted), None))  # type: ignore[no-untyped-call]
    access = grpc.composite_channel_credentials(grpc.local_channel_credentials(), calls)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", access) as channel:
        echo: Any = channel.unary_unary("/test/Echo")
        await asyncio.gather(*[echo(b"x") for _ in range(50)])
        assert counted.refreshes == 1
        counted.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - HOUR
        await asyncio.gather(*[echo(b"x") for _ in range(50)])
    await server.stop(None)
    assert counted.refreshes == 2
    assert tokens == ["Bearer token-1"] * 50 + ["Bearer token-2"] * 50
