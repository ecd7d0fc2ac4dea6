"""Faults at run time: a gRPC method on the emulator's own port, JSON in and out, and the command that calls it.

python -m app.emulator.control [--address HOST:PORT] [--seed N] SPEC... | clear | show
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from app.emulator.faults import BadSpec
from app.emulator.injection import Faults, NoForwarder
from app.emulator.options import Options

SERVICE = "captions.emulator.v1.Control"
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)  # not one that is to be reset


def control(faults: Faults) -> grpc.GenericRpcHandler:
    """Set and Show, for a server."""

    async def set_(request: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        try:
            wanted = json.loads(request)
            faults.set([*map(str, wanted["specs"])], int(wanted["seed"]), context.peer())
        except NoForwarder as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except (BadSpec, ValueError, KeyError, TypeError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return json.dumps(faults.state).encode()

    async def show(_: bytes, __: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        return json.dumps(faults.state).encode()

    methods: dict[str, Any] = {"Set": set_, "Show": show}
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


async def set_faults(address: str, specs: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """These and no others from now on; none clears. What `show_faults` says. Raises grpc.aio.AioRpcError."""
    return await _ask(address, "Set", {"specs": [*specs], "seed": seed})


async def show_faults(address: str) -> dict[str, Any]:
    """Specs, seed, `streams` since they were set, those `open`, how often each spec was `injected`."""
    return await _ask(address, "Show", {})


async def _ask(address: str, method: str, question: dict[str, Any]) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(address, options=OWN_CONNECTION) as channel:
        ask: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        answer: dict[str, Any] = json.loads(await ask(json.dumps(question).encode()))
        return answer


def main() -> int:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m app.emulator.control", description="Faults of a running emulator.")
    parser.add_argument("--address", default=f"{default.host}:{default.port}", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(default: %(default)s)")
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="what to inject from now on; or: clear, show")
    arguments = parser.parse_args()
    match arguments.specs:
        case ["show"]:
            asked = show_faults(arguments.address)
        case ["clear"]:
            asked = set_faults(arguments.address, [])
        case specs:
            asked = set_faults(arguments.address, specs, arguments.seed)
    try:
        state = asyncio.run(asked)
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"{error.details()}\n")
        return 1
    sys.stdout.write(f"{json.dumps(state, indent=2)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
