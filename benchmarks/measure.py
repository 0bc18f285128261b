"""Time rivals in turn, each in a process of its own; print medians, ranges and ratios.

Imports the standard library only, since it runs in the rivals' environments too.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
LOADING_PYTHON = HERE.parent / ".venv-rivals-loading" / "bin" / "python"
TRAINING_PYTHON = HERE.parent / ".venv-rivals-training" / "bin" / "python"
DIFFUSION_PYTHON = HERE.parent / ".venv-rivals-diffusion" / "bin" / "python"
NUM_PROCESSES = 2
IMAGE_SHAPE = (3, 64, 64)
BATCH_SIZE = 32


@dataclass(frozen=True)
class Cost:
    """What one run took; the CPU seconds are those of all its processes that have ended."""

    seconds: float
    cpu_seconds: float


Turn = Callable[[str], Cost]


@dataclass(frozen=True)
class Table:
    """What a benchmark prints."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at."""

    what: str
    ratio: float
    least: float

    @property
    def row(self) -> list[str]:
        """Return a row of the table of targets."""
        verdict = "yes" if self.ratio >= self.least else "NO"
        return [self.what, f"{self.ratio:.2f}", f"≥ {self.least:g}", verdict]


def arguments(description: str, *, num: int, repeats: int) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--num", type=int, default=num, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--folder", type=Path, help="where to write; its file system is the one measured"
    )
    return parser.parse_args()


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """Yield a temporary folder, in the checkout unless another place is given."""
    with tempfile.TemporaryDirectory(prefix="lenshpc-bench-", dir=folder or HERE.parent) as name:
        yield Path(name)


def serve(run: Callable[[str], int]) -> None:
    """Do a run for each line of standard input; answer with its seconds and number of images."""
    for line in sys.stdin:
        began, cpu_began = time.perf_counter(), cpu_seconds()
        num_images = run(line.strip())
        cost = Cost(time.perf_counter() - began, cpu_seconds() - cpu_began)
        print(json.dumps({**asdict(cost), "num_images": num_images}), flush=True)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return sum(times[:4])


@contextmanager
def served(
    python: Path | str, *argv: object, num_images: int, cores: str | None = None
) -> Iterator[Turn]:
    """Yield what asks one run of a process that serves, started once for all rounds.

    With `cores`, as in `0,1`, it has these alone, and is stopped between its turns: what it does
    in the background falls into them.
    """
    pinned = ["taskset", "-c", cores] if cores else []
    command = [*pinned, str(python), "-W", "ignore", *map(str, argv)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=HERE,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(number: signal.Signals) -> None:
            if cores:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

        def turn(argument: str) -> Cost:
            tell(signal.SIGCONT)
            with suppress(BrokenPipeError):
                print(argument, file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()}")
            tell(signal.SIGSTOP)
            answer = json.loads(line)
            assert answer.pop("num_images") == num_images, line
            return Cost(**answer)

        try:
            yield turn
        finally:
            tell(signal.SIGCONT)


@dataclass(frozen=True)
class Took:
    """What an act took, and its process's largest resident memory, and that before it."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    before_mib: float


def measure_act(script: str, name: str, place: Path) -> Took:
    """Have a script do an act in a process of its own: `SCRIPT --act NAME PLACE`."""
    asked = [sys.executable, script, "--act", name, str(place)]
    done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def run_act(act: Callable[[], None]) -> None:
    """Do an act in this process, and print what it took."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what was imported
    before, cpu_began, began = _read_peak_mib(), cpu_seconds(), time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    print(json.dumps(asdict(Took(seconds, cpu_seconds() - cpu_began, _read_peak_mib(), before))))


def _read_peak_mib() -> float:
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def command(*argv: object) -> Turn:
    """Return what runs a command, the argument appended, its start included."""

    def turn(argument: str) -> Cost:
        began, cpu_began = time.perf_counter(), cpu_seconds()
        subprocess.run([*map(str, argv), argument], check=True, capture_output=True)
        return Cost(time.perf_counter() - began, cpu_seconds() - cpu_began)

    return turn


def rounds(turns: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Return what each gave in each round: A, B, C, A, B, C and so on."""
    results: dict[str, list[Any]] = {name: [] for name in turns}
    for number in range(repeats):
        for name, turn in turns.items():
            print(f"round {number + 1} of {repeats}: {name}", file=sys.stderr)
            results[name].append(turn())
    return results


def spread(values: Sequence[float], *, digits: int = 2) -> list[str]:
    """Return the median and the range as text."""
    middle, low, high = (f"{pick(values):.{digits}f}" for pick in (median, min, max))
    return [middle, f"{low}–{high}"]


def counted(batches: Callable[[int], Iterable[tuple[Any, Any]]]) -> Callable[[str], int]:
    """Return what goes through as many epochs as a line says and counts the images."""
    return lambda line: sum(_num_images(batches(epoch)) for epoch in range(int(line)))


def _num_images(batches: Iterable[tuple[Any, Any]]) -> int:
    """Return how many images a loader gave, each batch float32 tensors with as many labels."""
    total = 0
    for images, labels in batches:
        assert str(images.dtype) == "torch.float32"
        assert tuple(images.shape[1:]) == IMAGE_SHAPE
        assert len(labels) == len(images) <= BATCH_SIZE
        total += len(images)
    return total


def machine(packages: Sequence[str]) -> dict[str, str]:
    """Return what ran it, and how busy it is with other things."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    ours = ", ".join(f"{name} {version(name)}" for name in packages)
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores of {models[0]}, {memory_gb:.0f} GB",
        "versions": f"Python {platform.python_version()}, {ours}{_rivals_versions()}",
        "load average": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "run": f"{' '.join(['python', *sys.argv])}, {time.strftime('%Y-%m-%d')}",
    }


def _rivals_versions() -> str:
    files = sorted(HERE.glob("rivals-*.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return "".join(f", {line.replace('==', ' ')}" for line in lines if not line.startswith("torch"))


def report(tables: Sequence[Table], *, as_json: bool) -> None:
    """Print the machine and the tables."""
    facts = machine(("lenshpc", "torch", "numpy", "zarr"))
    if as_json:
        print(json.dumps({**facts, "tables": [asdict(table) for table in tables]}, indent=1))
        return
    print("\n".join(f"{name}: {value}  " for name, value in facts.items()))
    for table in tables:
        print(f"\n{table}")


def target_table(targets: Sequence[Target]) -> Table:
    """Return the table of what is aimed at."""
    rows = [target.row for target in targets]
    return Table("Targets", ("ratio", "measured", "target", "met"), rows)
