"""Interfaces are read from a tree like /sys/class/net; synthetic, after the kernel's documents."""

import pytest

from lenshpc.launch.networks import Interface, choose_interface, find_address, read_interfaces


def make(root, name, **files):
    folder = root / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        path = folder / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def one(name, kind="ethernet", gbit=10.0):
    return Interface(name=name, kind=kind, state="up", gbit=gbit, address="10.0.0.1")


def test_interfaces_have_kind_state_and_speed(tmp_path):
    make(tmp_path, "lo", type=772, operstate="unknown")
    make(tmp_path, "eno1", type=1, operstate="up", speed=10000)
    make(tmp_path, "eno2", type=1, operstate="down", speed=-1)
    make(tmp_path, "docker0", type=1, operstate="up", speed=10000)
    make(tmp_path, "site-br", type=1, operstate="up", speed=10000, bridge__priority=1)
    make(tmp_path, "tun0", type=65534, operstate="unknown")
    rate = "200 Gb/sec (4X HDR)"
    make(tmp_path, "ibx0", type=32, operstate="up", device__infiniband__mlx5_0__ports__1__rate=rate)
    (tmp_path / "bonding_masters").write_text("\n")
    found = [(each.name, each.kind, each.state, each.gbit) for each in read_interfaces(tmp_path)]
    assert found == [
        ("eno1", "ethernet", "up", 10.0),
        ("eno2", "ethernet", "down", 0.0),
        ("ibx0", "infiniband", "up", 200.0),
    ]
    assert list(read_interfaces(tmp_path / "absent")) == []


def test_address_is_the_kernels():
    assert find_address("lo") == "127.0.0.1"
    assert find_address("no-such-interface-here") == ""


@pytest.mark.parametrize(
    ("seen", "best"),
    [
        ({}, None),
        ({"a": []}, None),
        ({"a": [one("eth0")]}, "eth0"),
        ({"a": [one("eth0"), one("ib0", "infiniband")], "b": [one("ib0", "infiniband")]}, "ib0"),
        ({"a": [one("eth0", gbit=400.0), one("ib0", "infiniband", 100.0)]}, "ib0"),
        ({"a": [one("ib0", "infiniband"), one("ib1", "infiniband")]}, None),
        ({"a": [one("eth0", gbit=1.0), one("eth1", gbit=25.0)]}, "eth1"),
        ({"a": [one("eth0"), one("eth1")]}, None),
        ({"a": [one("eth0"), one("ib0", "infiniband")], "b": [one("eth0")]}, "eth0"),
        ({"a": [one("eth0")], "b": [one("eno1")]}, None),
        (  # a fast card counts as what it is on the slowest node
            {
                "a": [one("eth0", gbit=10.0), one("eth1", gbit=100.0)],
                "b": [one("eth0", gbit=10.0), one("eth1", gbit=1.0)],
            },
            "eth0",
        ),
    ],
)
def test_interface_is_chosen_where_all_nodes_have_one_that_is_best(seen, best):
    assert choose_interface(seen) == best
