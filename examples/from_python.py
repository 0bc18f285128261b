"""From simulated images to a trained network and its report, in Python: python from_python.py."""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from lenshpc.data.decoded import Decoded
from lenshpc.engine.load import load_model
from lenshpc.files import read_json
from lenshpc.launch.sites import load_site
from lenshpc.launch.states import run_status
from lenshpc.launch.submit import submit
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.simulation.counts import parse_counts
from lenshpc.prep.simulation.simulate import simulate
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import load_recipe
from lenshpc.worker import CALLS

SMALL = {
    "folds": 1,
    "models": ["resnet10t"],
    "data.image_size": 64,
    "train.epochs": 3,
    "train.batch_size": 16,
}


def main(folder: Path) -> None:
    """Make images, a store and a run in a folder, and ask the trained network about an image."""
    dataset = load_dataset("multiclass")
    counts = parse_counts(dataset, {"train": "48", "val": "16", "test": None})
    simulate(dataset, folder / "images", counts, seed=1)
    store = convert(dataset, folder / "images", folder / "store")

    planned = plan_run(load_recipe("multiclass", SMALL.items()), store, folder / "runs")
    submit(planned, load_site("local"), CALLS)
    while not run_status(planned.paths, planned.plan).has_ended:
        time.sleep(1)
    headline = read_json(planned.paths.report / "report.json")["headline"]
    print(f"report: {planned.paths.report / 'report.html'} ({headline})")

    done = read_json(planned.paths.member(planned.plan.members[0].name).done)
    row = int(np.flatnonzero(store.rows["split"] == "test")[0])
    pixels = torch.from_numpy(Decoded(store, planned.plan.recipe.data).images(np.array([row])))
    mean, std = (torch.tensor(done[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        odds = load_model(planned.paths.root, 0)((pixels - mean) / std).softmax(dim=1)[0]
    print(f"{store.rows['id'][row]}:", dict(zip(store.classes, odds.tolist(), strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "from_python"))
