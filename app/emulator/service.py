"""One StreamingRecognize call, of either version.

Whatever happens to a call (a message read, an event recognized, a limit passed) comes through one inbox, and one task
answers it: nothing is answered out of order, and there is one place where a response leaves and one where a call ends.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import grpc
import grpc.aio

from app.emulator import wire
from app.emulator.calls import Dialect, Refused, Terms
from app.emulator.faults import Point
from app.emulator.injection import Faults
from app.emulator.pool import Done, Lost, NoWorker, Pool, Recognition

log = logging.getLogger(__name__)

Handler = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[None]]
UNAVAILABLE = Refused(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
INTERNAL = Refused(grpc.StatusCode.INTERNAL, "Internal error encountered.")
DROP_FOR = 0.3  # seconds that a refused client may go on writing before it gets the status
_request_ids = count(1)


class HalfClosed:
    """The client sends nothing more."""


Inbox = asyncio.Queue[wire.Event | Done | Lost | Refused | HalfClosed]


def handler(dialect: Dialect, pool: Pool, languages: tuple[str, ...], faults: Faults) -> grpc.GenericRpcHandler:
    """The method of one version's service, for a server."""

    async def streaming_recognize(_: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        await Call(dialect, pool, languages, faults, context).run()

    method = grpc.stream_stream_rpc_method_handler(
        streaming_recognize,
        request_deserializer=dialect.request.FromString,
        response_serializer=dialect.response.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(dialect.service, {"StreamingRecognize": method})


class Call:
    """From the config to the status."""

    def __init__(
        self,
        dialect: Dialect,
        pool: Pool,
        languages: tuple[str, ...],
        faults: Faults,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        self._dialect = dialect
        self._pool = pool
        self._languages = languages
        self._context = context
        self._inbox: Inbox = asyncio.Queue()
        self._leave = faults.leave
        self._faults = faults.enter(dialect, context.peer(), self._inbox.put_nowait)
        self._request_id = next(_request_ids)
        self._terms: Terms | None = None
        self._recognition: Recognition | None = None
        self._dropping = False
        self._bytes = 0
        self._finals = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        limit = self._faults.options.stream_limit
        timer = loop.call_later(limit, self._inbox.put_nowait, self._dialect.too_long(limit))
        reader = asyncio.create_task(self._read())
        refusal = None
        try:
            await self._answer()
        except Refused as refused:
            refusal = refused
        finally:
            timer.cancel()
            self._leave(self._faults)
            if self._recognition:
                self._recognition.close()
            await self._stop(reader)
        log.info(
            "stream %d closed: %d bytes, %d finals, %s", self._request_id, self._bytes, self._finals, refusal or "OK"
        )
        if refusal and refusal.code is not grpc.StatusCode.OK:
            await self._context.abort(refusal.code, refusal.text)

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        """grpc wants no reader parked when the call ends."""
        try:
            if self._dropping:
                await asyncio.wait([reader])
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self) -> None:
        """Messages to the worker, as fast as it recognizes: what is not read pushes back on the client."""
        try:
            self._terms = self._dialect.read_terms(await self._next_message(), self._languages)
            self._faults.opened()
            self._recognition = self._pool.open(self._terms.recognition, self._deliver)
            while True:
                await self._faults.reading.passed()
                audio = self._dialect.read_audio(await self._next_message())
                self._bytes += len(audio)
                self._faults.heard(self._seconds())
                await self._recognition.send(audio)
        except EOFError:
            self._inbox.put_nowait(HalfClosed())
        except Refused as refused:
            await self._refuse(refused)
        except NoWorker:
            await self._refuse(UNAVAILABLE)
        except Exception:
            log.exception("stream %d failed", self._request_id)
            self._inbox.put_nowait(INTERNAL)

    async def _refuse(self, refused: Refused) -> None:
        """A status that meets a write on its way is masked in grpc.aio's client: let one that writes at once finish."""
        self._dropping = True
        self._inbox.put_nowait(refused)
        with suppress(TimeoutError):
            async with asyncio.timeout(DROP_FOR):
                while await self._context.read() is not grpc.aio.EOF:
                    pass

    def _deliver(self, event: wire.Event | Done | Lost) -> None:
        self._faults.recognized(event)
        self._inbox.put_nowait(event)

    async def _next_message(self) -> Any:
        """Only the time spent waiting for the client counts as idle."""
        loop = asyncio.get_running_loop()
        idle = loop.call_later(self._faults.options.idle_limit, self._inbox.put_nowait, self._dialect.idle())
        try:
            message = await self._context.read()
        finally:
            idle.cancel()
        if message is grpc.aio.EOF:
            raise EOFError
        return message

    async def _answer(self) -> None:
        """Until everything is said and the client has half-closed, or the server closes by itself. Raises Refused."""
        half_closed = done = False
        while not (done and half_closed):
            message = await self._inbox.get()
            await self._faults.saying.passed()
            match message:
                case Refused() as refused:
                    raise refused
                case Lost():
                    raise UNAVAILABLE
                case HalfClosed():
                    half_closed = True
                    if self._terms is None or self._recognition is None:
                        return
                    self._faults.reach(Point.CLOSE)
                    self._recognition.end()
                case Done():
                    done = True
                case event:
                    await self._say(event)
                    if isinstance(event, (wire.SilenceTooLong, wire.UtteranceOver)):
                        half_closed = self._finish_early() or half_closed
        self._faults.reach(Point.END)
        await self._faults.saying.passed()
        await self._context.write(self._dialect.last_response(self._billed_seconds(), self._request_id))

    def _finish_early(self) -> bool:
        """Nothing more is recognized. Whether the call ends without waiting for the client."""
        assert self._terms
        assert self._recognition
        if self._terms.closes_itself:
            self._recognition.end()
        return self._terms.closes_itself

    async def _say(self, event: wire.Event) -> None:
        assert self._terms
        first = self._finals == 0
        self._finals += isinstance(event, wire.Final)
        response = self._dialect.response_for(event, self._terms, first=first, request_id=self._request_id)
        await self._faults.hold(event)
        if response is not None:
            for _ in range(self._faults.interims if isinstance(event, wire.Interim) else 1):
                await self._context.write(response)
        self._faults.said(event)

    def _billed_seconds(self) -> int:
        """Every second begun."""
        return math.ceil(self._seconds())

    def _seconds(self) -> float:
        """Of audio."""
        assert self._terms
        recognition = self._terms.recognition
        width = 2 if recognition.encoding == "LINEAR16" else 1
        return self._bytes / width / recognition.rate
