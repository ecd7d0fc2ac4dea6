"""A session that only stays: keepalives and pings hold it no longer than GATEWAY_SILENT_TIMEOUT_SECONDS."""

import asyncio
from contextlib import suppress

from websockets.exceptions import ConnectionClosed

from tests.gateway import START, Client, run_gateway
from tests.upstream import ScriptedUpstream


async def test_a_session_that_only_says_keepalive_is_warned_and_ended(upstream: ScriptedUpstream) -> None:
    """4408, and the limit is named."""
    async with run_gateway(upstream=f"grpc://{upstream.address}", silent_timeout_seconds=3) as gateway:
        assert (await gateway.get("/config")).json()["timers"]["silent_timeout_seconds"] == 3
        async with Client.connect(gateway) as client:
            await client.say(START)
            listening = asyncio.create_task(client.hear_all())
            with suppress(ConnectionClosed):
                while not listening.done():
                    await client.say({"type": "keepalive"}, b"")
                    await client.socket.ping()
                    await asyncio.sleep(0.05)
            messages = await listening
            assert [message["type"] for message in messages] == ["started", "warning", "error"]
            assert messages[1]["code"] == "idle"
            assert (messages[2]["code"], client.close_code) == ("idle_timeout", 4408)
            assert "no audio and no gap for 3 s" in messages[2]["message"]
