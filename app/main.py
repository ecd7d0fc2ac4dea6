"""Puts everything together. Knows everybody; nobody knows it.

Settings -> Dialect (v1 or v2) + Pool (channels) -> GoogleRecognizer for each session -> Hub -> FastAPI
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import httpx
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from app import __doc__ as description
from app import drain
from app.api import docs, http, tokens, transcripts, ws
from app.api.access import Access
from app.api.headers import SecureResponses
from app.api.limits import ConnectionLimits
from app.auth.authenticator import Authenticator
from app.auth.jwks import KeyFile, KeyUrl
from app.auth.keys import ApiKeys
from app.auth.one_time import OneTimeTokens
from app.auth.signed import PublicKeys, SignedTokens
from app.auth.watched import FileError
from app.core.audio import AudioFormat
from app.core.breaker import Breaker
from app.core.errors import SessionError, invalid
from app.core.grant import Allowance
from app.core.protocol import SUBPROTOCOL, Audio, SessionConfig
from app.core.recognition import Event
from app.core.session import Session
from app.embedded import EmbeddedEmulator
from app.emulator.models import ModelMissing, require_packages, sample_recording
from app.garbage import sweeping
from app.hub import Hub, HubLimits
from app.journal import Journal, Terms
from app.live import Recognize, Recognizer
from app.logs import on_loop_exception
from app.metrics import Metrics
from app.quota.books import Books, Lease, MemoryBooks
from app.quota.quota import Quota, QuotaTerms
from app.registry import Registry
from app.settings import Settings, SettingsError
from app.signals import before_the_end
from app.speech import languages
from app.speech.credentials import GoogleAccess, NoCredentials, google_access
from app.speech.dialect import Dialect
from app.speech.elsewhere import connector
from app.speech.gate import LEAD_IN_SECONDS, Gate
from app.speech.google import GoogleRecognizer
from app.speech.limits import LegLimits
from app.speech.pool import CHANNEL_OPTIONS, Pool, PoolLimits
from app.store import MemoryStore, Store

log = logging.getLogger(__name__)

BREAKER_FAILURES, BREAKER_SECONDS = 20, 5.0
"""So many failed legs in a row, of whatever session, and nobody tries for so long; then one does."""
READY_SECONDS = 1.0
"""How long /readyz waits for the upstream to answer."""


def create_app(settings: Settings) -> FastAPI:
    """Everything but the sockets. Raises SettingsError when the settings cannot work together."""
    access = _google_access(settings) if settings.upstream == "google" else None
    _check_emulator(settings)
    dialect = _dialect(settings, access)
    codes = _language_codes(settings)
    gate_for = _gates(settings)
    api_keys = _api_keys(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        asyncio.get_running_loop().set_exception_handler(on_loop_exception)
        async with AsyncExitStack() as stack:
            pool = Pool(
                await _connector(settings, access, stack),
                dialect.client,
                PoolLimits(
                    settings.streams_per_channel,
                    settings.max_channels,
                    settings.admission_seconds,
                    streams=settings.upstream_streams,
                    starts_per_minute=settings.upstream_starts_per_minute,
                ),
            )
            stack.push_async_callback(pool.close)
            if not await pool.answers(READY_SECONDS):
                log.warning("the upstream, %s, does not answer: %s", settings.upstream, await pool.why(READY_SECONDS))
            breaker = Breaker(BREAKER_FAILURES, BREAKER_SECONDS)
            app.state.upstream_trouble = lambda: _upstream_trouble(pool, breaker)
            recognize = _recognize(settings, dialect, pool, breaker=breaker, codes=codes, gate_for=gate_for)
            terms = Terms(settings.resume_window_seconds, settings.retention_seconds)
            app.state.store = store = _store(settings)
            journal = await stack.enter_async_context(Journal(store, terms))
            quota = await stack.enter_async_context(Quota(_books(settings, store), _quota_terms(settings), time.time))
            registry = await stack.enter_async_context(Registry(journal, settings.resume_window_seconds))
            stack.push_async_callback(drain.close, registry)
            authenticator = _authenticator(settings, api_keys, await _public_keys(settings, stack), store)
            app.state.access = _access(settings, authenticator)
            redeem = authenticator.one_time_tokens.redeem
            app.state.hub = hub = Hub(
                recognize, _hub_limits(settings), metrics, registry, redeem=redeem, quota=quota, wall_clock=time.time
            )
            app.state.close = lambda: drain.close(registry)
            await stack.enter_async_context(sweeping(hub))
            stack.enter_context(before_the_end(lambda: drain.drain(registry, settings.drain_seconds)))
            yield {"limits": _connection_limits(settings)}

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
    app.include_router(ws.router)
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


async def _upstream_trouble(pool: Pool, breaker: Breaker) -> str | None:
    """For /readyz: why no new session could be heard now."""
    if pool.full:
        return f"full: {pool.why_full}"
    if failing := breaker.says(asyncio.get_running_loop().time()):
        return f"upstream: Speech-to-Text fails: {failing}"
    return None if await pool.answers(READY_SECONDS) else "upstream: Speech-to-Text does not answer"


def _store(settings: Settings) -> Store:
    url = settings.store.get_secret_value()
    if url == "memory://":
        return MemoryStore(asyncio.get_running_loop().time)
    from app.store_redis import RedisStore  # noqa: PLC0415 - not for a gateway that stands alone

    try:
        return RedisStore(url)
    except ValueError as error:
        raise SettingsError(f"GATEWAY_STORE: {error}") from error


def _api_keys(settings: Settings) -> ApiKeys | None:
    if settings.api_keys_file is None:
        return None
    try:
        return ApiKeys(settings.api_keys_file)
    except FileError as error:
        raise SettingsError(f"GATEWAY_API_KEYS_FILE: {error}") from error


async def _public_keys(settings: Settings, stack: AsyncExitStack) -> PublicKeys | None:
    source = settings.jwt_jwks
    if source is None:
        return None
    if "://" in source:
        client = await stack.enter_async_context(httpx.AsyncClient())
        return KeyUrl(source, client, asyncio.get_running_loop().time)
    return _key_file(Path(source))


def _key_file(path: Path) -> KeyFile:
    try:
        return KeyFile(path)
    except FileError as error:
        raise SettingsError(f"GATEWAY_JWT_JWKS: {error}") from error


def _authenticator(
    settings: Settings, api_keys: ApiKeys | None, public_keys: PublicKeys | None, store: Store
) -> Authenticator:
    signed_tokens = None
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
    if settings.jwt_audience is not None and (secret or public_keys):
        signed_tokens = SignedTokens(
            secret=secret, keys=public_keys, audience=settings.jwt_audience, issuer=settings.jwt_issuer
        )
    lasts = settings.max_session_seconds + settings.resume_window_seconds + settings.retention_seconds
    one_time_tokens = OneTimeTokens(store, api_keys, session_seconds=lasts, wall_clock=time.time)
    return Authenticator(api_keys, signed_tokens, one_time_tokens)


def _access(settings: Settings, authenticator: Authenticator) -> Access:
    return Access(
        authenticator,
        origins=settings.allowed_origins,
        open_routes=settings.open_routes,
        failures_per_minute=settings.auth_failures_per_minute,
        loopback_only=not settings.asks_who and settings.auth is None,
    )


def _books(settings: Settings, store: Store) -> Books:
    """Where it is counted how much each has had: beside the sessions, and by this process alone while that is away."""
    clock = asyncio.get_running_loop().time
    lease = Lease(known=settings.resume_window_seconds)
    own = MemoryBooks(clock, lease)
    if isinstance(store, MemoryStore):
        return own
    from app.quota.books_redis import RedisBooks  # noqa: PLC0415 - not for a gateway that stands alone
    from app.quota.books_safe import SafeBooks  # noqa: PLC0415
    from app.store_redis import RedisStore  # noqa: PLC0415

    assert isinstance(store, RedisStore)
    return SafeBooks(RedisBooks(store, lease), own, clock)


def _quota_terms(settings: Settings) -> QuotaTerms:
    return QuotaTerms(
        principal=Allowance(
            max_sessions=settings.principal_sessions,
            starts_per_minute=settings.principal_starts_per_minute,
            audio_seconds_per_day=settings.principal_audio_seconds_per_day,
            budget_seconds=settings.principal_budget_seconds,
        ),
        everybody=Allowance(
            starts_per_minute=settings.total_starts_per_minute,
            audio_seconds_per_day=settings.total_audio_seconds_per_day,
            budget_seconds=settings.total_budget_seconds,
        ),
    )


def _google_access(settings: Settings) -> GoogleAccess:
    try:
        return google_access(settings.google_credentials_file)
    except NoCredentials as error:
        raise SettingsError(str(error)) from error


def _check_emulator(settings: Settings) -> None:
    if settings.upstream != "emulator":
        return
    try:
        require_packages()
    except ModelMissing as error:
        raise SettingsError(f"GATEWAY_UPSTREAM=emulator: {error}, or set GATEWAY_UPSTREAM=google") from error


def _dialect(settings: Settings, access: GoogleAccess | None) -> Dialect:
    """Imports only the version in use: each takes a second."""
    if settings.speech_api == "v1":
        from app.speech.v1 import SpeechV1  # noqa: PLC0415

        dialect: Dialect = SpeechV1(model=settings.model, activity_events=settings.voice_activity_events)
    else:
        from app.speech.v2 import SpeechV2  # noqa: PLC0415

        project = settings.google_project or (access.project if access else "local")
        if project is None:
            raise SettingsError("GATEWAY_GOOGLE_PROJECT: is missing, and the credentials name no project")
        dialect = SpeechV2(
            project=project,
            location=settings.google_location,
            model=settings.model,
            activity_events=settings.voice_activity_events,
        )
    if settings.model is not None and settings.model not in dialect.models:
        raise SettingsError(f"GATEWAY_MODEL: {settings.model!r} is none of {', '.join(dialect.models)}")
    try:
        dialect.check(SessionConfig(Audio("LINEAR16", 16_000), ["en-US"]))
    except SessionError as error:
        raise SettingsError(
            f"GATEWAY_MODEL: {settings.model!r} needs a region: GATEWAY_GOOGLE_LOCATION must be one, "
            f"such as us-central1, not {settings.google_location!r}"
        ) from error
    return dialect


async def _connector(
    settings: Settings, access: GoogleAccess | None, stack: AsyncExitStack
) -> Callable[[], grpc.aio.Channel]:
    """What opens a channel to the upstream; starts the emulator where it is embedded."""
    if access is not None:
        return lambda: access.connect(settings.google_location, CHANNEL_OPTIONS)
    address = settings.grpc_address
    if address is None:
        emulator = EmbeddedEmulator(settings.emulator_workers)
        stack.push_async_callback(emulator.stop)
        address = await emulator.start()
    return connector(address, settings.upstream_tls, CHANNEL_OPTIONS)


GateFor = Callable[[SessionConfig], Gate | None]


def _gates(settings: Settings) -> GateFor:
    """A silence gate for each session, if they are to have one. Not where a voice-activity timeout was asked for: the
    upstream counts the very silence."""
    if not settings.silence_gate:
        return lambda _: None
    try:
        from app.speech.voice import Voice, VoiceModel  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise SettingsError(
            f"GATEWAY_SILENCE_GATE=true: {error.name} is missing; "
            "install the extra: pip install 'captions-gateway[gate]'"
        ) from error
    model = VoiceModel()

    def gate_for(config: SessionConfig) -> Gate | None:
        if config.voice_activity_timeout is not None:
            return None
        audio = AudioFormat.of(config.audio)
        patience, lead_in = (audio.offset(1000 * s) for s in (settings.silence_gate_seconds, LEAD_IN_SECONDS))
        return Gate(Voice(model, audio), patience=patience, lead_in=lead_in)

    return gate_for


def _recognize(
    settings: Settings,
    dialect: Dialect,
    pool: Pool,
    *,
    breaker: Breaker,
    codes: tuple[str, ...],
    gate_for: GateFor,
) -> Recognize:
    limits = LegLimits(
        chunk_ms=settings.chunk_ms,
        queue=settings.queue_seconds,
        replay=settings.replay_seconds,
        speed=settings.upstream_speed,
        idle=settings.leg_idle_seconds,
        pause=settings.leg_pause_seconds,
        quiet=settings.leg_quiet_seconds,
        utterance=settings.max_utterance_seconds,
        soft=settings.leg_soft_limit_seconds,
        hard=settings.leg_hard_limit_seconds,
        answer=settings.answer_seconds,
    )

    def recognize(session: Session, listen: Callable[[Event], None]) -> Recognizer:
        for index, code in enumerate(session.config.language_codes):
            if code not in codes:
                raise invalid(f"language_codes[{index}]", code, f"one of {', '.join(codes)}")
        dialect.check(session.config)
        return GoogleRecognizer(
            session.config,
            dialect=dialect,
            pool=pool,
            breaker=breaker,
            limits=limits,
            gate=gate_for(session.config),
            listen=listen,
        )

    return recognize


def _language_codes(settings: Settings) -> tuple[str, ...]:
    if settings.language_codes:
        return settings.language_codes
    return languages.EMULATOR if settings.upstream == "emulator" else languages.GOOGLE


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
        needs_store=settings.store_away == "refuse",
    )


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        request_seconds=settings.request_timeout_seconds,
        head_bytes=settings.max_request_head_bytes,
        body_bytes=settings.max_request_body_bytes,
        waiting=settings.max_waiting_connections,
        frame_bytes=settings.max_frame_bytes,
        messages_per_second=settings.max_messages_per_second,
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
