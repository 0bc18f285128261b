"""The trackers that are offered, each by the package of its extra."""

import fcntl
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lenshpc.engine.tracking import End, Tracker, TrainingStart
from lenshpc.files import write_text

MAX_PARAMS, MAX_LENGTH = 100, 6000  # that MLflow takes at a time, and of a parameter's text


class TensorBoard:
    """Event files in the member's folder, one an attempt, flushed after each epoch."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = SummaryWriter

    def start(self, start: TrainingStart) -> None:
        """Open a file beside those of earlier attempts."""
        # An epoch that was written when an earlier attempt was killed comes again: the first is
        # not shown.
        self._writer = self._open(str(start.folder), purge_step=start.epochs_told + 1)
        if start.epochs_told == 0:
            rows = [f"| {key} | {value} |" for key, value in describe(start).items()]
            table = "\n".join(["| key | value |", "|---|---|", *rows])
            self._writer.add_text("recipe", table, 0)
        self._writer.flush()

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def end(self, how: End) -> None:  # noqa: ARG002 - a file of curves has no end
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of MLflow a member, an experiment a run of ours, in files below the run's folder."""

    def __init__(self) -> None:
        # Before the import. MLflow calls its store of files old; databases, its new way, are for no
        # shared file system.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._open, self._param = MlflowClient, Param

    def start(self, start: TrainingStart) -> None:
        """Go on with the run of an earlier attempt, or begin one."""
        store = start.run_folder / "mlflow"
        store.mkdir(exist_ok=True)
        # Members begin at the same time, and two must not both make the experiment.
        with (store / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._client = self._open(tracking_uri=store.as_uri())
            found = self._client.get_experiment_by_name(start.run)
            experiment = found.experiment_id if found else self._client.create_experiment(start.run)
        noted = start.folder / f"run-{start.fingerprint[:16]}"
        if noted.exists():
            self._run = noted.read_text(encoding="utf-8")
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=start.member).info.run_id
        told = describe(start).items()
        params = [self._param(key, str(value)[:MAX_LENGTH]) for key, value in told]
        for at in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self._run, params=params[at : at + MAX_PARAMS])
        write_text(noted, self._run)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=number)

    def end(self, how: End) -> None:
        """Say how it ended."""
        words = {"trained": "FINISHED", "given up": "FINISHED", "stopped": "KILLED"}
        self._client.set_terminated(self._run, words.get(how, "FAILED"))


class WeightsAndBiases:
    """A run of Weights & Biases a member, offline unless WANDB_MODE says otherwise."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        import wandb

        self._wandb = wandb

    def start(self, start: TrainingStart) -> None:
        """Begin a run, or another part of it under the same id."""
        settings = self._wandb.Settings(
            # Nothing of the machine, the command or the log; and no wait for a network.
            console="off",
            disable_code=True,
            disable_git=True,
            finish_timeout=5.0,
            init_timeout=60.0,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self._run = self._wandb.init(
            project=start.run,
            name=start.member,
            id=start.fingerprint[:16],
            config=describe(start),
            dir=start.folder,
            resume="allow",
            settings=settings,
        )

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(figures), step=number)

    def end(self, how: End) -> None:
        """Say how it ended."""
        self._run.finish(exit_code=int(how in {"stopped", "failed"}))
        # Its own process writes the file some time after `finish`; this waits for its end, for
        # which nobody has to wait when this process ends.
        self._wandb.teardown()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def choose_trackers(names: Iterable[str]) -> dict[str, Callable[[], Tracker]]:
    """Return the trackers of these names."""
    return {name: TRACKERS[name] for name in names}


def describe(start: TrainingStart) -> dict[str, Any]:
    """Return the recipe by dotted keys, and who trains by it."""
    who = {"run": start.run, "member": start.member, "fingerprint": start.fingerprint}
    return {**who, "steps_an_epoch": start.steps, **start.recipe}
