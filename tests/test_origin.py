"""Which pages may connect: those of the gateway itself, and those that are allowed by name. Apps send no `Origin`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from tests.gateway import START, Client, Gateway, run_gateway
from tests.upstream import ScriptedUpstream


@asynccontextmanager
async def connected(gateway: Gateway, origin: str, host: str | None = None) -> AsyncIterator[Client]:
    """As a page of this origin, which has reached the gateway by this name."""
    url = f"ws://{host}/ws/transcribe" if host else gateway.url
    async with connect(url, host="127.0.0.1", port=gateway.port, origin=Origin(origin), compression=None) as socket:
        yield Client(socket)


async def comes_in(client: Client) -> bool:
    with suppress(ConnectionClosed):  # it has been refused already
        await client.say(START)
    first = await client.hear_one()
    if first["type"] == "error":
        assert first["code"] == "origin_denied" and "GATEWAY_ALLOWED_ORIGINS" in first["message"]
        await client.hear_all()
        assert client.close_code == 4403
    return bool(first["type"] == "started")


OWN = [
    ("http://captions.example", "captions.example"),
    ("http://captions.example:8080", "captions.example:8080"),
    ("https://captions.example", "captions.example"),  # whoever ends the TLS in front may not have said so
    ("https://captions.example", "captions.example:443"),
    ("https://Captions.Example", "captions.example"),
    ("http://[::1]:8000", "[::1]:8000"),
]


@pytest.mark.parametrize(("origin", "host"), OWN)
async def test_the_gateways_own_page_may_connect(gateway: Gateway, origin: str, host: str) -> None:
    async with connected(gateway, origin, host) as client:
        assert await comes_in(client)


OTHERS = [
    ("http://evil.example", "captions.example"),
    ("http://captions.example.evil.example", "captions.example"),
    ("http://captions.example:8080", "captions.example"),
    ("http://captions.example", "captions.example:8080"),
    ("http://captions.example@evil.example", "captions.example"),
    ("null", "captions.example"),
    ("file://", "captions.example"),
    ("", "captions.example"),
    ("http://[", "captions.example"),
    ("capacitor://localhost", "localhost"),
]


@pytest.mark.parametrize(("origin", "host"), OTHERS)
async def test_a_page_of_elsewhere_may_not(gateway: Gateway, origin: str, host: str) -> None:
    """It would use the access that its visitor has: by an address, or by being on the same machine."""
    async with connected(gateway, origin, host) as client:
        assert not await comes_in(client)


@pytest.mark.parametrize("origin", ["https://app.example", "https://APP.example", "capacitor://localhost"])
async def test_one_that_is_allowed_by_name_may(upstream: ScriptedUpstream, origin: str) -> None:
    settings = {"allowed_origins": "https://app.example/, capacitor://localhost"}
    async with run_gateway(upstream=f"grpc://{upstream.address}", **settings) as gateway:
        async with connected(gateway, origin) as client:
            assert await comes_in(client)
        async with connected(gateway, "https://other.example") as client:
            assert not await comes_in(client)


async def test_all_may_where_that_is_meant(upstream: ScriptedUpstream) -> None:
    async with run_gateway(upstream=f"grpc://{upstream.address}", allowed_origins="*") as gateway:
        async with connected(gateway, "null") as client:
            assert await comes_in(client)
