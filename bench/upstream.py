"""`python -m bench.upstream`: a scripted Speech-to-Text in a process of its own. Says where it is, until SIGTERM."""

import asyncio
import signal

from tests.upstream import ScriptedUpstream


async def _serve() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with ScriptedUpstream() as upstream:
        print(upstream.address, flush=True)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
