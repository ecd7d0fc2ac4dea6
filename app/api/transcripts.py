"""What was heard of a session, also for those who do not speak: whole or from a cursor on, while it goes on or later.

Read from the store, so from any gateway, by whoever answers for the session. Where nobody is asked who they are, the
session's id is what admits a reader: nobody can guess one.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.api.access import speaker
from app.api.described import ASKS_WHO, refusals
from app.captions import Captions, Format
from app.core.errors import SessionError, invalid, unknown
from app.core.grant import Grant
from app.core.protocol import Durable, parse_server
from app.store import Store, StoreAwayError, Stored

AWAY_RETRY_MS = 1_000
MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
HEADERS = {
    "Last-Event": {"description": "Where to go on next time", "schema": {"type": "integer"}},
    "Session-Ended": {"description": "Whether nothing more comes", "schema": {"type": "boolean"}},
}
router = APIRouter()


@router.get(
    "/sessions/{session_id}/transcript",
    response_class=Response,
    responses={
        200: {"content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}, "headers": HEADERS},
        **refusals(400, 404, *ASKS_WHO),
    },
)
async def transcript(
    request: Request,
    session_id: str,
    grant: Annotated[Grant, Depends(speaker)],
    after: Annotated[int, Query(ge=0, description="The last event that the reader has")] = 0,
    format: Annotated[Format, Query(description="json: every durable event; else finals and gaps")] = "json",  # noqa: A002
) -> Response:
    """The events after `after`. `Last-Event` says where to go on next time, `Session-Ended` whether there is an end.

    404 where there is no such session, or it is kept no more, or it is somebody else's.
    """
    stored = await _read(request.app.state.store, session_id, after, grant)
    headers = {
        "Last-Event": str(stored.record.last_event),
        "Session-Ended": "true" if _ended(stored) else "false",
        "Cache-Control": "no-store",
    }
    content = _json(stored, after) if format == "json" else _captions(stored, after, format)
    return Response(content, media_type=MEDIA_TYPES[format], headers=headers)


async def _read(store: Store, session_id: str, after: int, grant: Grant) -> Stored:
    try:
        stored = await store.read(session_id, 0)  # the numbers of captions count from the first
    except StoreAwayError as error:
        raise SessionError("overloaded", "the store is away", retry_after_ms=AWAY_RETRY_MS) from error
    if stored is None or stored.record.principal != grant.principal or not grant.may_read(session_id):
        raise unknown(session_id)
    if after > stored.record.last_event:
        raise invalid("after", after, f"the session's last event is {stored.record.last_event}")
    return stored


def _ended(stored: Stored) -> bool:
    return stored.record.stopped or stored.record.over is not None


def _json(stored: Stored, after: int) -> str:
    """The events are JSON already."""
    ended = "true" if _ended(stored) else "false"
    events = ",".join(stored.events[after:])
    record = stored.record
    return (
        f'{{"session_id":"{record.session_id}","last_event":{record.last_event},"ended":{ended},"events":[{events}]}}'
    )


def _captions(stored: Stored, after: int, form: Format) -> str:
    captions = Captions(form)
    pieces = [captions.add(_durable(event)) for event in stored.events]
    return ("" if after else captions.head) + "".join(pieces[after:])


def _durable(event: str) -> Durable:
    message = parse_server(event)
    assert isinstance(message, Durable)
    return message
