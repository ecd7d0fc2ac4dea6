"""Access to Google: credentials, project, and the endpoint of a region."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.auth
import grpc
from google.api_core import grpc_helpers_async
from google.auth.exceptions import DefaultCredentialsError

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class NoCredentials(Exception):
    """Says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class GoogleAccess:
    credentials: Any
    project: str | None

    def connect(self, location: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A TLS channel to the region's endpoint."""
        host = "speech.googleapis.com" if location == "global" else f"{location}-speech.googleapis.com"
        channel: grpc.aio.Channel = grpc_helpers_async.create_channel(
            f"{host}:443", credentials=self.credentials, scopes=_SCOPES, options=options
        )
        return channel


def google_access(key_file: Path | None) -> GoogleAccess:
    """Reads a service account's key file, or finds application default credentials. May block: not for the loop.

    Raises NoCredentials.
    """
    try:
        if key_file is not None:
            credentials, project = google.auth.load_credentials_from_file(  # type: ignore[no-untyped-call]
                str(key_file), scopes=_SCOPES
            )
        else:
            credentials, project = google.auth.default(scopes=_SCOPES)
    except (DefaultCredentialsError, ValueError) as error:
        raise NoCredentials(
            "GATEWAY_UPSTREAM=google needs credentials. On your machine: `gcloud auth application-default login`. "
            "On a server: a service account with the role Speech Client, its key file in "
            f"GATEWAY_GOOGLE_CREDENTIALS_FILE. Google says: {str(error).splitlines()[0]}"
        ) from error
    return GoogleAccess(credentials, project)
