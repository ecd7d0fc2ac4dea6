"""Gateways whose clients have a principal, whatever the door before it asked for."""

from typing import Any

from app.core.grant import Allowance, Bounds, Grant
from app.hub import Hub
from tests.gateway import Gateway


def grant(principal: str = "p", *, bounds: Bounds | None = None, **allowance: int) -> Grant:
    own = Allowance(**allowance) if allowance else None
    return Grant(principal=principal, allowance=own, bounds=bounds or Bounds())


def admits(gateway: Gateway, who: Grant) -> Gateway:
    """Who comes to it from now on has this grant."""
    hub: Any = gateway.hub
    hub.serve = lambda socket, _: Hub.serve(hub, socket, who)
    hub.knock = lambda _: Hub.knock(hub, who)
    hub.link = lambda _: Hub.link(hub, who)
    return gateway
