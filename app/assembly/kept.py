"""What outlives a session, or a process: the store, and the books of who has had how much."""

import asyncio

from app.core.grant import Allowance
from app.quota.books import Books, Lease, MemoryBooks
from app.quota.quota import QuotaTerms
from app.settings import Settings, SettingsError
from app.store import MemoryStore, Store


def store_of(settings: Settings) -> Store:
    """Raises SettingsError."""
    url = settings.store.get_secret_value()
    if url == "memory://":
        return MemoryStore(asyncio.get_running_loop().time)
    from app.store_redis import RedisStore  # noqa: PLC0415 - not for a gateway that stands alone

    try:
        return RedisStore(url)
    except ValueError as error:
        raise SettingsError(f"GATEWAY_STORE: {error}") from error


def books_of(settings: Settings, store: Store) -> Books:
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


def quota_terms(settings: Settings) -> QuotaTerms:
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
