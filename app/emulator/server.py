"""The server: both services and the control on one port, the workers behind them.

Where faults of connections are wanted the port is a forwarder's, and the server behind it.
"""

import grpc
import grpc.aio

from app.emulator.api_v1 import V1
from app.emulator.api_v2 import V2
from app.emulator.control import control
from app.emulator.forwarder import Forwarder
from app.emulator.injection import Faults
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
        """Raises BadSpec."""
        self.options = options
        self.faults = Faults(options)
        self.pool = Pool(options)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """The port it listens on. Raises ModelMissing, WorkerFailed, RuntimeError or OSError (address not free)."""
        speech_model(self.options.model)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        languages = self.options.languages
        services = [handler(api, self.pool, languages, self.faults) for api in (V1(), V2())]
        self._server.add_generic_rpc_handlers([*services, control(self.faults)])
        address = f"{self.options.host}:{self.options.port}"
        port = self._open(self._server, "127.0.0.1:0" if self.faults.wants_forwarder else address)
        try:
            await self.pool.start()
        except BaseException:
            await self.pool.stop()
            raise
        await self._server.start()
        return await self._forward(port) if self.faults.wants_forwarder else port

    async def stop(self) -> None:
        """Calls in flight are cancelled."""
        if self._server:
            await self._server.stop(None)
        if self.faults.forwarder:
            await self.faults.forwarder.stop()
        await self.pool.stop()

    def _open(self, server: grpc.aio.Server, address: str) -> int:
        certificate, key, authority = self.options.tls_certificate, self.options.tls_key, self.options.client_ca
        if certificate is None or key is None:
            return server.add_insecure_port(address)
        pairs = [(key.read_bytes(), certificate.read_bytes())]
        asked = authority.read_bytes() if authority else None
        return server.add_secure_port(address, grpc.ssl_server_credentials(pairs, asked, asked is not None))

    async def _forward(self, backend: int) -> int:
        self.faults.forwarder = Forwarder(self.options.host, self.options.port, backend)
        try:
            return await self.faults.forwarder.start()
        except BaseException:
            await self.stop()
            raise
