"""Where every file of a run lies: the one owner of the run directory's layout."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lenshpc.errors import ConfigError, read_error

RUNS = Path("runs")
HASHES = "hashes.json"  # in a checkpoint, of all its files


@dataclass(frozen=True)
class MemberPaths:
    """The files of one member; `done` is written last."""

    root: Path

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints that training resumes from; removed when training ends."""
        return self.root / "checkpoint"

    @property
    def owner(self) -> Path:
        """The name of the attempt that may write the files."""
        return self.root / "owner"

    @property
    def progress(self) -> Path:
        """The whole history; written when training has ended, before the predictions."""
        return self.root / "progress.json"

    @property
    def metrics(self) -> Path:
        """JSON lines, one an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        """The best epoch's weights."""
        return self.root / "model.safetensors"

    @property
    def predictions(self) -> Path:
        """Values of each row that the member predicts: log-probabilities, scores."""
        return self.root / "predictions.parquet"

    @property
    def arrays(self) -> Path:
        """Arrays of the same rows in the same order, such as embeddings or images."""
        return self.root / "arrays.zarr"

    @property
    def state(self) -> Path:
        """What the member is doing, for people and for `status`."""
        return self.root / "state.json"

    @property
    def tracking(self) -> Path:
        """Folder of what trackers write, a folder each; nothing of lenshpc reads it."""
        return self.root / "tracking"

    @property
    def profile(self) -> Path:
        """Folder of the trace of some steps, where the recipe asks for one."""
        return self.root / "profile"

    @property
    def done(self) -> Path:
        """The outputs with their hashes: the mark that the member is complete."""
        return self.root / "done.json"


@dataclass(frozen=True)
class RunPaths:
    """The files of one run; with `judging` its report is one beside the run's own."""

    root: Path
    judging: str = ""

    @property
    def name(self) -> str:
        """Return the run's name: recipe and fingerprint."""
        return self.root.name

    @property
    def plan(self) -> Path:
        """The Plan as JSON."""
        return self.root / "plan.json"

    @property
    def size(self) -> Path:
        """Nodes and GPUs of members, where `resume` was given others than the Plan has."""
        return self.root / "size.json"

    @property
    def splits(self) -> Path:
        """The split manifest: row, id, label, split, fold."""
        return self.root / "splits.parquet"

    @property
    def provenance(self) -> Path:
        """Where, when and from which command and packages the run came."""
        return self.root / "provenance.json"

    @property
    def code(self) -> Path:
        """Folder of the code that jobs run: a copy of the package for each that was submitted."""
        return self.root / "code"

    @property
    def slurm(self) -> Path:
        """Folder of submitit: scripts, pickles and logs; private to the user."""
        return self.root / "slurm"

    @property
    def hides_jobs(self) -> bool:
        """Return whether another user keeps the folder of submitit to himself."""
        may_look = os.access(self.slurm, os.R_OK | os.X_OK, effective_ids=True)
        return self.slurm.exists() and not may_look

    @property
    def site(self) -> Path:
        """The site profile of the latest submission."""
        return self.slurm / "site.json"

    @property
    def jobs(self) -> Path:
        """JSON lines, one a job that was submitted."""
        return self.slurm / "jobs.jsonl"

    @property
    def rendezvous(self) -> Path:
        """Folder where ranks meet, a folder an attempt; private to the user."""
        return self.slurm / "rendezvous"

    @property
    def excluded(self) -> Path:
        """JSON lines, one a node that the run's jobs avoid."""
        return self.slurm / "excluded.jsonl"

    def next(self, job: str) -> Path:
        """Shell lines by which a member's job comes back after its latest attempt."""
        return self.slurm / f"{job}_next.sh"

    def attempts(self, job: str) -> Path:
        """JSON lines, one an event of a member's job (`123_4`, `123` or a local process)."""
        return self.slurm / f"{job}_attempts.jsonl"

    def list_attempted(self) -> list[str]:
        """Return the jobs of members that have told of an attempt."""
        end = "_attempts.jsonl"
        found = [] if self.hides_jobs else self.slurm.glob(f"*{end}")
        return sorted(path.name.removesuffix(end) for path in found)

    def usage(self, attempt: str, rank: int) -> Path:
        """What a rank of an attempt has used, as JSON."""
        return self.slurm / "usage" / f"{attempt}.{rank}.json"

    def list_measured(self) -> list[Path]:
        """Return the files of what ranks have used."""
        return [] if self.hides_jobs else sorted((self.slurm / "usage").glob("*.json"))

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / f"report{self._suffix}"

    @property
    def merged(self) -> Path:
        """Images that were merged from the members', of tasks that make images."""
        return self.root / f"merged{self._suffix}.zarr"

    @property
    def cache(self) -> Path:
        """Folder of what an aggregation keeps for the next one; it can be deleted."""
        return self.root / "cache"

    @property
    def _suffix(self) -> str:
        return f"-{self.judging}" if self.judging else ""

    @property
    def samples(self) -> Path:
        """Images that a generative model drew: an array for each member and seed."""
        return self.root / "samples.zarr"

    def member(self, name: str) -> MemberPaths:
        """Return the files of the member of that name."""
        return MemberPaths(self.root / "members" / name)


def list_checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, oldest first."""
    # Drafts begin with a dot, so the pattern never finds one. As numbers: as text epoch-10000
    # stands before epoch-9999.
    names = (path.name for path in folder.glob("epoch-*"))
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def find_runs(folder: Path) -> list[RunPaths]:
    """Return the runs in a folder by name, with those that may not be looked into."""
    try:
        names = sorted(path.name for path in folder.iterdir() if _may_be_run(path))
    except FileNotFoundError as error:
        if folder == RUNS:  # no run was submitted here yet
            return []
        raise ConfigError(f"no folder {folder}; give the folder of runs with --runs") from error
    except OSError as error:
        raise read_error(folder, error) from error
    return [RunPaths((folder / name).resolve()) for name in names]


def _may_be_run(folder: Path) -> bool:
    try:
        (folder / "plan.json").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def find_run(text: str, runs: Path = RUNS) -> RunPaths:
    """Return the run of a path, a name in `runs`, or an unambiguous beginning of one."""
    for candidate in (Path(text), runs / text):
        if (candidate / "plan.json").is_file():
            return RunPaths(candidate.resolve())
    matches = find_runs(runs)
    close = [run for run in matches if run.name.startswith(text)]
    if text and len(close) == 1:
        return close[0]
    if any((place / "study.json").is_file() for place in (Path(text), runs / text)):
        raise ConfigError(f"{text!r} is a study, not a run; see: lenshpc tune --status {text}")
    found = ", ".join(run.name for run in close or matches) or "none"
    what = "several runs begin with" if len(close) > 1 else "no run"
    raise ConfigError(f"{what} {text!r}; runs in {runs.resolve()}: {found}")
