"""How a client could come: with a credential of any kind and state, or with an upgrade that nobody would write."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from websockets.typing import Origin, Subprotocol

from tests.credentials import Keyring


@dataclass(frozen=True)
class Door:
    """How it comes, as arguments of a client's `connect`, but for `token`, which goes into the URL."""

    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    token: str | None = None

    def arguments(self) -> dict[str, Any]:
        return {
            "additional_headers": list(self.headers),
            "subprotocols": [Subprotocol(name) for name in self.subprotocols] or None,
            "origin": Origin(self.origin) if self.origin is not None else None,
        }


NO_DOOR = Door()
WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.~", min_size=1, max_size=40)


def bearer(token: str) -> Door:
    return Door(headers=(("Authorization", f"Bearer {token}"),))


def doors(ring: Keyring) -> st.SearchStrategy[Door]:
    """Half of them let their visitor in."""
    good = [ring.keys["app"], ring.signed(), ring.signed("ES256")]
    wrong = [
        ring.keys["ops"],
        ring.signed(aud="others"),
        ring.signed(exp=1),
        ring.signed(key="x" * 32),
        "cgt_none",
        "a.b.c",
    ]
    tokens = st.sampled_from(wrong) | WORD | st.sampled_from(good).map(lambda token: token[:-1])
    scheme = st.sampled_from(["Bearer ", "bearer  ", "Basic ", "Bearer", ""])
    return st.one_of(
        st.sampled_from(good).map(bearer),
        st.sampled_from(good).map(lambda token: Door(subprotocols=("stt.v1", f"bearer.{token}"))),
        tokens.map(bearer),
        st.builds(
            Door,
            headers=st.lists(st.builds(lambda s, t: ("Authorization", s + t), scheme, tokens), max_size=2).map(tuple),
            subprotocols=st.lists(WORD | tokens.map(lambda token: f"bearer.{token}"), max_size=3, unique=True).map(
                tuple
            ),
            origin=st.none() | st.sampled_from(["null", "https://evil.example", "http://127.0.0.1", "x"]),
            token=st.none() | tokens,
        ),
    )


# Upgrades by hand -------------------------------------------------------------------------------

LINES = [
    b"GET /ws/transcribe HTTP/1.1",
    b"Host: gateway",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]
MORE = [
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    b"Sec-WebSocket-Protocol: stt.v1, bearer.\xff",
    b"Authorization: Bearer \xe9\x00",
    b"Authorization: Basic Og==",
    b"Origin: http://[::1",
    b"Origin: \xff",
    b"X-Forwarded-For: 1.2.3.4, \xff, unknown",
    b"X-Forwarded-Proto: \xffwss",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Sec-WebSocket-Version: 8",
    b"Host: \xff:99999",
    b"X: " + b"x" * 9000,
]
TARGETS = [
    b"/",
    b"/ws/transcribe?token=%ff%00",
    b"/ws/transcribe?token=a&token=b",
    b"/ws/%2e%2e/metrics",
    b"//ws",
    b"*",
]


@st.composite
def upgrades(draw: st.DrawFn) -> bytes:
    """The head of a request: a line more, less, twice, torn or with other bytes in it. It has an end."""
    lines = list(LINES)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["more", "drop", "twice", "tear", "target", "method"])):
            case "more":
                lines.insert(max(1, at), draw(st.sampled_from(MORE) | st.binary(max_size=30)))
            case "drop" if len(lines) > 1:
                del lines[max(1, at)]
            case "twice":
                lines.insert(max(1, at), lines[at])
            case "tear":
                cut = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + draw(st.binary(max_size=4)) + lines[at][cut + 1 :]
            case "target":
                lines[0] = b"GET " + draw(st.sampled_from(TARGETS)) + b" HTTP/1.1"
            case _:
                lines[0] = draw(st.sampled_from([b"POST", b"HEAD", b"get", b"PRI"])) + lines[0][3:]
    return b"\r\n".join(lines) + b"\r\n\r\n"
