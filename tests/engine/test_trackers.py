"""What trackers write, read back by their own packages; and that a training is none the wiser."""

import shutil
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import pytest
from mlflow.tracking import MlflowClient
from ranks import finish, planned, recipe
from ranks import start as begin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from lenshpc.cli.submit import submit
from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.engine.trackers import TRACKERS
from lenshpc.engine.tracking import TrainingStart, track
from lenshpc.files import read_sealed, sha256, write_json
from lenshpc.launch.sites import Tracking, load_site
from lenshpc.run.completion import is_done
from lenshpc.store import Store
from lenshpc.worker import run_member as run_here

LOSSES = (0.5, 0.25, 0.125, 0.0625)  # of four epochs; floats of 32 bits hold them


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back what trackers set, and no key of the tester's."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "WANDB_MODE"):
        monkeypatch.setenv(name, "true" if name.startswith("MLFLOW") else "offline")
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 8)


def start_of(folder: Path, member: int = 0) -> TrainingStart:
    return TrainingStart(
        run="lens-9f2c51ab",
        member=f"00{member}-resnet18-fold{member}-seed0",
        fingerprint=f"{member}123456789abcdef" * 4,
        recipe={"train.lr": 0.001, "models": ["resnet18"]},
        steps=10,
        run_folder=folder,
        folder=folder / f"{member}" / "tracking",
    )


def tell(name: str, start: TrainingStart, num_epochs: int, end: Exception | None = None) -> None:
    """Have a tracker hear of a training that has come so far, or has ended so."""
    lines = tuple({"epoch": float(at), "val_loss": LOSSES[at]} for at in range(num_epochs))
    try:
        with track({name: TRACKERS[name]}, start) as hear:
            hear(MemberProgress(fingerprint="f", world_size=1, history=lines))
            if end:
                raise end
    except Stopped:
        pass


def points(events: Iterable) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events]


def wandb_records(content: bytes) -> Iterator[Record]:
    """Yield the records of a file of less than 32 KiB: after 7 bytes, a header and a message each.

    A header is a checksum, a length and a kind: 1 is a whole record.
    """
    at = 7
    while at < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, at)
        assert kind == 1
        yield Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length


def test_tensorboard_reads_one_curve_of_two_attempts(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    tell("tensorboard", start, 2, Stopped(15))
    # killed between its second epoch and the note of it
    (start.folder / "tensorboard" / "told").write_text(f"{start.fingerprint} 1\n")
    tell("tensorboard", start, 4)
    seen = EventAccumulator(str(start.folder / "tensorboard"))
    seen.Reload()
    assert seen.Tags()["scalars"] == ["epoch", "val_loss"]
    assert points(seen.Scalars("val_loss")) == list(enumerate(LOSSES, start=1))
    (text,) = seen.Tensors("recipe/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines() == [
        "| key | value |",
        "|---|---|",
        "| run | lens-9f2c51ab |",
        "| member | 000-resnet18-fold0-seed0 |",
        f"| fingerprint | {start.fingerprint} |",
        "| steps_an_epoch | 10 |",
        "| train.lr | 0.001 |",
        "| models | ['resnet18'] |",
    ]


def test_tensorboard_reads_a_training_that_goes_on(tmp_path: Path) -> None:
    start = replace(start_of(tmp_path), folder=tmp_path)
    tracker = TRACKERS["tensorboard"]()
    tracker.start(start)
    tracker.epoch(1, {"val_loss": 0.5})
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    assert points(seen.Scalars("val_loss")) == [(1, 0.5)]
    tracker.end("trained")


def test_mlflow_has_a_run_a_member_that_goes_on(tmp_path: Path) -> None:
    first, second = start_of(tmp_path), start_of(tmp_path, 1)
    tell("mlflow", first, 2, Stopped(15))
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("lens-9f2c51ab")
    (stopped,) = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    tell("mlflow", second, 1)
    tell("mlflow", first, 4)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [first.member, second.member]
    run = runs[first.member]
    assert run.info.run_id == stopped.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "run": "lens-9f2c51ab",
        "member": "000-resnet18-fold0-seed0",
        "fingerprint": first.fingerprint,
        "steps_an_epoch": "10",
        "train.lr": "0.001",
        "models": "['resnet18']",
    }
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert points(history) == list(enumerate(LOSSES, start=1))


def test_members_that_begin_at_once_share_an_experiment_of_mlflow(tmp_path: Path) -> None:
    starts = [start_of(tmp_path, member) for member in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda start: tell("mlflow", start, 1), starts))
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    ours = [one for one in client.search_experiments() if one.name != "Default"]
    assert [one.name for one in ours] == ["lens-9f2c51ab"]
    runs = client.search_runs([ours[0].experiment_id])
    assert sorted(run.info.run_name for run in runs) == [start.member for start in starts]


def test_wandb_writes_offline_and_no_key(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    tell("wandb", start, 2, Stopped(15))
    tell("wandb", start, 4)
    folder = start.folder / "wandb"
    told, ids = [], set()
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(path.read_bytes()):
            if record.WhichOneof("record_type") == "run":
                ids.add((record.run.project, record.run.display_name, record.run.run_id))
            items = {"".join(item.nested_key): item.value_json for item in record.history.item}
            if "val_loss" in items:
                told.append((int(items["_step"]), float(items["val_loss"])))
    assert ids == {("lens-9f2c51ab", start.member, start.fingerprint[:16])}
    assert sorted(told) == list(enumerate(LOSSES, start=1))
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not any(b"secretsecret" in content for content in written)


def test_site_says_who_follows(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(resources__gpus_per_node=0, train__epochs=1))
    run_here(str(run.root), 0)
    paths = run.member(plan.members[0].name)
    assert not paths.tracking.exists(), "nothing is said"
    shutil.rmtree(paths.root)
    site = load_site("local").model_copy(update={"tracking": ("tensorboard",)})
    write_json(run.site, site.model_dump(mode="json"))
    run_here(str(run.root), 0)
    assert [path.name for path in paths.tracking.iterdir()] == ["tensorboard"]


@pytest.mark.slow
def test_first_rank_alone_is_heard(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(resources__gpus_per_node=2))
    site = load_site("local").model_copy(update={"tracking": ("tensorboard",)})
    write_json(run.site, site.model_dump(mode="json"))
    finish(begin([run], 0, world_size=2))
    folder = run.member(plan.members[0].name).tracking / "tensorboard"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    seen = EventAccumulator(str(folder))
    seen.Reload()
    assert [step for step, _ in points(seen.Scalars("val_auc"))] == [1, 2]


def test_training_is_the_same_with_trackers_and_its_mark_has_nothing_of_them(
    spots: Store, tmp_path: Path
) -> None:
    marks = []
    for trackers in ({}, dict(TRACKERS)):
        run, plan = planned(tmp_path / str(len(trackers)), spots, recipe(train__epochs=2))
        run_member(run, 0, Signals(), trackers=trackers)
        assert is_done(run, plan, plan.members[0], verify=True)
        paths = run.member(plan.members[0].name)
        marks.append(read_sealed(paths.done)["files"])
        assert [sha256(paths.weights), sha256(paths.predictions)] == [
            marks[-1]["model.safetensors"],
            marks[-1]["predictions.parquet"],
        ]
    assert sorted(path.name for path in paths.tracking.iterdir()) == sorted(TRACKERS)
    alone, followed = marks
    assert set(alone) == set(followed)
    assert {name for name in alone if alone[name] != followed[name]} <= {"metrics.jsonl"}  # seconds


def test_command_and_profile_offer_what_there_is() -> None:
    (offered,) = [option for option in submit.params if option.name == "track"]
    assert isinstance(offered.type, click.Choice)
    assert [*offered.type.choices] == [*get_args(Tracking)] == [*TRACKERS]
