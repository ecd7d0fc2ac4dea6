"""What an IP address says of who is there."""

import ipaddress

IPV6_NETWORK = 64
"""Bits: what one customer has; single addresses cost nothing."""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(host: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network. As it is where it is no address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, IPV6_NETWORK), strict=False)) if address.version == 6 else host
