"""Connections come in a few at a time: whoever speaks need not wait until everybody is in."""

import asyncio

from tests.gateway import START, Client, Gateway

MANY = 200
UPGRADE = (
    b"GET /ws/transcribe HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_everybody_who_comes_at_once_gets_in(gateway: Gateway) -> None:
    streams = await asyncio.gather(*[asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(MANY)])
    for _, writer in streams:
        writer.write(UPGRADE)
    answers = await asyncio.gather(*[reader.readline() for reader, _ in streams])
    assert {answer.split()[1] for answer in answers} == {b"101"}
    for _, writer in streams:
        writer.transport.abort()


async def test_who_leaves_before_it_is_let_in_is_no_trouble(gateway: Gateway) -> None:
    for _ in range(MANY):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(UPGRADE)
        writer.transport.abort()
    async with Client.connect(gateway) as client:
        await client.say(START)
        await client.hear("started")


async def test_what_is_said_in_pieces_is_heard_in_order(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for byte in b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\nGET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    for _ in range(2):
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()
