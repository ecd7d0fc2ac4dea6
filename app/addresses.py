"""What an IP address says of who is there."""

import ipaddress

IPV6_NETWORK = 64
"""Bits: what one customer has; single addresses cost nothing."""
UNKNOWN = "unknown"
"""A proxy that is trusted has sent what is no address: its clients must not choose whom they are taken for."""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(host: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network. All that is no address is one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), IPV6_NETWORK), strict=False))
