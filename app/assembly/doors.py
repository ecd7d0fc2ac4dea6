"""Who comes in: how they say who they are, from where, and what their connections may do."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from app.api.access import Access
from app.api.limits import ConnectionLimits
from app.auth.authenticator import Authenticator
from app.auth.jwks import KeyFile
from app.auth.keys import ApiKeys
from app.auth.one_time import OneTimeTokens
from app.auth.signed import PublicKeys, SignedTokens
from app.auth.watched import FileError
from app.settings import Settings, SettingsError
from app.store import Store


def api_keys_of(settings: Settings) -> ApiKeys | None:
    """Raises SettingsError."""
    if settings.api_keys_file is None:
        return None
    try:
        return ApiKeys(settings.api_keys_file)
    except FileError as error:
        raise SettingsError(f"GATEWAY_API_KEYS_FILE: {error}") from error


def key_file_of(settings: Settings) -> KeyFile | None:
    """Raises SettingsError."""
    source = settings.jwt_jwks
    if source is None or "://" in source:
        return None
    try:
        return KeyFile(Path(source))
    except FileError as error:
        raise SettingsError(f"GATEWAY_JWT_JWKS: {error}") from error


async def public_keys_of(settings: Settings, key_file: KeyFile | None, stack: AsyncExitStack) -> PublicKeys | None:
    source = settings.jwt_jwks
    if source is None or key_file is not None:
        return key_file
    import httpx  # noqa: PLC0415 - takes a quarter of a second, and few have such a URL

    from app.auth.jwks_url import KeyUrl  # noqa: PLC0415

    client = await stack.enter_async_context(httpx.AsyncClient())
    return KeyUrl(source, client, asyncio.get_running_loop().time)


def authenticator_of(
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


def access_of(settings: Settings, authenticator: Authenticator) -> Access:
    return Access(
        authenticator,
        origins=settings.allowed_origins,
        open_routes=settings.open_routes,
        failures_per_minute=settings.auth_failures_per_minute,
        loopback_only=not settings.asks_who and settings.auth is None,
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        request_seconds=settings.request_timeout_seconds,
        head_bytes=settings.max_request_head_bytes,
        body_bytes=settings.max_request_body_bytes,
        waiting=settings.max_waiting_connections,
        frame_bytes=settings.max_frame_bytes,
        messages_per_second=settings.max_messages_per_second,
    )
