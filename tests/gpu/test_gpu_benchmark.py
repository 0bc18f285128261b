"""The benchmark of a GPU runs whole at toy size, so that it works the day a card is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
HOWS = (
    "bare step, fp32",
    "bare step, TF32",
    "bare step, bf16",
    "bare step, bf16, channels_last",
    "whole way, bf16, channels_last",
    "notebook, fp32",
    "notebook, bf16",
)
CASES = ("a small ResNet", "a small U-Net", "a small masked autoencoder")


def test_toy_measures_each_case_in_each_way(device: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--toy", "--seconds", "0.01"]
    command += ["--out", str(tmp_path / "out"), "--folder", str(tmp_path)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        command, env={**os.environ, **hidden}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(written) == {".json", ".md"}
    told = json.loads(written[".json"])
    assert (told["card"] == "cpu") == (device == "cpu")
    found = [(line["case"], line["how"]) for line in told["lines"]]
    assert found == [(case, how) for case in CASES for how in HOWS]
    assert all(line["images_per_s"] > 0 and line["tflops"] > 0 for line in told["lines"])
    assert all(f"| {case} | {how} |" in written[".md"] for case, how in found)
    assert done.stdout.endswith(written[".md"])
