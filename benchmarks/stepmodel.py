"""A model of how long a step of data parallel training takes on many ranks. Pure arithmetic.

    step = compute + exposed communication + waiting for the slowest

Gradients travel in buckets while the backward pass goes on; what is left after it is exposed, the
last bucket at least. Bytes and latencies are those of a ring (Patarasu and Yuan 2009) or of a
double tree, whichever is faster, inside a node first and between the nodes then.
"""

import math
from dataclasses import dataclass
from functools import cache

from scipy.integrate import quad
from scipy.stats import norm

BUCKET_BYTES = 25 * 2**20  # DDP's own
BACKWARD_SHARE = 2 / 3  # of the arithmetic: as much for the weights as for the inputs, each a pass


@dataclass(frozen=True, kw_only=True)
class Link:
    """A way between two ranks: what each sends a second, and what a message takes at least."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of several GPUs; `outside` is a GPU's share of its node's network."""

    gpus_per_node: int
    inside: Link
    outside: Link


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one rank does in a step, and the gradients it sends; `jitter` is a standard deviation.

    `overlap` is the part of the backward pass during which gradients can travel.
    """

    compute_s: float
    gradient_bytes: float
    overlap: float
    jitter_s: float = 0.0


def ring_s(num: int, size: float, link: Link, num_buckets: int = 1) -> float:
    """Return the seconds of an all-reduce on a ring: 2(n-1)/n of the bytes, 2(n-1) messages."""
    steps = 2 * (num - 1)
    return steps / num * size / link.bytes_per_s + steps * link.latency_s * num_buckets


def tree_s(num: int, size: float, link: Link, num_buckets: int = 1) -> float:
    """Return the same on a double binary tree: twice the bytes, 2 log2(n) messages."""
    if num == 1:
        return 0.0
    messages = 2 * math.ceil(math.log2(num)) * num_buckets
    return 2 * size / link.bytes_per_s + messages * link.latency_s


def reduce_s(num_nodes: int, size: float, cluster: Cluster) -> float:
    """Return the seconds of all buckets: inside the nodes first, a share a GPU between them."""
    buckets = count_buckets(size)
    inside = ring_s(cluster.gpus_per_node, size, cluster.inside, buckets)
    part = size / cluster.gpus_per_node
    ways = (way(num_nodes, part, cluster.outside, buckets) for way in (ring_s, tree_s))
    return inside + min(ways)


def count_buckets(size: float) -> int:
    """Return in how many buckets DDP sends so many bytes."""
    return max(1, math.ceil(size / BUCKET_BYTES))


def exposed_s(all_s: float, num_buckets: int, hidden_s: float) -> float:
    """Return what is left of the communication when the backward pass ends."""
    return max(all_s / num_buckets, all_s - hidden_s)


@cache
def expect_maximum(num: int) -> float:
    """Return the mean of the largest of `num` standard normal numbers."""
    if num == 1:
        return 0.0
    found, _ = quad(lambda x: x * num * norm.pdf(x) * norm.cdf(x) ** (num - 1), -10, 10)
    return float(found)


def step_s(training: Training, num_ranks: int, communication_s: float) -> float:
    """Return the seconds of a step on so many ranks that reduce in so many seconds."""
    hidden = training.overlap * BACKWARD_SHARE * training.compute_s
    buckets = count_buckets(training.gradient_bytes)
    waiting = training.jitter_s * expect_maximum(num_ranks)
    return training.compute_s + exposed_s(communication_s, buckets, hidden) + waiting


def efficiency(training: Training, num_nodes: int, cluster: Cluster) -> float:
    """Return images a second and GPU on so many nodes, over those of a lone GPU."""
    communication = reduce_s(num_nodes, training.gradient_bytes, cluster)
    ranks = num_nodes * cluster.gpus_per_node
    return training.compute_s / step_s(training, ranks, communication)


def fit_link(sizes: list[float], seconds: list[float], num: int) -> Link:
    """Return the link of which rings over `num` ranks took these seconds, by least squares.

    Relative ones: the small sizes tell the latency, the large ones the bandwidth.
    """
    steps = 2 * (num - 1)
    rows = [
        (steps / num * size / taken, steps / taken)
        for size, taken in zip(sizes, seconds, strict=True)
    ]
    aa = sum(a * a for a, _ in rows)
    ab = sum(a * b for a, b in rows)
    bb = sum(b * b for _, b in rows)
    ya, yb = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    per_byte, latency = (ya * bb - yb * ab) / determinant, (yb * aa - ya * ab) / determinant
    return Link(bytes_per_s=1 / per_byte, latency_s=max(0.0, latency))


def fit_overlap(measured_s: float, compute_s: float, all_s: float, num_buckets: int) -> float:
    """Return the overlap, 0 to 1, at which the model gives a measured step."""
    exposed = max(0.0, measured_s - compute_s)
    if exposed <= all_s / num_buckets:
        return 1.0
    return min(1.0, max(0.0, (all_s - exposed) / (BACKWARD_SHARE * compute_s)))
