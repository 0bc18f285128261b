"""Time `lenshpc predict` beside a hand-written loop, ONNX Runtime and torch.export.

Six networks, three resnet18 and three resnet34 as in the demo, look at the same images (3,64,64)
float32 in one process, in turn: the networks alone on prepared batches, a loop that prepares,
predicts and averages, `Ensemble.predict` from memory, `predict_parts` from a store to parts on
disk, and the two programs of an export. Prints medians and ratios, then the peak memory of
predictions of a tiny network at growing numbers of rows.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from measure import Table, scratch
from noise import make_store
from safetensors.torch import save_file

from lenshpc.engine.ensemble import BATCH_ROWS, Ensemble
from lenshpc.files import sha256
from lenshpc.inference.outputs import PredictionRequest, begin
from lenshpc.inference.predict import predict_parts
from lenshpc.inference.programs import FILES, export_programs
from lenshpc.models.backbones import build
from lenshpc.run.recipe import Recipe
from lenshpc.run.trained import EnsembleSpec, PixelStatistics, TrainedEnsemble, TrainedMember
from lenshpc.statistics.ensembles import Mixture, dump_mixture
from lenshpc.store import open_store

SIDE, CHANNELS = 64, ("g", "r", "i")
MODELS = ("resnet18", "resnet34")
FOLDS = 3
MEAN, STD = (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)
BATCH = BATCH_ROWS["cpu"]


def make_ensemble(
    folder: Path, models: tuple[str, ...], folds: int, shape: tuple
) -> TrainedEnsemble:
    """Return an ensemble of networks with random weights and random references."""
    members, weights, arrays = [], {}, {}
    for index, model in enumerate(name for name in models for _ in range(folds)):
        torch.manual_seed(index)
        network = build(model, image_shape=shape, num_outputs=2).eval()
        weights[index] = folder / f"{index}.safetensors"
        save_file(network.state_dict(), weights[index])
        with torch.no_grad():
            features = network.features(torch.rand(1000, *shape))
        arrays[f"embedding/{index}"] = features.half().numpy()
        members.append(
            TrainedMember(
                index=index,
                model=model,
                fold=index % folds,
                seed=0,
                mean=MEAN[: shape[0]],
                std=STD[: shape[0]],
                sha256=sha256(weights[index]),
            )
        )
    spec = EnsembleSpec(
        name="benchmark",
        fingerprint="0" * 64,
        recipe=Recipe(name="benchmark", task="lens-finding", models=models, folds=folds),
        dataset="noise",
        source={},
        classes=("nonlens", "lens"),
        channels=CHANNELS[: shape[0]],
        image_shape=shape,
        dtype="float32",
        pixels=PixelStatistics.of(np.random.default_rng(0).random((100, shape[0], 2)) + 1),
        members=tuple(members),
        fitted={
            "mixture": dump_mixture(Mixture(weights=(1 / len(models),) * len(models))),
            "threshold": 0.5,
            "oof_prior": 0.5,
            "calibration": None,
        },
    )
    return TrainedEnsemble(spec=spec, weights=weights, arrays=arrays)


def start_parts(out: Path, trained: TrainedEnsemble, store: Path) -> None:
    """Begin an output folder as the command does."""
    opened = open_store(store)
    request = PredictionRequest(
        ensemble=trained.spec.digest,
        name="benchmark",
        weights={index: str(path) for index, path in trained.weights.items()},
        code=None,
        is_foreign=False,
        source=str(store),
        source_digest=opened.content_hash,
        dataset=None,
        num_rows=opened.num_rows,
        part_rows=4096,
    )
    begin(out, request, trained)


def programs(folder: Path, ensemble: Ensemble, images: np.ndarray) -> dict[str, Callable]:
    """Return the two programs of an export."""
    folder.mkdir()
    pixels, starts = torch.from_numpy(images), range(0, len(images), BATCH)
    export_programs(ensemble, pixels[:5], folder, ("torch", "onnx"))
    exported = torch.export.load(folder / FILES["torch"]).module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / FILES["onnx"], options, providers=["CPUExecutionProvider"]
    )

    @torch.inference_mode()
    def by_export() -> None:
        for at in starts:
            exported(pixels[at : at + BATCH])

    def by_onnx() -> None:
        for at in starts:
            session.run(None, {"pixels": images[at : at + BATCH]})

    return {"torch.export program": by_export, "ONNX Runtime program": by_onnx}


def contestants(
    folder: Path, trained: TrainedEnsemble, images: np.ndarray
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    ensemble = Ensemble(trained)
    networks = [member.network for member in ensemble.members]
    pixels = torch.from_numpy(images)
    starts = range(0, len(images), BATCH)
    mean, std = (torch.tensor(one)[:, None, None] for one in (MEAN, STD))
    prepared = [(pixels[at : at + BATCH] - mean) / std for at in starts]

    @torch.inference_mode()
    def forward() -> None:
        for batch in prepared:
            for network in networks:
                network(batch)

    @torch.inference_mode()
    def loop() -> torch.Tensor:
        found = []
        for at in starts:
            batch = (pixels[at : at + BATCH] - mean) / std
            odds = [network(batch).softmax(dim=1) for network in networks]
            found.append(torch.stack(odds).mean(dim=0))
        return torch.cat(found)

    def from_store() -> None:
        out = folder / f"out{time.monotonic_ns()}"
        start_parts(out, trained, folder / "store")
        predict_parts(out)

    return {
        "networks alone, on prepared batches": forward,
        "hand-written loop": loop,
        "Ensemble.predict, from memory": lambda: ensemble.predict(images),
        "predict, from a store to parts": from_store,
        **programs(folder / "programs", ensemble, images),
    }


def measure_speed(folder: Path, num: int, repeats: int) -> Table:
    """Return a table of seconds and ratios."""
    make_store(folder / "store", num, SIDE, CHANNELS)
    trained = make_ensemble(folder, MODELS, FOLDS, (3, SIDE, SIDE))
    store = open_store(folder / "store")
    images = np.array(store.read_raw(slice(0, num)))
    turns = contestants(folder, trained, images)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(repeats):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - began)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    base = "hand-written loop"
    rows = [
        [
            name,
            f"{median(each):.1f}",
            f"{num / median(each):.0f}",
            f"{median(a / b for a, b in zip(each, seconds[base], strict=True)):.2f}",
        ]
        for name, each in seconds.items()
    ]
    title = f"{num} images, {len(MODELS) * FOLDS} networks, {torch.get_num_threads()} threads"
    return Table(title, ["", "s", "images/s", "of the loop's time"], rows)


def measure_memory(folder: Path, sizes: list[int]) -> Table:
    """Return a table of peak memory at several numbers of rows, each in a process of its own."""
    rows = []
    for num in sizes:
        place = folder / f"rows{num}"
        place.mkdir()
        command = [sys.executable, __file__, "--one", str(num), "--folder", str(place)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append([f"{num:,}", *done.stdout.split()])
    header = ["rows (1,8,8)", "s", "MiB with the model", "MiB at the end"]
    return Table("Peak memory of predict_parts, one tiny network", header, rows)


def predict_rows(folder: Path, num: int) -> None:
    """Predict that many rows in this process; print seconds and peak memory before and after."""
    make = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    make += f"from noise import *; make_store(Path({str(folder / 'store')!r}), {num}, 8, ('g',))"
    subprocess.run([sys.executable, "-c", make], check=True)  # in a process of its own
    trained = make_ensemble(folder, ("d4_net",), 1, (1, 8, 8))
    start_parts(folder / "out", trained, folder / "store")
    model = Ensemble(trained)
    model.predict(np.zeros((BATCH, 1, 8, 8), np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    predict_parts(folder / "out")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - began:.0f} {before:.0f} {after:.0f}")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", type=int)
    asked = parser.parse_args()
    if asked.one is not None:
        predict_rows(asked.folder, asked.one)
        return
    with scratch(asked.folder) as folder:
        print(measure_speed(folder, asked.num, asked.repeats))
        print()
        print(measure_memory(folder, asked.rows))


if __name__ == "__main__":
    main()
