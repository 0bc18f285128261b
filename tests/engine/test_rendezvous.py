"""Ranks meet where no other user can come: real processes, and an attacker with another user id."""

import contextlib
import fcntl
import gc
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from clean_processes import Say, run_ranks, start

from lenshpc.engine import distributed, rendezvous
from lenshpc.engine.distributed import Process
from lenshpc.errors import LaunchError

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
in_networks = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip, to make networks"
)


def agree(
    rank: int, folder: Path, num: int, *texts: str, timeout: timedelta = rendezvous.PATIENCE
) -> list[str]:
    """Meet, and return rank 0's texts as this rank hears them."""
    process = Process(rank=rank, world_size=num, job="7")
    distributed.start(process, num, folder, timeout=timeout)
    heard = [distributed.broadcast_text(text if rank == 0 else "other") for text in texts]
    distributed.barrier()
    distributed.stop()
    distributed.leave(process, folder)
    return heard


def refuse_locks() -> None:
    """Have flock fail as on Lustre without the option `flock`."""

    def fail(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    fcntl.flock = fail


def lock_nothing() -> None:
    """Have flock succeed where nobody else sees it."""
    fcntl.flock = lambda *_: None


def refuse_pickles() -> None:
    """Have all fail that torch.distributed pickles."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("_pickler", "_unpickler"):
        setattr(dist.distributed_c10d, name, fail)


TEXTS = ("True", "", "häufig/✓", "x" * 100_000)


def test_texts_reach_all_ranks_and_nothing_is_left(tmp_path: Path) -> None:
    assert run_ranks(agree, 3, tmp_path, 3, *TEXTS) == [list(TEXTS)] * 3
    assert list(tmp_path.rglob("*")) == []


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    told = run_ranks(broadcast_object, 1, tmp_path, before=refuse_pickles)
    assert told == ["AssertionError: unpickled"]  # it would be seen
    told = run_ranks(agree, 2, tmp_path, 2, "text", before=refuse_pickles)
    assert told == [["text"]] * 2


def broadcast_object(_rank: int, folder: Path) -> None:
    distributed.start(Process(job="7"), 1, folder)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.broadcast_object_list(["text"], src=0)


def open_kind(rank: int, folder: Path) -> str:
    meeting = rendezvous.meet(folder / "7.0", rank, 2)
    return type(meeting.store).__name__


def test_ranks_meet_through_files_without_locks(tmp_path: Path) -> None:
    assert run_ranks(open_kind, 2, tmp_path / "with") == ["FileStore"] * 2
    told = run_ranks(open_kind, 2, tmp_path / "without", before=refuse_locks)
    assert told == ["FolderStore"] * 2
    assert run_ranks(agree, 3, tmp_path, 3, *TEXTS, before=refuse_locks) == [list(TEXTS)] * 3


def test_locks_that_hold_on_one_node_alone_are_not_relied_upon(tmp_path: Path) -> None:
    assert run_ranks(open_kind, 2, tmp_path, before=lock_nothing) == ["FolderStore"] * 2


def test_rank_that_never_comes_is_named_by_the_folder(tmp_path: Path) -> None:
    store = rendezvous.FolderStore(tmp_path / "talk", patience=timedelta(seconds=0.05))
    with pytest.raises(LaunchError, match=r"not all ranks came to .*/talk within 0\.05 s"):
        store.get("answer/1")


def test_store_for_another_thread_is_the_store(tmp_path: Path) -> None:
    store = rendezvous.FolderStore(tmp_path / "store")
    dist.PrefixStore("nccl", store).clone().set("id", "value")
    assert dist.PrefixStore("nccl", store).get("id") == b"value"


def let_go(rank: int, folder: Path) -> bool:
    store = rendezvous.meet(folder / "7.0", rank, 2).store
    store.set(f"key/{rank}", "value")
    store.wait(["key/0", "key/1"])
    (path,) = (folder / "7.0").glob("file-*")
    before = path.read_bytes()
    del store
    gc.collect()
    return path.read_bytes() == before


def test_store_that_is_let_go_does_not_ask_for_its_file(tmp_path: Path) -> None:
    assert run_ranks(let_go, 2, tmp_path) == [True] * 2


def leave_late(rank: int, folder: Path) -> bool:
    process = Process(rank=rank, world_size=2, job="7")
    distributed.start(process, 2, folder)
    distributed.barrier()
    distributed.stop()
    time.sleep(rank)
    is_there = (folder / "7.0").is_dir()
    distributed.leave(process, folder)
    return is_there


def test_folder_stays_until_all_ranks_have_left(tmp_path: Path) -> None:
    assert run_ranks(leave_late, 2, tmp_path) == [True] * 2
    assert list(tmp_path.iterdir()) == []


def test_folder_stays_where_a_rank_never_leaves(tmp_path: Path) -> None:
    rendezvous.leave(tmp_path, 0, 2, timedelta(seconds=0.05))
    assert [path.name for path in tmp_path.iterdir()] == ["left-0"]


def listeners(pid: int) -> set[str]:
    """Return the addresses at which a process listens, as /proc/net writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(entry.readlink()))
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].split(":")[0])
    return found


def listen(rank: int, folder: Path, num: int) -> list[str]:
    distributed.start(Process(rank=rank, world_size=num, job="7"), num, folder)
    found = sorted(listeners(os.getpid()))
    distributed.barrier()
    return found


def test_ranks_of_one_node_listen_on_loopback_alone(tmp_path: Path) -> None:
    loopback = "0100007F"  # 127.0.0.1, as the kernel writes it
    assert run_ranks(listen, 2, tmp_path, 2) == [[loopback]] * 2


def test_lone_process_listens_nowhere(tmp_path: Path) -> None:
    assert run_ranks(listen, 1, tmp_path, 1) == [[]]


def choose(_rank: int, folder: Path) -> str:
    os.environ["NCCL_SOCKET_IFNAME"] = "ib0"
    distributed.start(Process(job="7"), 1, folder)
    return os.environ["NCCL_SOCKET_IFNAME"] + os.environ["GLOO_SOCKET_IFNAME"]


def test_sites_own_choice_of_a_network_stands(tmp_path: Path) -> None:
    assert run_ranks(choose, 1, tmp_path) == ["ib0lo"]


@pytest.mark.parametrize("name", ["rendezvous", "rendezvous/7.0", "rendezvous/7.0/talk"])
@pytest.mark.parametrize("what", ["link", "open", "file"])
def test_folder_that_others_could_have_made_is_refused(
    tmp_path: Path, name: str, what: str
) -> None:
    place = tmp_path / name
    for parent in list(place.relative_to(tmp_path).parents)[-2::-1]:
        (tmp_path / parent).mkdir(mode=0o700)
    if what == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    elif what == "open":
        place.mkdir()
        place.chmod(0o770)
    else:
        place.touch()
    said = r"is open to others \(mode 770\)" if what == "open" else "is a link or a file"
    with pytest.raises(LaunchError, match=f"{name} {said}, where a folder of user"):
        rendezvous.meet(tmp_path / "rendezvous/7.0", 0, 2)


@as_root
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rendezvous").mkdir(mode=0o700)
    os.chown(tmp_path / "rendezvous", NOBODY, NOBODY)
    with pytest.raises(LaunchError, match=f"rendezvous belongs to user {NOBODY}, where"):
        rendezvous.meet(tmp_path / "rendezvous/7.0", 0, 2)


def prove_unequally(rank: int, folder: Path) -> str:
    store = dist.FileStore(str(folder / "store"), 2)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    rendezvous.prove(bytes([rank]))
    return "believed"


def test_rank_that_does_not_know_the_secret_is_refused(tmp_path: Path) -> None:
    assert run_ranks(prove_unequally, 2, tmp_path) == [
        f"LaunchError: the program that answers rank {rank} as rank {1 - rank} does not know this "
        "run's secret, so it is not part of the run; tell the site, then resume"
        for rank in range(2)
    ]


def prove_twice(rank: int, folder: Path, answers: bool) -> str:
    distributed.start(Process(rank=rank, world_size=2, job="7"), 2, folder)
    further = dist.new_group([0, 1])
    if rank == 1 and not answers:
        exchange = rendezvous._exchange
        rendezvous._exchange = lambda said, group=None: exchange([bytes(32)] * 2, group)
    rendezvous.prove_further(further)
    return "believed"


def test_further_group_is_proved_over_the_first(tmp_path: Path) -> None:
    assert run_ranks(prove_twice, 2, tmp_path / "a", True) == ["believed"] * 2
    told = run_ranks(prove_twice, 2, tmp_path / "b", False)
    assert str(told[0]).startswith(
        "LaunchError: the program that answers rank 0 as rank 1 does not know"
    )


def become_nobody() -> None:
    "x".encode("idna")  # what sockets import later lies where only root can read
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def attack(say: Say, work: Callable[..., object], *arguments: object) -> object:
    become_nobody()
    return work(lambda: say("ready"), *arguments)


@contextlib.contextmanager
def attacker(
    work: Callable[..., object], network: str, *arguments: object
) -> Iterator[Callable[[], Any]]:
    """Run `work(ready, *arguments)` as another user; yield what waits for what it returns."""
    child = start(attack, work, *arguments, network=network)
    try:
        assert child.hear() == "ready"
        yield child.hear
    finally:
        child.end()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that every user can look into, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="lenshpc-rendezvous-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "rendezvous"
    shutil.rmtree(folder)


def run_ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Make two hosts, 10.9.0.1 and 10.9.0.2, joined by a cable."""
    names = tuple(f"lenshpc{os.getpid()}{end}" for end in "ab")
    for name in names:
        run_ip(f"netns add {name}")
    run_ip(f"-n {names[0]} link add eth0 type veth peer name eth0 netns {names[1]}")
    for number, name in enumerate(names, start=1):
        run_ip(f"-n {name} addr add 10.9.0.{number}/24 dev eth0")
        for device in ("lo", "eth0"):
            run_ip(f"-n {name} link set {device} up")
    yield names
    for name in names:
        run_ip(f"netns delete {name}")


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


def play_rank_0(ready: Callable[[], None], port: int, proof: Path) -> None:
    """Do what used to run code in a rank: listen first, and broadcast an object."""
    store = dist.TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False)
    ready()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=0, world_size=2)
    dist.broadcast_object_list([Payload(proof)], src=0)


def join_by_port(_rank: int, port: int) -> str:
    store = dist.TCPStore("127.0.0.1", port, 2, False)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    box = [""]
    dist.broadcast_object_list(box, src=0)
    return "unpickled"


@in_networks
def test_nobody_asks_the_port_that_another_user_could_guess(
    shared: Path, networks: tuple[str, str]
) -> None:
    port, proof, here = 20_007, shared.with_name("ran"), networks[0]  # of job 7, as it was before
    shared.parent.chmod(0o777)
    with attacker(play_rank_0, here, port, proof):
        assert run_ranks(agree, 2, shared, 2, "text", networks=[here] * 2) == [["text"]] * 2
        assert not proof.exists()
        # The attack is a real one: whoever asks that port runs the code.
        run_ranks(join_by_port, 1, port, networks=[here])
        assert proof.is_dir()


def try_all(ready: Callable[[], None], folder: Path, names: list[str]) -> dict[str, str]:
    """Return what another user is told that tries to look, read, write and forge."""
    ready()
    tried = {
        "list": lambda: list(folder.iterdir()),
        "read": lambda: [(folder / name).read_bytes() for name in names],
        "forge": lambda: (folder / "7.0" / "talk" / "x").write_bytes(b""),
        "make": lambda: (folder / "8.0").mkdir(),
        "remove": lambda: shutil.rmtree(folder),
    }
    told = {}
    for name, act in tried.items():
        try:
            told[name] = str(act())
        except OSError as error:
            told[name] = type(error).__name__
    return told


def meet_alone(_say: Say, folder: Path) -> None:
    rendezvous.meet(folder, 0, 2)


@as_root
def test_another_user_can_neither_read_nor_write_where_ranks_meet(shared: Path) -> None:
    rank = start(meet_alone, shared / "7.0")  # it waits for the other one, with all its files there
    while not list(shared.glob("7.0/talk/[0-9a-f]*")):
        assert rank.process.is_alive()
        time.sleep(0.01)
    names = [str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file()]
    with attacker(try_all, "", shared, names) as told:
        found = told()
    rank.end()
    assert len(names) >= 2
    assert found == dict.fromkeys(["list", "read", "forge", "make", "remove"], "PermissionError")


def listening(address: str) -> set[int]:
    """Return root's ports at an IPv4 address, as every user of the node can see them."""
    written = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(fields[1].split(":")[1], 16)
        for fields in lines
        if fields[3] == "0A" and fields[7] == "0" and fields[1].startswith(written)
    }


def steal(ready: Callable[[], None], addresses: Sequence[str], data: bytes) -> int:
    """Be first at gloo's ports, with the numbers of its pairs; return how many were found."""
    known, taken = set(), []
    ready()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for address in addresses:
            for port in listening(address) - known:
                known.add(port)
                deadline = min(deadline, time.monotonic() + 2)
                for number in range(2):
                    with contextlib.suppress(OSError):
                        taken.append(socket.create_connection((address, port), timeout=1))
                        taken[-1].sendall(struct.pack("<q", number) + data)
    return len(known)


def come_late(rank: int, folder: Path, device: str) -> list[str]:
    """Leave rank 0 alone at its open port for a while: the attacker is sure to be first."""
    os.environ["GLOO_SOCKET_IFNAME"] = device
    if rank == 1:
        meet = rendezvous.meet

        def meet_and_wait(*arguments: object) -> rendezvous.Meeting:
            meeting = meet(*arguments)
            time.sleep(0.5)
            return meeting

        rendezvous.meet = meet_and_wait
    # The other one may end by an error while this one still waits to be connected to.
    return agree(rank, folder, 2, "text", timeout=timedelta(seconds=20))


@in_networks
@pytest.mark.parametrize("data", [b"", b"\xff" * 4096], ids=["silence", "garbage"])
@pytest.mark.parametrize(
    ("hosts", "device", "addresses"),
    [((0, 0), "lo", ["127.0.0.1"]), ((0, 1), "eth0", ["10.9.0.1", "10.9.0.2"])],
    ids=["loopback", "network"],
)
def test_stranger_that_takes_a_connection_of_gloos_is_not_believed(
    shared: Path,
    networks: tuple[str, str],
    hosts: tuple[int, int],
    device: str,
    addresses: list[str],
    data: bytes,
) -> None:
    where = [networks[host] for host in hosts]
    with attacker(steal, where[0], addresses, data) as num_ports:
        told = run_ranks(come_late, 2, shared, device, networks=where)
        assert num_ports() >= 1
    # Which of two ranks listens for the other depends on their ports: the other one's connection
    # cannot be taken, and all goes on.
    for heard in told:
        assert heard == ["text"] or re.match(
            r"RuntimeError: .*(Connection closed by peer|Read error|[Tt]imed? ?out)|"
            "LaunchError: the program that answers",
            str(heard),
        )


def meet_from_afar(rank: int, folder: Path) -> tuple[list[str], set[str]]:
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    process = Process(rank=rank, world_size=2, job="7", on_one_node=False)
    distributed.start(process, 2, folder)
    heard = [distributed.broadcast_text("text" if rank == 0 else "other")]
    found = listeners(os.getpid())
    distributed.barrier()
    return heard, found


@in_networks
def test_ranks_of_two_hosts_meet_through_the_folder_alone(
    shared: Path, networks: tuple[str, str]
) -> None:
    told = run_ranks(meet_from_afar, 2, shared, networks=networks)
    assert told == [(["text"], {"0100090A"}), (["text"], {"0200090A"})]  # 10.9.0.1 and 10.9.0.2
