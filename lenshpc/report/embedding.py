"""The map of a member's embeddings of test images: t-SNE, seeded, on a bounded number of rows."""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from lenshpc.report.content import Figure
from lenshpc.report.figures import add_legend, draw_figure, look_of

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

MAX_ROWS = 1000
NUM_STEPS = 500
MIN_ROWS = 10
NUM_COMPONENTS = 50  # van der Maaten & Hinton 2008 reduce by PCA before


def draw_rows(labels: Labels, num: int = MAX_ROWS, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return at most `num` positions, ascending, in numbers of each class as equal as can be."""
    # A seed of its own, always the same: a map that changes from one report to the next tells of
    # nothing.
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        rank[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:num])


def map_embedding(embedding: Floats, seed: int = 0) -> Floats:
    """Return the t-SNE (N, 2) of embeddings (N, D), standardised and reduced by PCA before."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = embedding.astype(np.float64)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    components = min(NUM_COMPONENTS, *values.shape)
    reduced = PCA(components, random_state=seed).fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    init = "pca" if components > 1 else "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tsne = TSNE(perplexity=perplexity, init=init, max_iter=NUM_STEPS, random_state=seed)
        return np.asarray(tsne.fit_transform(reduced))


def draw_embedding(shown: Floats, labels: Labels, classes: Sequence[str], whose: str) -> Figure:
    """Return the map, a point a row in the colour of its true class."""

    def draw(axes: Axes) -> None:
        for label, name in enumerate(classes):
            mine = labels == label
            color = look_of(label)["color"]
            x, y = shown[mine].T
            axes.scatter(x, y, s=7, color=color, alpha=0.6, linewidths=0, label=name)
        axes.set(xticks=[], yticks=[], title="Embeddings (t-SNE)")
        axes.grid(visible=False)
        add_legend(axes)

    caption = (
        f"t-SNE of the features before the last layer of {whose}: {len(shown):,} test images, "
        "with the numbers of images of each class as equal as possible. Distances between "
        "clusters mean little."
    )
    return draw_figure("embedding", caption, draw)
