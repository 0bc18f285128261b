"""Print how many images a second of one core each simulator makes, files and truth included.

Run: python benchmarks/simulate.py [NUM_IMAGES]
"""

import sys
import tempfile
import time
from pathlib import Path

from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.simulation.simulate import simulate

CASES = (
    ("lens_finding", ("lens", "nonlens"), "3 x 64 x 64"),
    ("multiclass", ("no",), "150 x 150"),
    ("multiclass", ("sphere",), "150 x 150, 25 subhalos"),
    ("multiclass", ("vort",), "150 x 150, 25 points"),
    ("slc", ("sub",), "150 x 150, 25 subhalos"),
    ("foundation", ("cdm",), "64 x 64, 25 subhalos"),
    ("foundation", ("axion",), "64 x 64, 100 points"),
    ("super_resolution", ("lens",), "150 x 150 and 75 x 75"),
)
# Ray tracing alone, lenstronomy 1.14.2 on one core: 2.2, 6.5 and 19.5 ms.
LENSTRONOMY = "lenstronomy 1.14.2, 150 x 150: 455/s; 25 point masses 154/s; 100 point masses 51/s"
REPEATS = 5


def images_a_second(name: str, classes: tuple[str, ...], num_images: int) -> float:
    """Return the best of some repetitions, in CPU seconds."""
    dataset, times = load_dataset(name), []
    counts = {"train": dict.fromkeys(classes, num_images // len(classes))}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            simulate(dataset, Path(folder) / "images", counts)
            times.append(time.process_time() - started)
    return num_images / min(times)


def main(num_images: int) -> None:
    """Print one line a case."""
    for name, classes, what in CASES:
        rate = images_a_second(name, classes, num_images)
        print(f"{name:17} {'+'.join(classes):13} {what:23} {rate:6.0f}/s")
    print(LENSTRONOMY)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
