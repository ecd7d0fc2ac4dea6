"""What the OpenAPI document tells of refusals: every route names its own, and all have one shape."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

REASONS = {
    400: "A field that cannot be taken: `param` names it",
    401: "No credential, or none that is good here",
    403: "The credential does not allow this",
    404: "There is no such thing here, or it is somebody else's",
    429: "Too many: again after `Retry-After`",
    503: "Not now: again after `Retry-After`",
}
ASKS_WHO = (401, 403, 429, 503)
"""Of every route that wants a credential; 503 while the store is away that knows the one-time tokens."""


class Error(BaseModel):
    """As the protocol's `error` message."""

    type: str
    code: str = Field(description="What happened, in a word: docs/protocol.md")
    message: str = Field(description="For a person: the offending value and the limit")
    retryable: bool
    retry_after_ms: int | None = None
    param: str | None = Field(None, description="The field at fault")


class Refused(BaseModel):
    error: Error


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`."""
    return {status: {"model": Refused, "description": REASONS[status]} for status in sorted(statuses)}


def describe(app: FastAPI) -> None:
    """FastAPI says of each route with a parameter that it answers 422, which none of ours does."""
    make = app.openapi

    def without_422() -> dict[str, Any]:
        document = make()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = without_422  # type: ignore[method-assign] # FastAPI's own way to extend it
