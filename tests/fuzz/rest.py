"""The REST routes under schemathesis: requests made from the gateway's own OpenAPI document, right ones and wrong ones.

What must hold: no failure of ours, and every answer as the document says. Its requests block, so the gateway is a
process of its own, and so is its upstream.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import schemathesis
import uvloop
from hypothesis import given
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import missing_required_header, positive_data_acceptance
from websockets.sync.client import connect

from tests.credentials import Keyring
from tests.fuzz.rounds import play_once
from tests.gateway import START
from tests.process import Process, run_process

UNTRUE = [
    positive_data_acceptance,  # a session's id is not in the document: a right request is answered 404
    missing_required_header,
]
Ask = Callable[[], None]
"""Under hypothesis."""


@dataclass
class Elsewhere:
    """A gateway that keeps one session's transcript."""

    url: str
    process: Process
    http: requests.Session
    session_id: str = ""

    def speak(self, token: str | None) -> None:
        with connect(self.url.replace("http", "ws") + "/ws/transcribe", additional_headers=bearer(token)) as socket:
            socket.send(json.dumps(START))
            self.session_id = json.loads(socket.recv())["session_id"]
            socket.send(bytes(64_000))
            socket.send('{"type": "stop"}')
            for _ in socket:
                pass

    def document(self, *, asks_who: bool) -> dict[str, Any]:
        answer = self.http.get(f"{self.url}/openapi.json")
        assert answer.status_code == 200, answer.text
        described: dict[str, Any] = answer.json()
        if not asks_who:
            for operation in (operation for path in described["paths"].values() for operation in path.values()):
                operation.pop("security", None)
        return described


def requests_of_anybody(number: int, folder: Path, first: int | None = None) -> Counter[str]:
    """Nobody is asked who they are. Raises for the first answer that is not as it should be."""
    with elsewhere(folder) as gateway:
        gateway.speak(None)
        described = gateway.document(asks_who=False)
        return _ask_all(gateway, described, [None, "x"], number, first)


def requests_with_credentials(number: int, folder: Path, first: int | None = None) -> Counter[str]:
    """With a key, one that may only operate, none, and one that nobody has."""
    ring = Keyring(folder)
    with elsewhere(folder, auth_failures_per_minute=100_000, **ring.settings) as gateway:
        gateway.speak(ring.keys["app"])
        described = gateway.document(asks_who=True)
        return _ask_all(gateway, described, [ring.keys["app"], ring.keys["ops"], None, "x"], number, first)


def _ask_all(
    gateway: Elsewhere, described: dict[str, Any], tokens: list[str | None], number: int, first: int | None
) -> Counter[str]:
    ends: Counter[str] = Counter()
    turn = 0
    while ends.total() < number:
        for token in tokens:
            asks = list(_asks(gateway, described, token, ends))
            for ask in asks:
                with suppress(Unsatisfiable):  # a route without a parameter cannot be asked wrongly
                    play_once(ask, 1 + number // (len(asks) * len(tokens)), None if first is None else first + turn)
        turn += 1
    for line in gateway.process.log.splitlines():
        assert " ERROR " not in line and "Traceback" not in line, line
    return ends


def _asks(gateway: Elsewhere, described: dict[str, Any], token: str | None, ends: Counter[str]) -> Iterator[Ask]:
    """For each route right requests and wrong ones, and such for the session that there is. `ends` counts statuses."""

    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=gateway.url, session=gateway.http, headers=bearer(token))
        ends[str(response.status_code)] += 1
        case.validate_response(response, excluded_checks=UNTRUE)

    for result in schemathesis.openapi.from_dict(described).get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        for mode in GenerationMode:
            yield given(operation.as_strategy(mode))(ask)
        if "{session_id}" in operation.path:
            known = {"session_id": gateway.session_id}
            yield given(operation.as_strategy(path_parameters=known))(ask)


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@contextmanager
def elsewhere(folder: Path, **settings: Any) -> Iterator[Elsewhere]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        try:
            yield runner.run(_start(stack, folder, settings))
        finally:
            runner.run(stack.aclose())


async def _start(stack: AsyncExitStack, folder: Path, settings: dict[str, Any]) -> Elsewhere:
    places = [folder / "upstream", folder / "gateway"]
    for place in places:
        place.mkdir()
    upstream = await stack.enter_async_context(run_process(places[0], "bench.upstream"))
    assert upstream.child.stdout is not None
    address = (await upstream.child.stdout.readline()).decode().strip()
    process = await stack.enter_async_context(
        run_process(places[1], upstream=f"grpc://{address}", open_routes="config,docs", **settings)
    )
    http = stack.enter_context(requests.Session())
    http.trust_env = False
    return Elsewhere((await process.gateway()).http, process, http)
