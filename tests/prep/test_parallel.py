"""Sharing work among processes: all is done once, failures are heard, nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lenshpc.errors import DataError, LensHpcError
from lenshpc.prep.parallel import share


@dataclass(frozen=True)
class Touch:
    """Make a file for each item; some items fail."""

    folder: Path

    def __call__(self, item, count):
        if item == "broken":
            raise DataError("item is broken; mend it")
        if item == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(item)).write_text(str(os.getpid()))
        count(1)


@pytest.mark.parametrize("workers", [1, 3])
def test_all_items_are_done_by_as_many_processes_as_asked(workers, tmp_path):
    seen = []
    share(
        Touch(tmp_path),
        range(7),
        workers=workers,
        num_rows=7,
        progress=lambda done, total: seen.append((done, total)),
    )
    done_by = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(done_by) == [str(item) for item in range(7)]
    assert len(set(done_by.values())) == workers
    assert (str(os.getpid()) in done_by.values()) == (workers == 1)
    assert seen == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_a_process_is_raised_here(workers, tmp_path):
    with pytest.raises(DataError, match="item is broken; mend it"):
        share(Touch(tmp_path), ["a", "b", "broken"], workers=workers, num_rows=3, progress=None)


def test_death_of_a_process_is_told(tmp_path):
    with pytest.raises(LensHpcError, match="ended with code -9, perhaps for lack of memory"):
        share(Touch(tmp_path), ["a", "killed"], workers=2, num_rows=2, progress=None)


PARENT = """
from pathlib import Path
import sys, time
from test_parallel import Slow
from lenshpc.prep.parallel import share
if __name__ == "__main__":
    share(Slow(Path(sys.argv[1])), range(10000), workers=2, num_rows=10000, progress=None)
"""


@dataclass(frozen=True)
class Slow:
    """Note the process and take a while."""

    folder: Path

    def __call__(self, item, count):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.02)
        count(1)


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_processes_of_a_killed_parent_end(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    (tmp_path / "workers").mkdir()
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path / "workers"], env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 30
    while len(workers := [int(p.name) for p in (tmp_path / "workers").iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "processes outlive their parent"
        time.sleep(0.05)


SLOW_TO_IMPORT = """
import os, time
open(f"imported-{os.getpid()}", "w").close()
time.sleep(0.5)
class Work:
    def __call__(self, item, count):
        time.sleep(0.05)
        count(1)
"""
STOPPED = """
import signal, sys
from lenshpc.prep.parallel import share
from slow_to_import import Work
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        share(Work(), range(1000), workers=2, num_rows=1000, progress=None)
    except KeyboardInterrupt:
        sys.exit("stopped")
"""


def test_processes_say_nothing_of_ctrl_c_even_as_they_are_started(tmp_path):
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT)
    (tmp_path / "parent.py").write_text(STOPPED)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while len([*tmp_path.glob("imported-*")]) < 2:  # by the parent, by the server of processes
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=30) == (None, "stopped\n")
    assert parent.returncode == 1


def test_nothing_is_imported_from_the_folder_of_the_command(tmp_path):
    # The server of the processes, and what tracks their resources, are `python -c`.
    (tmp_path / "multiprocessing.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r}); raise SystemExit(3)"
    )
    script = "from lenshpc.prep.parallel import share; from test_parallel import Touch; "
    script += f"from pathlib import Path; share(Touch(Path({str(tmp_path)!r})), ['a', 'b'], "
    script += "workers=2, num_rows=2, progress=None)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"a", "b"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "ran").exists()
