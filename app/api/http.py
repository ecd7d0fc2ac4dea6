"""The REST routes: is it alive, can it serve, how is it set up, and the page."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from app.api.access import asks_for_config, asks_for_metrics
from app.api.described import ASKS_WHO, refusals
from app.core.errors import SessionError, invalid
from app.core.protocol import error_message
from app.hub import Hub

_WEB = Path(__file__).parent.parent / "web"
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CSP = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": CSP,
    "Permissions-Policy": "microphone=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UpstreamTrouble = Callable[[], Awaitable[str | None]]
router = APIRouter()


class Health(BaseModel):
    status: str = Field(description="`ok`: the event loop turns")


class Readiness(BaseModel):
    ready: bool
    reason: str = Field(description="`ok`, or why no session can be served now")
    sessions: int


class Limits(BaseModel):
    max_frame_bytes: int
    max_sessions: int
    window_seconds: float
    max_session_seconds: float


class Timers(BaseModel):
    start_timeout_seconds: float
    idle_timeout_seconds: float
    silent_timeout_seconds: float
    send_timeout_seconds: float
    ping_interval_seconds: float
    ping_timeout_seconds: float
    resume_window_seconds: float


class PublicConfig(BaseModel):
    """What a client may want to know before it connects. Nothing here is secret."""

    protocol: str
    authentication: bool = Field(description="Whether a credential is asked for")
    speech_api: str
    upstream: str
    model: str
    models: list[str]
    language_codes: list[str]
    encodings: list[str]
    sample_rate_hertz: dict[str, int]
    sample_recording: bool = Field(description="Whether `/sample.wav` is there")
    limits: Limits
    timers: Timers


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """Alive: the process answers. Looks at nothing else."""
    return Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Whether a session could be served now; 503 with the reason when not."""
    hub: Hub = request.app.state.hub
    upstream_trouble: UpstreamTrouble = request.app.state.upstream_trouble
    if hub.closing:
        reason = "draining: the gateway is shutting down"
    elif hub.full:
        reason = f"full: {hub.places}"
    elif trouble := hub.store_trouble():
        reason = f"store: {trouble}"
    else:
        reason = await upstream_trouble() or "ok"
    if reason != "ok":
        response.status_code = 503
    return Readiness(ready=reason == "ok", reason=reason, sessions=hub.sessions)


@router.get("/config", responses=refusals(*ASKS_WHO), dependencies=[Depends(asks_for_config)])
async def config(request: Request) -> PublicConfig:
    """The effective public settings."""
    public: PublicConfig = request.app.state.public_config
    return public


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {METRICS_TYPE: {}}}, **refusals(*ASKS_WHO)},
    dependencies=[Depends(asks_for_metrics)],
)
async def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    page: Callable[[], bytes] = request.app.state.metrics_page
    return Response(page(), media_type=METRICS_TYPE)


@router.get(
    "/sample.wav",
    response_class=Response,
    responses={200: {"content": {"audio/wav": {}}}, **refusals(404)},
)
async def sample(request: Request) -> Response:
    """A recording to try the gateway with: 44 s of English."""
    recording: bytes | None = request.app.state.sample_recording
    if recording is None:
        raise HTTPException(404, "no sample recording: it comes with the `emulator` extra")
    return Response(recording, media_type="audio/wav")


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    return await page_file(request, "index.html")


@router.get("/web/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    content = request.app.state.page_files.get(name)
    if content is None:
        raise HTTPException(404, f"there is no file {name[:64]!r}")
    return Response(content, media_type=_MEDIA_TYPES[Path(name).suffix], headers=PAGE_HEADERS)


def load_page() -> dict[str, bytes]:
    """The page's files, read once: a file read per request would need a thread."""
    return {path.name: path.read_bytes() for path in _WEB.iterdir() if path.suffix in _MEDIA_TYPES}


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Every HTTP error has the shape of the protocol's `error` message."""
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def on_bad_request(_: Request, error: Exception) -> JSONResponse:
    """A query or a body that cannot be taken: names the field, its value and what is allowed."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    if problem["type"] == "extra_forbidden":  # what stands there may be a key
        return refused(SessionError("invalid_config", f"{problem['loc'][-1]}: there is no such field"))
    if isinstance(problem["input"], bytes):
        return refused(SessionError("invalid_config", "body: it must be sent as Content-Type: application/json"))
    where = [str(part) for part in problem["loc"] if part not in ("body", "query")]
    return refused(invalid(".".join(where) or "body", problem["input"], problem["msg"]))


async def on_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SessionError)
    return refused(error)


def refused(error: SessionError) -> JSONResponse:
    """What the protocol's `error` message says, before there is a WebSocket."""
    headers = {}
    if error.refusal.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return JSONResponse({"error": msgspec.to_builtins(error_message(error))}, error.refusal.http_status, headers)


def error_body(status: int, message: str) -> dict[str, object]:
    return {"error": {"type": "error", "code": f"http_{status}", "message": message, "retryable": status >= 500}}
