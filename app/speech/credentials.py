"""Access to Google: credentials, project, and the endpoint of a region."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import google.auth
import grpc
from google.api_core import grpc_helpers_async
from google.auth.credentials import Credentials, with_scopes_if_required
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import service_account

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class NoCredentials(Exception):
    """Says what is missing and how to get it."""


class OneRefresh(Credentials):
    """Credentials whose expired token is renewed once, however many legs ask at the same moment.

    grpc's plugin asks in a thread of its own for each call that starts, and each would renew it. The first of these
    threads does, the others wait for it.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner = inner
        self._turn = Lock()

    def refresh(self, request: Any) -> None:
        self._inner.refresh(request)

    def before_request(self, request: Any, method: str, url: str, headers: Any) -> None:
        with self._turn:
            self._inner.before_request(request, method, url, headers)


@dataclass(frozen=True, slots=True)
class GoogleAccess:
    credentials: Any
    project: str | None
    signs_itself: bool
    """A service account makes its tokens without asking anybody: other credentials wait for the network, in threads of
    gRPC's."""

    def connect(self, location: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A TLS channel to the region's endpoint."""
        channel: grpc.aio.Channel = grpc_helpers_async.create_channel(
            endpoint(location), credentials=self.credentials, options=options
        )
        return channel

    async def authorization(self) -> list[tuple[str, str]]:
        """What each call says of who it is."""
        headers: dict[str, str] = {}
        self.credentials.before_request(None, "POST", "", headers)  # signs anew once an hour: 1 ms
        return [(key.lower(), value) for key, value in headers.items()]


def endpoint(location: str) -> str:
    """Of a region: HOST:PORT."""
    host = "speech.googleapis.com" if location == "global" else f"{location}-speech.googleapis.com"
    return f"{host}:443"


def google_access(key_file: Path | None) -> GoogleAccess:
    """Reads a service account's key file, or finds application default credentials. May block: not for the loop.

    Raises NoCredentials.
    """
    if key_file is not None:
        return _from_key_file(key_file)
    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    except (GoogleAuthError, ValueError) as error:
        raise NoCredentials(
            "GATEWAY_UPSTREAM=google needs credentials. On your machine: `gcloud auth application-default login`. "
            "On a server: a service account with the role Speech Client, its key file in "
            f"GATEWAY_GOOGLE_CREDENTIALS_FILE. Google says: {_reason(error)}"
        ) from error
    return _shared(credentials, project)


def _from_key_file(path: Path) -> GoogleAccess:
    try:
        credentials, project = google.auth.load_credentials_from_file(  # type: ignore[no-untyped-call]
            str(path), scopes=_SCOPES
        )
    except (GoogleAuthError, OSError, ValueError, AttributeError, TypeError) as error:  # the last two: no object
        raise NoCredentials(
            f"GATEWAY_GOOGLE_CREDENTIALS_FILE: key file {path} is not usable: {_reason(error)}"
        ) from error
    return _shared(credentials, project)


def _shared(credentials: Any, project: str | None) -> GoogleAccess:
    """One token for every channel. A service account signs its own, which needs no network."""
    signs_itself = isinstance(credentials, service_account.Credentials)
    if signs_itself:
        credentials = credentials.with_always_use_jwt_access(True)
    scoped = with_scopes_if_required(credentials, _SCOPES)  # type: ignore[no-untyped-call]
    return GoogleAccess(OneRefresh(scoped), project, signs_itself)


def _reason(error: Exception) -> str:
    """One line: an error of google's may carry another one as its second argument."""
    parts = error.args if isinstance(error, GoogleAuthError) else (error,)
    return ": ".join(str(part).removesuffix(".") for part in parts).partition("\n")[0]
