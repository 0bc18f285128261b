"""No two ranks have the same GPU, which all of them hear before NCCL begins."""

from pathlib import Path
from threading import Thread

import pytest
from torch._C._distributed_c10d import FileStore

from lenshpc.engine.cards import describe_shared, refuse_shared_gpus
from lenshpc.engine.rendezvous import FolderStore
from lenshpc.errors import LaunchError


def ask_all(stores: list, gpus: list[str]) -> list[str]:
    """Return what each rank hears."""
    heard = ["nothing"] * len(gpus)

    def ask(rank: int) -> None:
        try:
            refuse_shared_gpus(stores[rank], rank, len(gpus), gpus[rank])
        except LaunchError as error:
            heard[rank] = str(error)

    threads = [Thread(target=ask, args=(rank,)) for rank in range(len(gpus))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return heard


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_every_rank_hears_of_two_on_one_gpu(tmp_path: Path, kind: str) -> None:
    def open_store(place: Path) -> FileStore | FolderStore:
        return FileStore(str(place), 3) if kind == "file" else FolderStore(place)

    shared, own, none = ([open_store(tmp_path / name) for _ in range(3)] for name in "abc")
    fault = (
        "ranks 0 and 2 have the same GPU, GPU-1, and NCCL wants one for each of the 3; there are "
        "2: submit again with --gpus-per-node no larger than a node has"
    )
    assert ask_all(shared, ["GPU-1", "GPU-2", "GPU-1"]) == [fault] * 3
    assert ask_all(own, ["GPU-1", "GPU-2", "MIG-3"]) == ["nothing"] * 3
    assert ask_all(none, [""] * 3) == ["nothing"] * 3


def test_slices_of_one_gpu_are_gpus_of_their_own() -> None:
    assert describe_shared(["MIG-1", "MIG-2"]) == ""
