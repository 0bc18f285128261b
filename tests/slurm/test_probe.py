"""A probe of batch sizes as a job on the real cluster, and Ctrl-C while it waits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from ranks import recipe
from spot_runs import wait_for

LENSHPC = Path(sys.executable).with_name("lenshpc")


def start(folder: Path, store: Path) -> subprocess.Popen[str]:
    (folder / "mine.yaml").write_text(json.dumps(recipe().model_dump(mode="json")))
    asked = ["submit", "--recipe", "./mine.yaml", "--data", str(store), "--site", "rehearsal"]
    return subprocess.Popen(
        [LENSHPC, *asked, "--gpus-per-node", "0", "--probe", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_probe_runs_on_a_node_and_leaves_neither_files_nor_jobs(cluster, spots, tmp_path) -> None:
    out, err = start(tmp_path, spots.path).communicate(timeout=300)
    told = json.loads(out or "null")
    assert told, err
    assert [one["batch_size"] for one in told["batches"]][:3] == [2, 4, 8]
    assert told["set"]["train.batch_size"] == max(
        one["batch_size"] for one in told["batches"] if one["fits"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert cluster.squeue() == []

    stopped = start(tmp_path, spots.path)
    wait_for(lambda: cluster.squeue() != [])
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    wait_for(lambda: cluster.squeue() == [])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
