"""Every setting, and the only reader of the environment. Prefix `GATEWAY_`; a file `.env` is read too.

`.env.example` is `python -m app.settings`: every setting with its description and default.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.addresses import is_loopback
from app.core.protocol import LANGUAGE_CODE
from app.tls import BadPem, ChannelTls, ServerTls, check_authorities, check_pair

PREFIX = "GATEWAY_"
_GRPC = re.compile(r"^grpcs?://([^/\s:]+:(\d{1,5}))$", re.ASCII)
_LANGUAGE_CODE = re.compile(LANGUAGE_CODE)
"""As a client's `language_codes` are checked."""
_ORIGIN = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s?#]+/?$", re.ASCII | re.IGNORECASE)
OPEN_ROUTES = ("config", "metrics", "docs")
SHORTEST_SECRET = 32
"""Bytes, for HS256: RFC 7518, 3.2."""


class SettingsError(Exception):
    """A setting cannot be taken: one line for each, with the value and what is allowed."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    host: str = Field("127.0.0.1", description="Address to listen on. 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-For is believed: addresses or networks, comma-separated, or * for all.",
    )
    workers: int = Field(
        1, ge=1, le=64, description="Processes that serve. Several need a GATEWAY_STORE that they share."
    )
    tls_certificate_file: Path | None = Field(
        None, description="PEM file with the certificate and its chain: the gateway itself speaks TLS (https, wss)."
    )
    tls_key_file: Path | None = Field(None, description="PEM file with the certificate's private key, unencrypted.")
    tls_handshake_seconds: float = Field(
        10, gt=0, description="A client that has not finished its TLS handshake by then is dropped."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged.")

    auth: Literal["none"] | None = Field(
        None,
        description="none: everybody may use the gateway. Needed where it listens on more than loopback without keys.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="API keys, by their hashes (TOML; `transcribe key NAME` makes one); read anew when it changes.",
    )
    jwt_secret: SecretStr | None = Field(None, description="Secret of signed tokens (HS256), at least 32 bytes.")
    jwt_jwks: str | None = Field(
        None, description="Public keys of signed tokens (RS256, ES256): a JWKS file, or its https:// URL."
    )
    jwt_audience: str | None = Field(None, description="Audience (`aud`) that signed tokens must name.")
    jwt_issuer: str | None = Field(None, description="Issuer (`iss`) that signed tokens must name, if any.")
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Pages of other origins that may connect, such as https://app.example, comma-separated; or *.",
    )
    open_routes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("config",),
        description="Of config, metrics, docs: what everybody may read, or none; others want a key with `operate`.",
    )
    auth_failures_per_minute: int = Field(
        30, ge=1, description="Credentials of one address that are refused with 401; then with 429."
    )

    upstream: str = Field(
        "emulator",
        description="emulator (a local Speech-to-Text in child processes), google, grpc://HOST:PORT in plaintext, or "
        "grpcs://HOST:PORT with TLS.",
    )
    upstream_ca_file: Path | None = Field(
        None, description="For grpcs: PEM file with the authorities to trust; default: the public ones that gRPC ships."
    )
    upstream_certificate_file: Path | None = Field(
        None, description="For grpcs: PEM file with the gateway's own certificate, where the upstream asks for one."
    )
    upstream_key_file: Path | None = Field(None, description="PEM file with that certificate's key, unencrypted.")
    grpc: Literal["auto", "asyncio", "core"] = Field(
        "auto",
        description="How the upstream is spoken to: asyncio (HTTP/2 in Python, no threads), core (gRPC's C core, with "
        "its own), or auto: core to Google with other credentials than a service account's or through an HTTP proxy of "
        "the environment's, else asyncio.",
    )
    speech_api: Literal["v1", "v2"] = Field("v2", description="Version of the Speech-to-Text API: v2 or v1.")
    google_project: str | None = Field(None, description="Google Cloud project; default: the one of the credentials.")
    google_location: str = Field(
        "global",
        pattern=r"^[a-z0-9-]+$",
        description="Region of recognizer and endpoint: global, us, eu, us-central1...",
    )
    google_credentials_file: Path | None = Field(
        None, description="Key file of a service account; default: application default credentials."
    )
    model: str | None = Field(
        None, description="Model of sessions that name none; default: long (v2), latest_long (v1)."
    )
    language_codes: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Languages that sessions may ask for, comma-separated; default: all that the upstream has."
    )
    voice_activity_events: bool = Field(
        True,
        description="Always ask the upstream for voice activity: finals get their true start. Off for models without.",
    )
    emulator_workers: int = Field(0, ge=0, le=64, description="Child processes of the emulator; 0: one for each core.")

    max_sessions: int = Field(200, ge=1, description="Sessions at the same time; more are refused with 503.")
    principal_sessions: int = Field(
        4,
        ge=1,
        description="Sessions at the same time of one subject of signed tokens; API keys have their own bounds.",
    )
    principal_starts_per_minute: int = Field(20, ge=1, description="The same of sessions started in a minute.")
    principal_audio_seconds_per_day: int = Field(28_800, ge=1, description="The same of seconds of audio in a day.")
    principal_budget_seconds: int | None = Field(
        None, ge=1, description="The same of seconds that the upstream bills, in 30 days; default: no limit."
    )
    total_starts_per_minute: int | None = Field(
        None, ge=1, description="Sessions started in a minute, of all on all gateways; default: no limit."
    )
    total_audio_seconds_per_day: int | None = Field(
        None, ge=1, description="The same of seconds of audio in a day; default: no limit."
    )
    total_budget_seconds: int | None = Field(
        None, ge=1, description="The same of seconds that the upstream bills, in 30 days; default: no limit."
    )
    start_timeout_seconds: float = Field(10, gt=0, description="Time for the first message.")
    idle_timeout_seconds: float = Field(60, gt=0, description="A session without any frame for so long is closed 4408.")
    max_session_seconds: float = Field(14_400, gt=0, description="Longest session; then it is stopped in good order.")
    silent_timeout_seconds: float = Field(
        1800, gt=0, description="A session without any audio or gap for so long is closed 4408, keepalives or not."
    )
    send_timeout_seconds: float = Field(10, gt=0, description="A client that reads nothing for so long is closed 4408.")
    resume_window_seconds: float = Field(
        120, ge=0, description="A session without a connection waits so long for its client; 0: it ends with it."
    )
    store: SecretStr = Field(
        SecretStr("memory://"),
        description="What outlives a process is kept in memory:// (of this one) or redis://HOST:PORT/N, for several.",
    )
    store_away: Literal["open", "refuse"] = Field(
        "open", description="While the store is away new sessions are opened, without a promise, or refused."
    )
    retention_seconds: float = Field(
        600, ge=0, description="So long after its last word a session's transcript can be read."
    )
    drain_seconds: float = Field(
        25, ge=5, description="After SIGTERM sessions have so long to go elsewhere; then the gateway exits."
    )
    ping_interval_seconds: float = Field(10, gt=0, description="Interval of WebSocket pings.")
    ping_timeout_seconds: float = Field(
        10, gt=0, description="After a ping, a client without any byte for so long is dead."
    )

    max_frame_bytes: int = Field(
        65_536, ge=1024, le=1_048_576, description="Largest audio frame; a text frame may have twice as much."
    )
    max_messages_per_second: int = Field(
        500, ge=50, description="WebSocket frames of any kind; a client that sends more is read no faster."
    )
    max_control_messages_per_second: float = Field(
        20, ge=1, description="Messages other than audio; a client that sends more is read no faster."
    )
    request_timeout_seconds: float = Field(
        10, gt=0, description="Time for a whole request, from the connection's begin; then 408."
    )
    max_request_head_bytes: int = Field(
        16_384, ge=1024, le=1_048_576, description="Request line and headers; more is refused with 431."
    )
    max_request_body_bytes: int = Field(
        65_536, ge=1024, le=16_777_216, description="Body of a request; more is refused with 413."
    )
    max_waiting_connections: int = Field(
        500, ge=10, description="Connections without a whole request; over it, who has waited longest is closed."
    )

    chunk_ms: int = Field(100, ge=10, le=250, description="Small frames are gathered to so many milliseconds of audio.")
    queue_seconds: float = Field(
        2, ge=0.5, le=30, description="Audio that waits to go upstream before the client has to."
    )
    replay_seconds: float = Field(
        120, ge=10, description="Audio kept until its text is final: the bound on memory for each session."
    )
    upstream_speed: float = Field(
        2, ge=1, description="Fastest pace of audio upstream, in times real time (Google refuses bursts)."
    )
    leg_idle_seconds: float = Field(4, gt=0, description="Without audio for so long an upstream stream is ended.")
    leg_pause_seconds: float = Field(
        25, gt=0, description="Without audio for so long, what the ended stream said last becomes final."
    )
    leg_quiet_seconds: float = Field(
        30, gt=0, description="Silence after which the stream is changed, which settles it."
    )
    leg_soft_limit_seconds: float = Field(
        240, gt=0, description="Age at which a stream is changed after the next final, or in silence."
    )
    leg_hard_limit_seconds: float = Field(
        285, gt=0, description="Age at which it is changed in any case (Google: 300)."
    )
    max_utterance_seconds: float = Field(60, gt=0, description="Speech without a final after which one is forced.")
    answer_seconds: float = Field(
        10, gt=0, description="A stream that owes an answer and says nothing for so long is given up."
    )
    silence_gate: bool = Field(
        False, description="Leave long silence unheard, and unpaid. Needs the extra `gate` (part of `emulator`)."
    )
    silence_gate_seconds: float = Field(
        5, ge=2, description="Silence that is heard all the same: longer than the upstream's own pause after speech."
    )
    streams_per_channel: int = Field(90, ge=1, le=100, description="Streams on one connection (Google's cap is 100).")
    max_channels: int = Field(10, ge=1, description="Connections to the upstream; more are opened as they are needed.")
    upstream_streams: int = Field(
        300,
        ge=1,
        description="This process's share of the streams that the upstream allows (Google v2: 300 for each region). "
        "A tenth is kept for sessions that run already.",
    )
    upstream_starts_per_minute: int = Field(
        900,
        ge=1,
        description="The same of streams opened in a minute (Google v1: 900).",
    )
    admission_seconds: float = Field(
        10, gt=0, description="When every stream is taken, a new session waits so long; then it is refused: overloaded."
    )

    @field_validator("language_codes", "allowed_origins", "open_routes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(code.strip() for code in value.split(",") if code.strip()) if isinstance(value, str) else value

    @field_validator("language_codes")
    @classmethod
    def _language_codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if not _LANGUAGE_CODE.fullmatch(code):
                raise ValueError(f"{code!r} is no BCP-47 code such as en-US")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.match(origin):
                raise ValueError(f"{origin!r} is no origin such as https://app.example, without a path, nor *")
        return value

    @field_validator("open_routes")
    @classmethod
    def _routes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("none",):
            return ()
        for route in value:
            if route not in OPEN_ROUTES:
                raise ValueError(f"{route!r} is none of {', '.join(OPEN_ROUTES)}, nor none alone")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < SHORTEST_SECRET:
            raise ValueError(f"it is shorter than {SHORTEST_SECRET} bytes, the least for HS256")
        return value

    @field_validator("jwt_jwks")
    @classmethod
    def _known_jwks(cls, value: str | None) -> str | None:
        if value is None or value.startswith("https://"):
            return value
        if re.match(r"^http://(localhost|127\.0\.0\.1|\[::1\])[:/]", value):
            return value
        if "://" in value or not Path(value).is_file():
            raise ValueError(f"{value!r} is neither a file nor an https:// URL (http:// on loopback alone)")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for proxy in value.split(",") if value != "*" else ():
            try:
                ipaddress.ip_network(proxy.strip())
            except ValueError as error:
                raise ValueError(
                    f"{error}: allowed are addresses and networks such as 10.0.0.0/8, or * alone"
                ) from None
        return value

    @field_validator("upstream")
    @classmethod
    def _known_upstream(cls, value: str) -> str:
        elsewhere = _GRPC.match(value)
        if value not in {"emulator", "google"} and not elsewhere:
            raise ValueError(f"{value!r} is none of emulator, google, grpc://HOST:PORT, grpcs://HOST:PORT")
        if elsewhere and not 1 <= int(elsewhere[2]) <= 65535:
            raise ValueError(f"{value!r} has no port from 1 to 65535")
        return value

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url != "memory://" and not url.startswith(("redis://", "rediss://")):
            raise ValueError("it is neither memory:// nor redis://HOST:PORT/N")  # may hold a password: not shown
        return value

    @field_validator(
        *("google_credentials_file", "api_keys_file", "tls_certificate_file", "tls_key_file"),
        *("upstream_ca_file", "upstream_certificate_file", "upstream_key_file"),
    )
    @classmethod
    def _file_exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {str(value)!r}")
        return value

    @model_validator(mode="after")
    def _limits_fit(self) -> "Settings":
        if self.leg_soft_limit_seconds > self.leg_hard_limit_seconds:
            raise ValueError("GATEWAY_LEG_SOFT_LIMIT_SECONDS must not be over GATEWAY_LEG_HARD_LIMIT_SECONDS")
        if self.replay_seconds <= self.max_utterance_seconds:
            raise ValueError("GATEWAY_REPLAY_SECONDS must be over GATEWAY_MAX_UTTERANCE_SECONDS")
        self._check_who_may()
        if self.workers > 1:
            self.check_several_processes()
        return self

    @model_validator(mode="after")
    def _certificates_fit(self) -> "Settings":
        _check_pair("TLS", self.tls_certificate_file, self.tls_key_file)
        _check_pair("UPSTREAM", self.upstream_certificate_file, self.upstream_key_file)
        if self.upstream_ca_file is not None:
            _told(f"{PREFIX}UPSTREAM_CA_FILE", check_authorities, self.upstream_ca_file)
        for name in ("upstream_ca_file", "upstream_certificate_file"):
            if getattr(self, name) is not None and not self.upstream.startswith("grpcs://"):
                raise ValueError(
                    f"{PREFIX}{name.upper()} is for GATEWAY_UPSTREAM=grpcs://HOST:PORT, not for {self.upstream}"
                )
        return self

    @property
    def asks_who(self) -> bool:
        """Credentials are configured."""
        return self.api_keys_file is not None or self.jwt_secret is not None or self.jwt_jwks is not None

    def _check_who_may(self) -> None:
        signed = self.jwt_secret is not None or self.jwt_jwks is not None
        if self.auth == "none" and self.asks_who:
            raise ValueError("GATEWAY_AUTH=none, though keys are configured: take away the one or the others")
        if signed and self.jwt_audience is None:
            raise ValueError("GATEWAY_JWT_AUDIENCE is missing: without it a token made for others would be good here")
        if not (self.asks_who or self.auth == "none" or is_loopback(self.host)):
            raise ValueError(
                f"GATEWAY_HOST={self.host} without authentication: everybody who reaches it could use it. Set "
                "GATEWAY_API_KEYS_FILE (`transcribe key NAME` makes one) or GATEWAY_JWT_..., "
                "or GATEWAY_AUTH=none if that is meant"
            )

    def check_several_processes(self) -> None:
        """Raises ValueError where they could not know of each other's sessions."""
        if self.store.get_secret_value() == "memory://":
            raise ValueError(
                "several workers need a store that they share: GATEWAY_STORE=redis://HOST:PORT/N, not memory://"
            )

    @property
    def grpc_address(self) -> str | None:
        """HOST:PORT of an upstream elsewhere."""
        elsewhere = _GRPC.match(self.upstream)
        return elsewhere[1] if elsewhere else None

    @property
    def upstream_tls(self) -> ChannelTls | None:
        """For grpcs:// alone."""
        if not self.upstream.startswith("grpcs://"):
            return None
        return ChannelTls(self.upstream_ca_file, self.upstream_certificate_file, self.upstream_key_file)

    @property
    def tls(self) -> ServerTls | None:
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerTls(self.tls_certificate_file, self.tls_key_file, self.tls_handshake_seconds)


def _check_pair(whose: str, certificate: Path | None, key: Path | None) -> None:
    names = [f"{PREFIX}{whose}_{part}_FILE" for part in ("CERTIFICATE", "KEY")]
    match certificate, key:
        case Path(), Path():
            _told(" and ".join(names), check_pair, certificate, key)
        case (Path(), None) | (None, Path()):
            raise ValueError(f"{' and '.join(names)} go together: {names[certificate is not None]} is missing")


def _told(name: str, check: Callable[..., None], *files: Path) -> None:
    try:
        check(*files)
    except BadPem as error:
        raise ValueError(f"{name}: {error}") from error


def load_settings() -> Settings:
    """From the environment and `.env`. Raises SettingsError."""
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted({*os.environ, *dotenv_values(".env")}):
        if name.startswith(PREFIX) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise SettingsError(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_line(problem) for problem in error.errors(include_url=False))) from None


def _line(problem: object) -> str:
    assert isinstance(problem, dict)
    name = PREFIX + str(problem["loc"][0]).upper() + ": " if problem["loc"] else ""
    value = f"{problem['input']!r}: " if problem["loc"] and problem["type"] != "value_error" else ""
    return f"{name}{value}{problem['msg'].removeprefix('Value error, ')}"


def env_example() -> str:
    """The text of `.env.example`."""
    lines = ["# Every setting of the gateway, with its default. Copy to .env and change what you need."]
    for name, setting in Settings.model_fields.items():
        lines += ["", f"# {setting.description}", f"#{PREFIX}{name.upper()}={_written(setting.default)}"]
    return "\n".join(lines) + "\n"


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case tuple():
            return ",".join(value)
        case bool():
            return str(value).lower()
        case SecretStr():
            return value.get_secret_value()
    return str(value)


if __name__ == "__main__":
    print(env_example(), end="")
