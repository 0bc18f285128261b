"""Find the largest batch of a recipe: a small job on a node of the site, or a process here."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lenshpc.errors import ConfigError, LaunchError, LensHpcError, one_line
from lenshpc.launch import executor
from lenshpc.launch.examine import ask_states, cancel_jobs, make_shared_folder
from lenshpc.launch.executor import Sending
from lenshpc.launch.shards import jobs_folder
from lenshpc.launch.sites import Site
from lenshpc.launch.submit import write_run
from lenshpc.run.paths import RunPaths
from lenshpc.run.planning import PlannedRun
from lenshpc.run.probed import ProbedBatch, read_probed

TIME_MIN = 30
POLL_S = 0.5
PATIENCE_S = 60.0  # with a job that is cancelled

Call = Callable[[str], None]


def probe_batches(
    planned: PlannedRun, site: Site, call: Call, tell: Callable[[str], None]
) -> list[ProbedBatch]:
    """Return what a process of the run's first member takes at once, by size, ascending.

    `call` is what a job runs. `tell` hears how far it is. Nothing stays: neither the folder of the
    probe, below the current one, nor its job, however this ends.
    """
    with _ending_well(), make_shared_folder(Path(), "probe") as folder:
        run = RunPaths(folder / planned.paths.root.name)
        write_run(replace(planned, paths=run), site)
        begin = _on_slurm if site.scheduler == "slurm" else _here
        with begin(run, planned, site, call) as ask_state:
            while state := ask_state():
                tell(_describe(state, read_probed(run)))
                time.sleep(POLL_S)
        found = [_judge(one) for one in read_probed(run)]
        logs = "\n".join(path.read_text(errors="replace") for path in run.slurm.glob("*.out"))
        _check(found, logs)
        return found


@contextmanager
def _ending_well() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does, with what it leaves behind cleaned up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(found: list[ProbedBatch], logs: str) -> None:
    last = next((line for line in reversed(logs.splitlines()) if line.strip()), "it wrote nothing")
    if "Traceback" in logs or not found:
        raise LaunchError(f"the probe failed: {one_line(last)[:300]}")
    if not found[0].fits:
        raise ConfigError(
            f"{found[0].batch_size} images do not fit into the memory of one process; use smaller "
            "images or another network, or on CPUs a larger --set resources.mem_gb_per_gpu=N"
        )


def _judge(batch: ProbedBatch) -> ProbedBatch:
    """Return a size that was begun and never measured as one that does not fit."""
    return batch if batch.images_per_s else batch.model_copy(update={"fits": False})


def _describe(state: str, found: list[ProbedBatch]) -> str:
    if not found:
        return f"probe: {state.lower()}"
    return f"probe: {found[-1].batch_size} images at once"


@contextmanager
def _here(
    run: RunPaths, planned: PlannedRun, site: Site, call: Call
) -> Iterator[Callable[[], str]]:
    """Yield what asks a process of this machine for its state, empty once it has ended."""
    del planned, site, call
    command = [sys.executable, "-P", "-m", "lenshpc.engine.probing", str(run.root)]
    with (run.slurm / "probe.out").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield lambda: "running" if process.poll() is None else ""
        finally:
            process.kill()
            process.wait()


@contextmanager
def _on_slurm(
    run: RunPaths, planned: PlannedRun, site: Site, call: Call
) -> Iterator[Callable[[], str]]:
    """Yield what asks SLURM for the job's state, empty once it has ended."""
    place = jobs_folder(run.slurm, site.model_copy(update={"time_min": TIME_MIN}))
    size, name = planned.plan.recipe.resources, f"{planned.plan.run_name}-probe"
    request = executor.inference_request(name, size, place, run.slurm, 1)
    job = executor.submit_single(request, Sending(), call, run.root)

    def ask_state() -> str:
        return ask_states({job}).get(job, "")

    try:
        yield ask_state
    finally:
        with suppress(LensHpcError):  # it has ended
            cancel_jobs({job})
            # Until then it writes into the folder, which could not be removed.
            deadline = time.monotonic() + PATIENCE_S
            while ask_state() and time.monotonic() < deadline:
                time.sleep(POLL_S)
