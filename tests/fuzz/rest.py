"""The REST routes under schemathesis: requests made from the gateway's own OpenAPI document, right ones and wrong ones.

What must hold: no 5xx of a failure, and every answer as the document says. Blocking requests: the gateway is elsewhere.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    missing_required_header,
    positive_data_acceptance,
)

UNTRUE = [
    positive_data_acceptance,  # a session's id is not in the document: a right request is answered 404
    missing_required_header,
]
Ask = Callable[[], None]
"""Under hypothesis."""


def document(url: str, token: str | None = None) -> dict[str, Any]:
    answer = httpx.get(f"{url}/openapi.json", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    described: dict[str, Any] = answer.json()
    return described


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def asks(url: str, described: dict[str, Any], token: str | None, ends: Counter[str]) -> list[Callable[[], Ask]]:
    """For each route and both kinds of requests, what makes an `Ask`. `ends` counts the answers' statuses."""
    session = requests.Session()
    session.trust_env = False
    found = []
    for result in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:

            def ask(case: schemathesis.Case) -> None:
                response = case.call(base_url=url, session=session, headers=bearer(token))
                ends[str(response.status_code)] += 1
                case.validate_response(response, excluded_checks=UNTRUE)

            found.append(lambda ask=ask, way=operation.as_strategy(mode): given(way)(ask))
    return found
