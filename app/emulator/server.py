"""The server: both services on one port, the workers behind them."""

import grpc
import grpc.aio

from app.emulator.api_v1 import V1
from app.emulator.api_v2 import V2
from app.emulator.models import ModelMissing, speech_model
from app.emulator.options import Options
from app.emulator.pool import Pool
from app.emulator.service import handler

__all__ = ["Emulator", "ModelMissing", "Options"]

SERVER_OPTIONS = (
    ("grpc.max_concurrent_streams", 100),  # Google's, per connection
    ("grpc.max_receive_message_length", -1),  # each version has its own limit, and its own text for it
    ("grpc.so_reuseport", 0),  # a port in use is an error
)


class Emulator:
    """`port = await start()` when every model is loaded; `await stop()` ends the calls and the workers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pool = Pool(options)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """The port it listens on. Raises ModelMissing, WorkerFailed, RuntimeError (the address is not free)."""
        speech_model(self.options.model)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers([handler(api, self.pool, self.options) for api in (V1(), V2())])
        port = self._server.add_insecure_port(f"{self.options.host}:{self.options.port}")
        try:
            await self.pool.start()
        except BaseException:
            await self.pool.stop()
            raise
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Calls in flight are cancelled."""
        if self._server:
            await self._server.stop(None)
        await self.pool.stop()
