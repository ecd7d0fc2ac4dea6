"""`python -m bench.upstream [EVERY]`: a scripted Speech-to-Text as a process. Says where it is, until SIGTERM.

`EVERY`: the bytes that a final covers; a second of them, if nothing is said.
"""

import asyncio
import signal
import sys

from tests.upstream import BYTES_PER_SECOND, ScriptedUpstream, hears_bytes


async def _serve(every: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with ScriptedUpstream(hears_bytes(every)) as upstream:
        print(upstream.address, flush=True)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else BYTES_PER_SECOND))
