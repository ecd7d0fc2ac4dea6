"""Which client the application sees: a proxy is believed, as far as it is trusted, and nobody else is."""

import logging

import pytest

from app.addresses import UNKNOWN, network_of
from tests.gateway import run_gateway
from tests.raw import UPGRADE, ask, get

OURS = "127.0.0.1"
FOR, PROTO = "X-Forwarded-For: ", "X-Forwarded-Proto: "

TABLE = [
    # trusted proxies, headers, the client that is seen, the scheme
    ("192.0.2.1", [], OURS, "ws"),
    ("192.0.2.1", [FOR + "6.6.6.6"], OURS, "ws"),
    ("192.0.2.1", [FOR + "6.6.6.6", PROTO + "https"], OURS, "ws"),
    ("192.0.2.1", [FOR + "127.0.0.1, 192.0.2.1"], OURS, "ws"),
    (OURS, [], OURS, "ws"),
    (OURS, [FOR + "6.6.6.6"], "6.6.6.6", "ws"),
    (OURS, [FOR + "6.6.6.6", PROTO + "https"], "6.6.6.6", "wss"),
    (OURS, [FOR + "6.6.6.6:4711"], "6.6.6.6", "ws"),
    (OURS, [FOR + "6.6.6.6, 7.7.7.7"], "7.7.7.7", "ws"),
    (OURS, [FOR + "6.6.6.6", FOR + "7.7.7.7"], "7.7.7.7", "ws"),
    (OURS, [FOR + "6.6.6.6, 7.7.7.7, 127.0.0.1"], "7.7.7.7", "ws"),
    (OURS, [FOR + "127.0.0.1"], OURS, "ws"),
    (OURS, [FOR], OURS, "ws"),
    (OURS, [FOR + "2001:db8:1:2:3::4"], "2001:db8:1:2::/64", "ws"),
    (OURS, [FOR + "[2001:db8:1:2::9]:443"], "2001:db8:1:2::/64", "ws"),
    (OURS, [FOR + "::ffff:6.6.6.6"], "6.6.6.6", "ws"),
    (OURS, [FOR + "garbage"], UNKNOWN, "ws"),
    (OURS, [FOR + "6.6.6.6, <script>"], UNKNOWN, "ws"),
    (OURS, [FOR + "6.6.6.6, 999.1.1.1"], UNKNOWN, "ws"),
    (OURS, [FOR + "x" * 4000], UNKNOWN, "ws"),
    (OURS, [PROTO + "gopher"], OURS, "ws"),
    ("127.0.0.0/8, 10.0.0.0/8", [FOR + "6.6.6.6, 10.1.2.3, 10.3.2.1"], "6.6.6.6", "ws"),
    ("127.0.0.0/8", [FOR + "6.6.6.6, 10.1.2.3"], "10.1.2.3", "ws"),
    ("*", [FOR + "6.6.6.6, 7.7.7.7"], "6.6.6.6", "ws"),
]


@pytest.mark.parametrize(("trusted", "says", "client", "scheme"), TABLE)
async def test_a_forwarded_address_is_believed_from_trusted_proxies_alone(
    trusted: str, says: list[str], client: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `*` whoever comes may say who it is: the first of the row."""
    caplog.set_level(logging.DEBUG, "app.api.ws")
    headers = UPGRADE + "".join(f"{line}\r\n" for line in says).encode()
    async with run_gateway(upstream="grpc://127.0.0.1:1", trusted_proxies=trusted) as gateway:
        assert (await ask(gateway, get(b"/ws/transcribe", headers))).status == 101
    seen = [record.getMessage() for record in caplog.records if record.name == "app.api.ws"]
    assert seen == [f"an upgrade from {client}, {scheme}"]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("", UNKNOWN),
        ("testclient", UNKNOWN),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:db8::1", "2001:db8::/64"),
    ],
)
def test_a_client_is_what_one_subscriber_has(host: str, network: str) -> None:
    assert network_of(host) == network
