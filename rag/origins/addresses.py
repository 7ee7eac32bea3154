"""Which network addresses may be asked for documents: public ones, and what the operator allows.

An address that a person or a page names must not lead to what only this machine can reach: its own
services, the intranet, a cloud's metadata (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from rag.errors import InputError, LoadError

Resolve = Callable[[str, int], Sequence[str]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
# The special-purpose registries of IANA, and multicast. `ipaddress` is asked too, but what it calls
# global has changed between patch releases.
_REFUSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
            "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        ),
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # 2002: 6to4, 2001:0: Teredo
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NOT_A_HOST = re.compile(r"[\s\\\x00-\x1f\x7f]")


def is_public(address: str) -> bool:
    """Whether the whole internet means the same machine by `address`, an IPv4 or IPv6 address.

    An IPv6 address that stands for an IPv4 address (mapped, NAT64) is judged by that one.
    False for what is no address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return _is_public(parsed)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return _is_public(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return (
        address in _GLOBAL_V6
        and address.is_global
        and not any(address in network for network in _REFUSED_V6)
    )


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, as the system knows them. Raises LoadError if there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise LoadError(
            f"The host {host} is not known.", "Check the address and the network."
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Guard:
    """Says which urls may be asked, and at which addresses.

    `allowed` holds what the operator trusts besides public hosts on ports 80 and 443: a host
    (`wiki.example`), a host with a port (`wiki.example:8080`), a network (`10.1.0.0/16`).
    """

    allowed: tuple[str, ...] = ()
    resolve: Resolve = resolve

    def check(self, url: str) -> SplitResult:
        """The parts of `url`. Raises InputError if it is not to be asked at all."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InputError(f"{shown(url)} is not an address.", "Check it.") from None
        if parts.scheme not in _PORTS or not host or _NOT_A_HOST.search(url):
            raise InputError(
                f"{shown(url)} is not an address of a page.", "It starts with https:// or http://."
            )
        if parts.username is not None or parts.password is not None:
            raise InputError(
                f"{shown(url)} holds a user name or password.", "Addresses are kept: leave it out."
            )
        if port is not None and port not in _PORTS.values() and not self._allows(host, port):
            raise InputError(
                f"{shown(url)} asks for port {port}; only 80 and 443 are asked.",
                f'Allow it with RAG_ALLOWED_HOSTS="{host}:{port}".',
            )
        return parts

    def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to, every one checked. Connect to these, never to the name again: it
        may mean another machine by then. Raises LoadError if any is refused."""
        found = list(self.resolve(host, port))
        trusted = self._allows(host, port) or (port in _PORTS.values() and self._allows(host))
        refused = [a for a in found if not (trusted or is_public(a) or self._in_network(a))]
        if refused or not found:
            raise LoadError(
                f"The host {host} is at a private address, which is not asked.",
                f'If it is to be trusted, set RAG_ALLOWED_HOSTS="{host}".',
            )
        return found

    def _allows(self, host: str, port: int | None = None) -> bool:
        wanted = host.lower().rstrip(".")
        whole = wanted if port is None else f"{wanted}:{port}"
        return whole in {entry.lower() for entry in self.allowed}

    def _in_network(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in map(_network, self.allowed) if network)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        return None


def shown(url: str) -> str:
    """`url` as it may be printed: without user, password and query, where secrets stand."""
    bare = re.sub(r"^([a-z0-9+.-]+://)[^/?#]*@", r"\1", url, flags=re.IGNORECASE)
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", bare.partition("?")[0])[:200]
