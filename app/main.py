"""Puts everything together. Knows everybody; nobody knows it.

Settings -> Dialect (v1 or v2) + Pool (channels) -> GoogleRecognizer for each session -> Hub -> FastAPI
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from app import __doc__ as description
from app import drain
from app.api import docs, http, tokens, transcripts, ws
from app.api.described import describe
from app.api.headers import SecureResponses
from app.assembly import doors, kept, upstream
from app.core.breaker import Breaker
from app.core.errors import SessionError
from app.core.protocol import SUBPROTOCOL
from app.emulator.models import sample_recording
from app.garbage import sweeping
from app.hub import Hub, HubLimits
from app.journal import Journal, Terms
from app.logs import on_loop_exception
from app.metrics import Metrics
from app.quota.quota import Quota
from app.registry import Registry
from app.settings import Settings
from app.signals import before_the_end
from app.speech.dialect import Dialect

BREAKER_FAILURES, BREAKER_SECONDS = 20, 5.0
"""So many failed legs in a row, of whatever session, and nobody tries for so long; then one does."""


def create_app(settings: Settings) -> FastAPI:
    """Everything but the sockets. Raises SettingsError when the settings cannot work together."""
    account = upstream.account(settings)
    upstream.check_emulator(settings)
    dialect = upstream.dialect_of(settings, account)
    codes = upstream.language_codes(settings)
    gate_for = upstream.gates(settings)
    api_keys, key_file = doors.api_keys_of(settings), doors.key_file_of(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        asyncio.get_running_loop().set_exception_handler(on_loop_exception)
        async with AsyncExitStack() as stack:
            pool = await upstream.open_pool(settings, dialect, account, stack)
            await upstream.greet(pool, settings.upstream)
            breaker = Breaker(BREAKER_FAILURES, BREAKER_SECONDS)
            app.state.upstream_trouble = lambda: upstream.trouble(pool, breaker)
            recognize = upstream.recognizers(settings, dialect, pool, breaker=breaker, codes=codes, gate_for=gate_for)
            terms = Terms(settings.resume_window_seconds, settings.retention_seconds)
            app.state.store = store = kept.store_of(settings)
            journal = await stack.enter_async_context(Journal(store, terms))
            books, shares = kept.books_of(settings, store), kept.quota_terms(settings)
            quota = await stack.enter_async_context(Quota(books, shares, time.time))
            registry = await stack.enter_async_context(Registry(journal, settings.resume_window_seconds))
            stack.push_async_callback(drain.close, registry)
            public_keys = await doors.public_keys_of(settings, key_file, stack)
            authenticator = doors.authenticator_of(settings, api_keys, public_keys, store)
            app.state.access = doors.access_of(settings, authenticator)
            redeem = authenticator.one_time_tokens.redeem
            app.state.hub = hub = Hub(
                recognize, _hub_limits(settings), metrics, registry, redeem=redeem, quota=quota, wall_clock=time.time
            )
            app.state.close = lambda: drain.close(registry)
            await stack.enter_async_context(sweeping(hub))
            stack.enter_context(before_the_end(lambda: drain.drain(registry, settings.drain_seconds)))
            yield {"limits": doors.connection_limits(settings)}

    app = SecureApp(
        title="Captions gateway",
        description=description or "",
        version="0.1.0",
        openapi_url=None,  # our own routes, for who may, and the page names what it may load
        redirect_slashes=False,  # a redirect would go wherever the request's Host says
        lifespan=lifespan,
    )
    app.include_router(http.router)
    app.include_router(docs.router)
    app.include_router(transcripts.router)
    app.include_router(tokens.router)
    app.routes.extend(ws.routes)
    describe(app)
    app.add_exception_handler(HTTPException, http.on_http_error)
    app.add_exception_handler(RequestValidationError, http.on_bad_request)
    app.add_exception_handler(SessionError, http.on_refusal)
    recording = sample_recording()
    app.state.sample_recording = recording.read_bytes() if recording else None
    app.state.metrics_page = metrics.page
    app.state.page_files = http.load_page()
    app.state.public_config = _public_config(settings, dialect, codes, has_sample=recording is not None)
    return app


class SecureApp(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """Middleware that is added comes inside of what answers an exception."""
        return SecureResponses(super().build_middleware_stack())


def _hub_limits(settings: Settings) -> HubLimits:
    return HubLimits(
        max_sessions=settings.max_sessions,
        start=settings.start_timeout_seconds,
        idle=settings.idle_timeout_seconds,
        silent=settings.silent_timeout_seconds,
        max_session=settings.max_session_seconds,
        send=settings.send_timeout_seconds,
        window=settings.replay_seconds,
        resume=settings.resume_window_seconds,
        frame_bytes=settings.max_frame_bytes,
        controls_per_second=settings.max_control_messages_per_second,
        needs_store=settings.store_away == "refuse",
    )


def _public_config(
    settings: Settings, dialect: Dialect, codes: tuple[str, ...], *, has_sample: bool
) -> http.PublicConfig:
    return http.PublicConfig(
        protocol=SUBPROTOCOL,
        authentication=settings.asks_who,
        speech_api=settings.speech_api,
        upstream=settings.upstream.partition(":")[0],
        model=settings.model or dialect.default_model,
        models=list(dialect.models),
        language_codes=list(codes),
        encodings=["LINEAR16", "MULAW", "ALAW"],
        sample_rate_hertz={"min": 8000, "max": 48000},
        sample_recording=has_sample,
        limits=http.Limits(
            max_frame_bytes=settings.max_frame_bytes,
            max_sessions=settings.max_sessions,
            window_seconds=settings.replay_seconds,
            max_session_seconds=settings.max_session_seconds,
        ),
        timers=http.Timers(
            start_timeout_seconds=settings.start_timeout_seconds,
            idle_timeout_seconds=settings.idle_timeout_seconds,
            silent_timeout_seconds=settings.silent_timeout_seconds,
            send_timeout_seconds=settings.send_timeout_seconds,
            ping_interval_seconds=settings.ping_interval_seconds,
            ping_timeout_seconds=settings.ping_timeout_seconds,
            resume_window_seconds=settings.resume_window_seconds,
        ),
    )
