"""Servers that listen on all interfaces run where there is only loopback.

`unshare --net python -m tests.loopback COMMAND` runs a command in a network namespace of its own,
in which "all interfaces" are this one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

_NAME = "lo"
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914  # SIOCGIFFLAGS and SIOCSIFFLAGS of <linux/sockios.h>
_UP = 1
_REQUEST = struct.Struct("16sh14x")  # the start of `struct ifreq`, see netdevice(7)


def is_all_there_is() -> bool:
    """Whether no other interface is up."""
    return all(name == _NAME or not _flags(name) & _UP for _, name in socket.if_nameindex())


def _flags(name: str) -> int:
    return int(_REQUEST.unpack(_ask(_GET_FLAGS, name, 0))[1])


def _bring_up() -> None:
    _ask(_SET_FLAGS, _NAME, _flags(_NAME) | _UP)


def _ask(what: int, name: str, flags: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket, what, _REQUEST.pack(name.encode(), flags))


if __name__ == "__main__":
    _bring_up()
    assert is_all_there_is(), "Run this with: unshare --net"
    os.execvp(sys.argv[1], sys.argv[1:])
