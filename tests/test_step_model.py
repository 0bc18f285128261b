"""The model of a step's time: its formulas, at values worked out by hand."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from stepmodel import (
    Cluster,
    Link,
    Training,
    efficiency,
    expect_maximum,
    exposed_s,
    fit_link,
    fit_overlap,
    reduce_s,
    ring_s,
    step_s,
    tree_s,
)

LINK = Link(bytes_per_s=1e9, latency_s=1e-5)
MB = 2**20


def test_ring_sends_each_byte_almost_twice_and_waits_for_each_neighbour() -> None:
    assert ring_s(1, 1e9, LINK) == 0
    assert ring_s(2, 1e9, LINK) == pytest.approx(1 + 2e-5)
    assert ring_s(4, 1e9, LINK, num_buckets=3) == pytest.approx(1.5 + 3 * 6e-5)
    assert ring_s(1024, 1e9, LINK) == pytest.approx(2 * 1023 / 1024 + 2046e-5)


def test_tree_waits_for_the_logarithm_of_the_ranks() -> None:
    assert tree_s(1, 1e9, LINK) == 0
    assert tree_s(1024, 1e9, LINK, num_buckets=2) == pytest.approx(2 + 2 * 20e-5)


def test_small_gradients_go_by_the_tree_and_large_ones_by_the_ring() -> None:
    flat = Cluster(gpus_per_node=1, inside=LINK, outside=LINK)
    assert reduce_s(1024, 4.0, flat) == tree_s(1024, 4.0, LINK)
    assert reduce_s(4, 20 * MB, flat) == ring_s(4, 20 * MB, LINK)


def test_a_gpu_sends_its_share_between_the_nodes() -> None:
    fast = Link(bytes_per_s=1e11, latency_s=0)
    slow = Link(bytes_per_s=1e9, latency_s=0)
    nodes = Cluster(gpus_per_node=4, inside=fast, outside=slow)
    assert reduce_s(1, 1e8, nodes) == pytest.approx(1.5e-3)
    assert reduce_s(2, 1e8, nodes) == pytest.approx(1.5e-3 + 0.025)


def test_the_last_bucket_is_always_waited_for() -> None:
    assert exposed_s(1.0, 4, hidden_s=0.5) == 0.5
    assert exposed_s(1.0, 4, hidden_s=9.0) == 0.25
    assert exposed_s(0.0, 1, hidden_s=9.0) == 0


def test_mean_of_the_largest_normal_number_is_known_for_few_and_drawn_for_many() -> None:
    assert expect_maximum(1) == 0
    assert expect_maximum(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expect_maximum(3) == pytest.approx(3 / (2 * math.sqrt(math.pi)))
    drawn = np.random.default_rng(0).standard_normal((4000, 1024)).max(axis=1)
    assert expect_maximum(1024) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 4000**0.5)


def test_step_is_compute_what_is_exposed_and_the_slowest() -> None:
    training = Training(compute_s=0.3, gradient_bytes=100 * MB, overlap=0.5, jitter_s=0.01)
    # four buckets; a half of two thirds of 0.3 s hides 0.1 s
    assert step_s(training, 2, 0.5) == pytest.approx(0.3 + 0.4 + 0.01 / math.sqrt(math.pi))
    assert step_s(training, 1, 0.0) == 0.3
    lone = Cluster(gpus_per_node=1, inside=LINK, outside=LINK)
    assert efficiency(training, 1, lone) == 1
    assert efficiency(training, 2, lone) < efficiency(training, 1, lone)


def test_link_and_overlap_are_found_again() -> None:
    sizes = [4e3, 1e6, 4e7]
    found = fit_link(sizes, [ring_s(4, size, LINK) for size in sizes], num=4)
    assert (found.bytes_per_s, found.latency_s) == pytest.approx((1e9, 1e-5), rel=1e-6)
    training = Training(compute_s=0.3, gradient_bytes=100 * MB, overlap=0.7)
    measured = step_s(training, 2, 0.5)
    assert fit_overlap(measured, 0.3, 0.5, num_buckets=4) == pytest.approx(0.7)
    assert fit_overlap(0.3, 0.3, 0.5, num_buckets=4) == 1
    assert fit_overlap(9.0, 0.3, 0.5, num_buckets=4) == 0
