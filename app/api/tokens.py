"""One-time tokens: an app's own backend asks for one, and hands it to a device that must carry no key."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.access import access_of, maker
from app.api.described import ASKS_WHO, refusals
from app.auth.one_time import LONGEST_SECONDS
from app.core.errors import invalid
from app.core.grant import Bounds, Grant
from app.core.protocol import LANGUAGE_CODE

router = APIRouter()


class Wish(BaseModel):
    """What a token is to be good for: one session, within these bounds."""

    model_config = ConfigDict(extra="forbid")

    ttl_seconds: int = Field(60, ge=1, le=LONGEST_SECONDS, description="So long it can open its session")
    max_session_seconds: float | None = Field(None, gt=0, le=1e9, description="Longest session")
    budget_seconds: int | None = Field(None, ge=1, le=10**9, description="Billed seconds of the session")
    language_codes: (
        Annotated[list[Annotated[str, Field(pattern=LANGUAGE_CODE)]], Field(min_length=1, max_length=64)] | None
    ) = Field(None, description="The session may ask for these languages alone")


class Minted(BaseModel):
    token: str = Field(description="Opens one session; then it is good to resume that session")
    expires_in_seconds: int


@router.post("/tokens", status_code=201, responses=refusals(400, *ASKS_WHO))
async def mint(
    request: Request, response: Response, grant: Annotated[Grant, Depends(maker)], wish: Annotated[Wish, Body()]
) -> Minted:
    """A one-time token. Only the holder of an API key may have one made."""
    tokens = access_of(request).authenticator.one_time_tokens
    token = await tokens.mint(grant, _bounds(wish, grant.bounds), wish.ttl_seconds)
    response.headers["Cache-Control"] = "no-store"
    return Minted(token=token, expires_in_seconds=wish.ttl_seconds)


def _bounds(wish: Wish, own: Bounds) -> Bounds:
    """Nobody hands on more than they have. Raises SessionError."""
    longest = own.max_session_seconds
    if longest is not None and (wish.max_session_seconds or 0) > longest:
        raise invalid("max_session_seconds", wish.max_session_seconds, f"at most {longest:g}, as of the key itself")
    for index, code in enumerate(wish.language_codes or ()):
        if own.language_codes is not None and code not in own.language_codes:
            raise invalid(f"language_codes[{index}]", code, f"one of the key's own: {', '.join(own.language_codes)}")
    return Bounds(
        max_session_seconds=wish.max_session_seconds or longest,
        budget_seconds=wish.budget_seconds,
        language_codes=tuple(wish.language_codes) if wish.language_codes else own.language_codes,
    )
