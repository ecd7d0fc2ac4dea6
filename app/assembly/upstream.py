"""The upstream: which API it speaks, how it is reached, and what makes a recognizer for a session."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

import grpc

from app.core.audio import AudioFormat
from app.core.breaker import Breaker
from app.core.errors import SessionError, invalid
from app.core.protocol import Audio, SessionConfig
from app.core.recognition import Event
from app.core.session import Session
from app.embedded import EmbeddedEmulator
from app.emulator.models import ModelMissing, require_packages
from app.live import Recognize, Recognizer
from app.settings import Settings, SettingsError
from app.speech import languages
from app.speech.dialect import Dialect
from app.speech.elsewhere import connector
from app.speech.gate import LEAD_IN_SECONDS, Gate
from app.speech.google import GoogleRecognizer
from app.speech.limits import LegLimits
from app.speech.pool import CHANNEL_OPTIONS, Pool, PoolLimits

if TYPE_CHECKING:
    from app.speech.credentials import GoogleAccess

log = logging.getLogger(__name__)

PROXIED = {"grpc", "https", "http"}
"""What is in the way of gRPC's core where the environment names an HTTP proxy for it: `https_proxy` and the like."""
READY_SECONDS = 1.0
"""How long /readyz waits for the upstream to answer."""


def account(settings: Settings) -> "GoogleAccess | None":
    """At Google, where that is the upstream. Raises SettingsError."""
    if settings.upstream != "google":
        return None
    from app.speech.credentials import NoCredentials, google_access  # noqa: PLC0415 - half a second

    try:
        access = google_access(settings.google_credentials_file)
    except NoCredentials as error:
        raise SettingsError(str(error)) from error
    if settings.grpc == "asyncio" and not access.signs_itself:
        raise SettingsError(
            "GATEWAY_GRPC=asyncio: with Google it needs a service account's key (GATEWAY_GOOGLE_CREDENTIALS_FILE); "
            "other credentials ask for their tokens in threads: GATEWAY_GRPC=core"
        )
    return access


def check_emulator(settings: Settings) -> None:
    """Raises SettingsError."""
    if settings.upstream != "emulator":
        return
    try:
        require_packages()
    except ModelMissing as error:
        raise SettingsError(f"GATEWAY_UPSTREAM=emulator: {error}, or set GATEWAY_UPSTREAM=google") from error


def dialect_of(settings: Settings, access: "GoogleAccess | None") -> Dialect:
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
    settings: Settings, access: "GoogleAccess | None", stack: AsyncExitStack
) -> Callable[[], grpc.aio.Channel]:
    """What opens a channel to the upstream; starts the emulator where it is embedded."""
    if access is not None:
        if over_core(settings, access):
            return lambda: access.connect(settings.google_location, CHANNEL_OPTIONS)
        from app.speech import pure  # noqa: PLC0415 - one of the two is enough

        return pure.google(access, settings.google_location)
    address = settings.grpc_address
    if address is None:
        emulator = EmbeddedEmulator(settings.emulator_workers)
        stack.push_async_callback(emulator.stop)
        address = await emulator.start()
    if over_core(settings, None):
        return connector(address, settings.upstream_tls, CHANNEL_OPTIONS)
    from app.speech import pure  # noqa: PLC0415

    return pure.elsewhere(address, settings.upstream_tls)


def over_core(settings: Settings, access: "GoogleAccess | None") -> bool:
    """Over gRPC's C core; else over app/http2, which knows no HTTP proxies and has no threads for credentials."""
    if settings.grpc != "auto":
        return settings.grpc == "core"
    return access is not None and (not access.signs_itself or not PROXIED.isdisjoint(getproxies_environment()))


GateFor = Callable[[SessionConfig], Gate | None]


def gates(settings: Settings) -> GateFor:
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


def recognizers(
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


def language_codes(settings: Settings) -> tuple[str, ...]:
    if settings.language_codes:
        return settings.language_codes
    return languages.EMULATOR if settings.upstream == "emulator" else languages.GOOGLE


async def open_pool(settings: Settings, dialect: Dialect, access: "GoogleAccess | None", stack: AsyncExitStack) -> Pool:
    """Closed by the stack."""
    limits = PoolLimits(
        settings.streams_per_channel,
        settings.max_channels,
        settings.admission_seconds,
        streams=settings.upstream_streams,
        starts_per_minute=settings.upstream_starts_per_minute,
    )
    pool = Pool(await _connector(settings, access, stack), dialect.client, limits)
    stack.push_async_callback(pool.close)
    return pool


async def greet(pool: Pool, name: str) -> None:
    """Connects, and says in the log if nobody answers."""
    if not await pool.answers(READY_SECONDS):
        log.warning("the upstream, %s, does not answer: %s", name, await pool.why(READY_SECONDS))


async def trouble(pool: Pool, breaker: Breaker) -> str | None:
    """For /readyz: why no new session could be heard now."""
    if pool.full:
        return f"full: {pool.why_full}"
    if failing := breaker.says(asyncio.get_running_loop().time()):
        return f"upstream: Speech-to-Text fails: {failing}"
    return None if await pool.answers(READY_SECONDS) else "upstream: Speech-to-Text does not answer"
