"""Draw the figures of the pages about tasks from simulated images: `draw.py`, in a minute.

What is drawn is simulated here and now, with seed 7; no image of a telescope is in the project.
"""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

FIGURES = Path(__file__).parents[1] / "figures"
LENSHPC = Path(sys.executable).with_name("lenshpc")
Panel = tuple[str, np.ndarray]


def main() -> None:
    """Simulate each data set and draw what its task sees."""
    mpl.rcParams.update({"svg.hashsalt": "lenshpc", "svg.fonttype": "none", "font.size": 8})
    with tempfile.TemporaryDirectory() as folder:
        for draw in (draw_lenses, draw_classes, draw_pairs, draw_rings, draw_patches):
            draw(Path(folder) / draw.__name__)


def draw_lenses(folder: Path) -> None:
    """Lens or not: colour images of both classes."""
    simulate("lens_finding", folder, "lens=4,nonlens=4", "--difficulty", "sky")
    names = {"lens": "train_lenses", "not a lens": "train_nonlenses"}
    panels = [
        (f"{name}", show(one)) for name, place in names.items() for one in load(folder / place)
    ]
    write("lens_finding", panels, columns=4)


def draw_classes(folder: Path) -> None:
    """Three kinds of substructure, as they are and what the first class has less."""
    simulate("multiclass", folder, "2")
    names = {"no": "no substructure", "sphere": "subhalos", "vort": "vortex"}
    panels = [
        (name, show(one)) for kind, name in names.items() for one in load(folder / "train" / kind)
    ]
    write("multiclass", panels, columns=6)


def draw_pairs(folder: Path) -> None:
    """What is enlarged, and what it is compared with."""
    simulate("super_resolution", folder, "3")
    low, high = (load(folder / place) for place in ("LR", "HR"))
    panels = [("low resolution", show(one)) for one in low]
    write("super_resolution", panels + [("truth", show(one)) for one in high], columns=3)


def draw_rings(folder: Path) -> None:
    """The Einstein radius of the truth on its image."""
    simulate("physics_guided", folder, "2")
    with (folder / "truth.csv").open(encoding="utf-8") as lines:
        radii = {row["id"]: float(row["theta_e_arcsec"]) for row in csv.DictReader(lines)}
    paths = sorted((folder / "train" / "no").glob("*.npy"))
    paths += sorted((folder / "train" / "sphere").glob("*.npy"))
    panels = [(f"θ_E = {radii[str(p.relative_to(folder))]:.2f}″", show(np.load(p))) for p in paths]
    theta = [radii[str(path.relative_to(folder))] for path in paths]

    def add_ring(axes: Axes, number: int) -> None:
        side = panels[number][1].shape[0]
        centre, radius = (side - 1) / 2, theta[number] / PIXEL_ARCSEC
        axes.add_patch(Circle((centre, centre), radius, fill=False, color="C1", linestyle="--"))

    write("physics_guided", panels, columns=4, add=add_ring)


def draw_patches(folder: Path) -> None:
    """What a masked autoencoder sees of an image, and the whole of it."""
    simulate("foundation", folder, "no_sub=3,cdm=1,axion=1")
    images = [show(one) for one in load(folder / "no_sub")]
    rng = np.random.default_rng(7)
    seen = []
    for image in images:
        hidden = rng.permutation(64).reshape(8, 8) < 48
        masked = np.where(np.kron(hidden, np.ones((8, 8))).astype(bool), np.nan, image)
        seen.append(("seen", masked))
    write("foundation", seen + [("the whole", image) for image in images], columns=3)


PIXEL_ARCSEC = 0.05  # of the data set physics_guided
GREYS = mpl.colormaps["gray"].with_extremes(bad="#7799bb")  # what is hidden


def simulate(dataset: str, folder: Path, train: str, *options: str) -> None:
    """Make a few images of a data set in a folder."""
    command = [LENSHPC, "simulate", dataset, folder, "--train", train, "--seed", "7", *options]
    subprocess.run(command, check=True, capture_output=True)


def load(folder: Path) -> list[np.ndarray]:
    """Return the images of a folder, by name."""
    return [np.load(path) for path in sorted(folder.glob("*.npy"))]


def show(image: np.ndarray) -> np.ndarray:
    """Return an image as (H, W) or (H, W, 3) from 0 to 1, by an asinh over the noise."""
    planes = image.astype(float).reshape(-1, *image.shape[-2:])
    low = np.median(planes, axis=(1, 2), keepdims=True)
    noise = 1.48 * np.median(abs(planes - low), axis=(1, 2), keepdims=True)
    stretched = np.arcsinh((planes - low) / (3 * noise + 1e-12))
    scaled = np.clip(stretched / np.quantile(stretched, 0.998), 0, 1)
    return scaled[::-1].transpose(1, 2, 0) if len(scaled) == 3 else scaled[0]


def write(
    name: str, panels: list[Panel], columns: int, add: Callable[[Axes, int], None] | None = None
) -> None:
    """Write a figure of panels under their names to figures/NAME.svg."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.45 * rows), layout="compressed")
    for number, (axes, (title, pixels)) in enumerate(
        zip(figure.subplots(rows, columns).flat, panels, strict=True)
    ):
        axes.imshow(pixels, cmap=GREYS, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
        if add:
            add(axes, number)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, dpi=100)


if __name__ == "__main__":
    main()
