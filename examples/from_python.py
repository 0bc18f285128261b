"""From simulated images to a trained network and its report, in Python: python from_python.py."""

import sys
from pathlib import Path

import lenshpc

SMALL = {"data.image_size": 64, "train.epochs": 3, "train.batch_size": 16}


def main(folder: Path) -> None:
    """Make images, a store and a run in a folder, and ask the trained network about an image."""
    images = lenshpc.simulate("multiclass", folder / "images", train=48, val=16, seed=1)
    store = lenshpc.prepare("multiclass", images, folder / "store")
    recipe = lenshpc.load_recipe("multiclass", SMALL, models=["resnet10t"], folds=1)
    planned = lenshpc.plan(recipe, store, folder / "runs")
    lenshpc.submit(planned, wait=True)
    print(f"report: {planned.path / 'report' / 'report.html'}")

    row = int(store.rows.index[store.rows["split"] == "test"][0])
    (odds,) = lenshpc.load_ensemble(planned).predict(store.read_raw(slice(row, row + 1)))
    print(f"{store.rows['id'][row]}:", dict(zip(store.classes, odds.tolist(), strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "from_python"))
