"""Images drawn by a finished member: a walk that begins and ends in draws, samples by shares."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from damage import damaged, files_below
from generation_run import make_generation_run
from safetensors.torch import save_file

from lenshpc.cli.main import main
from lenshpc.engine.load import load_task
from lenshpc.errors import DataError
from lenshpc.run.completion import hash_outputs, mark_done
from lenshpc.run.samples import SHARD_ROWS, open_samples
from lenshpc.tasks.diffusion.generate import FRAMES_A_LEG, NUM_STOPS, open_generator
from lenshpc.tasks.diffusion.sampling import slerp
from lenshpc.tasks.diffusion.task import SAMPLES
from lenshpc.worker import draw_share


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run whose first member has weights, drawn at random."""
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": (1, 2), "blocks": 1, "sampling_steps": 2}
    paths, plan, *_ = make_generation_run(
        tmp_path_factory.mktemp("draws"), folds=1, guidance={"dropout": 0.1}, **small
    )
    files = paths.member(plan.members[0].name)
    facts = {"mean": [0.2], "std": [0.1]}
    mark_done(paths, plan, plan.members[0], hash_outputs(files), facts)
    model = load_task(plan, paths, plan.members[0]).build_model("unet")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(model.state_dict(), files.weights)
    mark_done(paths, plan, plan.members[0], hash_outputs(files), facts)
    return paths, plan


def sample(run, *options):
    return CliRunner().invoke(main, ["sample", str(run[0].root), *options])


def test_walk_goes_through_the_draws_exactly(run):
    paths, plan = run
    generator = open_generator(plan, paths, plan.members[0])
    frames = generator.walk()
    assert frames.shape == (NUM_STOPS * FRAMES_A_LEG, 1, 16, 16)
    for stop in range(NUM_STOPS):
        with torch.no_grad():
            drawn = generator.task.draw(
                generator.model, SAMPLES, 0, torch.tensor([stop]), torch.zeros(1, dtype=torch.int64)
            )
        assert np.array_equal(frames[stop * FRAMES_A_LEG], drawn[0].numpy())


def test_samples_do_not_depend_on_the_number_of_jobs(run):
    num = SHARD_ROWS + 40
    assert sample(run, "--num", str(num), "--seed", "1").exit_code == 0
    paths, plan = run
    alone = open_samples(paths, plan, plan.members[0], 1)
    assert alone.missing() == []
    whole = alone.array[:]
    assert np.isfinite(whole).all()

    shard = alone.path / "c" / "1"
    before = [path.read_bytes() for path in shard.rglob("*") if path.is_file()]
    for path in shard.rglob("*"):
        if path.is_file():
            path.unlink()  # the folders stay, as where a job is killed before it writes
    assert alone.missing() == [1]
    draw_share(str(paths.root), 0, 2, 0, 1)
    assert alone.missing() == [1], "the shard is the other job's"
    draw_share(str(paths.root), 1, 2, 0, 1)
    assert [path.read_bytes() for path in shard.rglob("*") if path.is_file()] == before
    assert np.array_equal(open_samples(paths, plan, plan.members[0], 1).array[:], whole)


@pytest.mark.parametrize("name", ["c/0/0/0/0", "sha256/0"])
def test_damaged_samples_are_drawn_again(run, name):
    assert sample(run, "--num", "3", "--seed", "4").exit_code == 0
    samples = open_samples(run[0], run[1], run[1].members[0], 4)
    before = files_below(samples.path)
    written = [path.read_bytes() for path in before]
    with damaged([samples.path / name], seed=1):
        assert samples.missing() == [0]
    (samples.path / name).write_bytes(b"x")
    assert sample(run, "--num", "3", "--seed", "4").exit_code == 0
    assert [path.read_bytes() for path in before] == written


def test_array_of_samples_that_was_altered_is_refused(run):
    assert sample(run, "--num", "3", "--seed", "5").exit_code == 0
    path = run[0].samples / "member0_seed5" / "zarr.json"
    for seed in range(20):
        with damaged([path], seed):
            done = sample(run, "--num", "3", "--seed", "5")
            assert done.exit_code == 2
            assert str(path) in done.stderr


def test_command_prints_where_the_samples_are(run):
    done = sample(run, "--num", "3", "--seed", "2", "--json")
    assert json.loads(done.stdout) == {
        "samples": str(run[0].samples / "member0_seed2"),
        "num": 3,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num", "4", "--seed", "3"), "was begun for 3 samples, not 4; ask for that many"),
        (("--member", "7"), "has members 0 to 0"),
        (("--site", "local", "--array-size", "2"), "has no scheduler"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, options, message):
    sample(run, "--num", "3", "--seed", "3")
    refused = sample(run, *options)
    assert refused.exit_code == 2
    assert message in refused.stderr


def test_slerp_keeps_the_norm_and_its_ends():
    torch.manual_seed(0)
    one, other = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    assert slerp(one, other, 0.0) is one
    assert slerp(one, other, 1.0) is other
    norms = [slerp(one, other, part).norm().item() for part in (0.25, 0.5, 0.75)]
    assert norms == pytest.approx([math.sqrt(64 * 64)] * 3, rel=0.03)


def test_slerp_of_a_right_angle_is_the_circle():
    one, other = torch.eye(2, dtype=torch.float64)
    found = slerp(one, other, 1 / 3)
    expected = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_slerp_of_one_direction_is_the_straight_line():
    one = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(one, 2 * one, 0.5), 1.5 * one)


def test_samples_of_another_seed_or_shard_are_not_taken_for_these(run):
    for seed in ("8", "9"):
        assert sample(run, "--num", str(SHARD_ROWS + 40), "--seed", seed).exit_code == 0
    paths, plan = run
    samples = open_samples(paths, plan, plan.members[0], 8)
    # A whole shard with its mark, but of the other seed: it counts as not drawn.
    other = open_samples(paths, plan, plan.members[0], 9)
    for name in ("c/1/0/0/0", "sha256/1"):
        shutil.copy(other.path / name, samples.path / name)
    assert samples.missing() == [1]
    aside = samples.path.rename(samples.path.with_name("aside"))
    other.path.rename(samples.path)
    told = rf"holds samples of {plan.members[0].name} with seed 9; put it back, or move it away"
    with pytest.raises(DataError, match=told):
        open_samples(paths, plan, plan.members[0], 8)
    samples.path.rename(other.path)
    aside.rename(samples.path)
