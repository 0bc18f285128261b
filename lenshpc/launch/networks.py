"""The networks of a node, as Linux tells them, and the one that joins all nodes best."""

import fcntl
import re
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KINDS = {"1": "ethernet", "32": "infiniband"}  # ARPHRD_ETHER, ARPHRD_INFINIBAND
VIRTUAL = re.compile("br-|cali|cni|docker|flannel|lxc|lxdbr|podman|veth|virbr|vmnet|vxlan")
GET_ADDRESS = 0x8915  # SIOCGIFADDR


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network card, or what stands for one: its speed in Gb/s is 0 where it is not told."""

    name: str
    kind: str
    state: str
    gbit: float
    address: str

    def __str__(self) -> str:
        """Return how people are told of it: `ib0 infiniband 200 Gb/s`."""
        return f"{self.name} {self.kind}" + (f" {self.gbit:g} Gb/s" if self.gbit else "")

    @property
    def is_candidate(self) -> bool:
        """Return whether ranks may talk over it."""
        return self.state in {"up", "unknown"} and bool(self.address)


def read_interfaces(root: Path = Path("/sys/class/net")) -> Iterator[Interface]:
    """Yield the interfaces of this machine, without loopback, bridges and tunnels."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        kind = KINDS.get(_read(folder / "type"))
        if kind and not VIRTUAL.match(folder.name) and not (folder / "bridge").exists():
            yield Interface(
                name=folder.name,
                kind=kind,
                state=_read(folder / "operstate"),
                gbit=_gbit(folder, kind),
                address=find_address(folder.name),
            )


def _gbit(folder: Path, kind: str) -> float:
    """Return what the driver tells: `10000` of Ethernet, `200 Gb/sec (4X HDR)` of InfiniBand."""
    if kind == "ethernet":
        told = _read(folder / "speed")
        return int(told) / 1000 if re.fullmatch("[0-9]{1,9}", told) else 0.0
    rates = (_read(path) for path in sorted(folder.glob("device/infiniband/*/ports/*/rate")))
    found = (re.match(r"[0-9]{1,6}(?:\.[0-9]{1,3})?", rate) for rate in rates)
    return next((float(rate[0]) for rate in found if rate), 0.0)


def _read(path: Path) -> str:
    with suppress(OSError):  # `speed` of an interface that is down cannot be read
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def find_address(name: str) -> str:
    """Return the IPv4 address of an interface; nothing where it has none."""
    request = struct.pack("256s", name.encode()[:15])
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return socket.inet_ntoa(fcntl.ioctl(asked, GET_ADDRESS, request)[20:24])
    return ""


def choose_interface(seen: Mapping[str, Sequence[Interface]]) -> str | None:
    """Return the interface over which members should talk; None where nobody can tell.

    It is one that every node has under the same name: the only one, the only InfiniBand one, or
    the one that is faster than the others.
    """
    shared = _share(seen)
    fast = [one for one in shared if one.kind == "infiniband"] or shared
    fast = [one for one in fast if one.gbit == max(other.gbit for other in fast)]
    return fast[0].name if len(fast) == 1 else None


def _share(seen: Mapping[str, Sequence[Interface]]) -> list[Interface]:
    """Return the interfaces that all nodes have by name and kind, as slow as on the slowest."""
    by_node = [{(one.name, one.kind): one for one in own} for own in seen.values()]
    names = set[tuple[str, str]]().union(*by_node[:1]).intersection(*by_node)
    slowest = ([own[name] for own in by_node] for name in sorted(names))
    return [min(ones, key=lambda one: one.gbit) for ones in slowest]
