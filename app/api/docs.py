"""The page that describes the REST routes. Its script and its style come from the outside host that FastAPI names, and
nothing else may: its one inline script is named by its hash.
"""

import base64
import hashlib
import re

from fastapi import APIRouter, Depends, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from app.api.access import asks_for_docs

CDN = "https://cdn.jsdelivr.net"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
router = APIRouter(dependencies=[Depends(asks_for_docs)], include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def docs(request: Request) -> Response:
    page = get_swagger_ui_html(openapi_url="openapi.json", title=request.app.title, swagger_favicon_url="data:,")
    html = bytes(page.body).decode()
    return HTMLResponse(html, headers={"Content-Security-Policy": _policy(html)})


def _policy(html: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in _INLINE.findall(html)]
    scripts = " ".join([CDN, *(f"'sha256-{digest}'" for digest in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src {CDN} 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
