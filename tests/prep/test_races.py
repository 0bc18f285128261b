"""Two `prepare` into one target: one makes the store, whole; the other says so in one line."""

import shutil
from functools import partial
from multiprocessing import get_context

import pytest
from source_sets import fill, tiny

from lenshpc.errors import LensHpcError
from lenshpc.prep.convert import Options, convert, convert_shards, draft_store
from lenshpc.prep.verify import verify

OPTIONS = Options(chunk_rows=4, shard_rows=8)
DATASET = tiny(holdout=None)


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def call(action, barrier, sender):
    """Wait for the other process, act, and send what came of it."""
    barrier.wait()
    try:
        action()
    except LensHpcError as error:
        sender.send(str(error))
    except BaseException as error:
        sender.send(f"a traceback: {error!r}")
        raise
    else:
        sender.send("made")


def race(*actions):
    """Return what came of some actions in processes of their own that begin at once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["lenshpc.prep.convert", "pytest"])
    barrier, pipes = context.Barrier(len(actions)), []
    for action in actions:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=call, args=(action, barrier, sender))
        process.start()
        sender.close()  # so that the end of the process is the end of the pipe
        pipes.append((process, receiver))
    outcomes = [receiver.recv() for _, receiver in pipes]
    for process, _ in pipes:
        process.join()
    return sorted(outcomes, key=lambda outcome: outcome == "made")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("races")
    fill(root / "source", num_images=8)
    convert(DATASET, root / "source", root / "whole", OPTIONS)
    return root / "source", files_of(root / "whole")


def check_outcomes(outcomes, store, whole):
    assert outcomes[1] == "made"
    assert "\n" not in outcomes[0]
    assert "store exists; use another name" in outcomes[0] or "is in use by" in outcomes[0]
    assert files_of(store) == whole
    verify(store)
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def race_from_the_start(source, tmp_path, trial):
    images, whole = source
    store = tmp_path / f"race{trial}" / "store"
    action = partial(convert, DATASET, images, store, OPTIONS)
    check_outcomes(race(action, action), store, whole)


def race_at_the_end(source, tmp_path, trial):
    images, whole = source
    store = tmp_path / f"race{trial}" / "store"
    draft = draft_store(DATASET, images, store, OPTIONS)
    convert_shards(draft, range(len(draft.blocks)), workers=1)
    check_outcomes(race(draft.finish, draft.finish), store, whole)


@pytest.mark.parametrize("meet", [race_from_the_start, race_at_the_end])
def test_two_commands_make_one_whole_store(meet, source, tmp_path):
    meet(source, tmp_path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("meet", [race_from_the_start, race_at_the_end])
def test_two_commands_make_one_whole_store_in_twenty_races(meet, source, tmp_path):
    for trial in range(20):
        meet(source, tmp_path, trial)


def test_commands_of_other_seeds_leave_one_of_their_stores(source, tmp_path):
    images, _ = source
    store = tmp_path / "race" / "store"
    actions = [
        partial(convert, DATASET, images, store, Options(seed=seed, chunk_rows=4, shard_rows=8))
        for seed in (1, 2)
    ]
    outcomes = race(*actions)
    assert outcomes == [f"{store} exists; use another name", "made"]
    seed = verify(store).attributes["seed"]
    shutil.rmtree(store)
    actions[seed - 1]()
    assert [path.name for path in store.parent.iterdir()] == ["store"]
