"""Losses against torch, scikit-learn, torchvision and the papers' formulas."""

import math

import pytest
import torch
from torch.nn import functional

from lenshpc.registry import TaskSpec, build_component, component_names
from lenshpc.run.sections import Train
from lenshpc.tasks.classification.settings import Classification
from lenshpc.tasks.supervised import losses

pytestmark = pytest.mark.usefixtures("seeded")


def rows(num_classes=3, num_rows=8):
    """Return logits (B, K) in float64, labels (B,) and class weights (K,)."""
    logits = 3 * torch.randn(num_rows, num_classes, dtype=torch.float64)
    return logits, torch.arange(num_rows) % num_classes, torch.rand(num_classes).double() + 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing):
    logits, label, _ = rows()
    target = losses.soft_targets(label, 3, smoothing).double()
    found = losses.cross_entropy(logits, target, torch.ones(3))
    expected = functional.cross_entropy(logits, label, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_weighted_cross_entropy_is_torchs_with_smoothing():
    logits, label, weight = rows()
    target = losses.soft_targets(label, 3, 0.2).double()
    found = losses.cross_entropy(logits, target, weight)
    expected = functional.cross_entropy(
        logits, label, weight, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_single_logit_gives_torchs_weighted_binary_cross_entropy():
    logit, label = torch.randn(8, 1) * 5, torch.arange(8) % 2
    weight, soft = torch.tensor([0.6, 4.0]), torch.rand(8)
    target = torch.stack([1 - soft, soft], dim=1)
    found = losses.cross_entropy(losses.two_logits(logit), target, torch.ones(2))
    expected = functional.binary_cross_entropy_with_logits(logit[:, 0], soft, reduction="none")
    torch.testing.assert_close(found, expected)
    hard = losses.soft_targets(label, 2)
    found = losses.cross_entropy(losses.two_logits(logit), hard, weight) / weight[0]
    expected = functional.binary_cross_entropy_with_logits(
        logit[:, 0], label.float(), pos_weight=weight[1] / weight[0], reduction="none"
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_the_papers(gamma):
    logit, label, alpha = torch.randn(8, 1).double() * 3, torch.arange(8) % 2, 0.25
    weight = torch.tensor([1 - alpha, alpha])
    target = losses.soft_targets(label, 2).double()
    logits = torch.cat([torch.zeros_like(logit), logit], dim=1)
    found = losses.focal(gamma)(logits, target, weight)
    p = torch.sigmoid(logit[:, 0])
    p_t = torch.where(label == 1, p, 1 - p)
    alpha_t = torch.where(label == 1, alpha, 1 - alpha)
    torch.testing.assert_close(found, -alpha_t * (1 - p_t) ** gamma * p_t.log(), rtol=1e-6, atol=0)


def test_focal_loss_with_gamma_zero_is_the_cross_entropy():
    logits, label, weight = rows()
    target = losses.soft_targets(label, 3, 0.1).double()
    found = losses.focal(0.0)(logits, target, weight)
    torch.testing.assert_close(found, losses.cross_entropy(logits, target, weight))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_gradient_is_finite_for_sure_rows(name):
    logits = torch.tensor([[200.0, 0.0, -200.0], [0.0, 200.0, 0.0]], requires_grad=True)
    target = losses.soft_targets(torch.tensor([0, 2]), 3)
    loss = losses.focal(0.5) if name == "focal" else losses.cross_entropy
    loss(logits, target, torch.ones(3)).sum().backward()
    assert logits.grad.isfinite().all()


def test_complement_entropy_is_the_papers():
    logits, label, _ = rows(num_classes=4)
    found = losses.complement_entropy(logits, losses.soft_targets(label, 4).double())
    for value, p, g in zip(found, logits.softmax(dim=1), label, strict=True):
        wrong = [float(p[j] / (1 - p[g])) for j in range(4) if j != g]
        expected = -sum(q * math.log(q) for q in wrong) / 3
        assert float(value) == pytest.approx(expected, rel=1e-6)


def test_complement_entropy_is_largest_where_the_wrong_classes_are_alike():
    logits = torch.tensor([[5.0, 1.0, 1.0, 1.0], [5.0, 1.0, 1.0, -3.0]])
    even, uneven = losses.complement_entropy(logits, losses.soft_targets(torch.zeros(2).long(), 4))
    assert even == pytest.approx(math.log(3) / 3, rel=1e-6)
    assert uneven < even


@pytest.mark.parametrize("name", component_names("losses", "classification"))
def test_loss_of_soft_targets_is_linear_where_it_should_be(name):
    logits, label, weight = rows()
    spec = TaskSpec(
        settings=Classification(loss=name),
        train=Train(),
        classes=("a", "b", "c"),
        class_counts=(1, 1, 1),
        image_shape=(1, 4, 4),
    )
    loss = build_component("losses", spec, name)
    one, two = (losses.soft_targets(each, 3).double() for each in (label, label.flip(0)))
    mixed = loss(logits, 0.3 * one + 0.7 * two, weight)
    expected = 0.3 * loss(logits, one, weight) + 0.7 * loss(logits, two, weight)
    torch.testing.assert_close(mixed, expected)


def test_mixup_mixes_images_and_targets_alike():
    target = losses.soft_targets(torch.arange(6), 6)
    image = target[:, :, None, None].expand(6, 6, 4, 5)
    mixed, soft = losses.mixup(image, target, 0.4)
    torch.testing.assert_close(mixed, soft[:, :, None, None].expand_as(mixed))
    assert not torch.equal(soft, target)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(6))


def test_mixup_draws_lambda_from_the_beta_distribution():
    from scipy.stats import beta, kstest

    image, target = torch.zeros(3, 1, 1, 1), losses.soft_targets(torch.arange(3), 3)
    shares = []
    while len(shares) < 300:
        soft = losses.mixup(image, target, 0.5)[1]
        moved = [float(row[k]) for k, row in enumerate(soft) if row[k] < 1]
        shares += moved[:1]
    assert kstest(shares, beta(0.5, 0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", [(16, 16), (15, 23)])
def test_cutmix_target_is_the_area_of_each_image(shape):
    target = losses.soft_targets(torch.arange(6), 6)
    image = target[:, :, None, None].expand(6, 6, *shape)
    for _ in range(50):
        mixed, soft = losses.cutmix(image, target, 1.0)
        torch.testing.assert_close(mixed.mean(dim=(2, 3)), soft)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
    assert image.max() == 1


def test_consistency_counts_sure_images_alone_over_all_of_them():
    weak = torch.tensor([[4.0, 0.0], [0.1, 0.0], [0.0, 5.0], [0.0, 0.2]], requires_grad=True)
    strong = torch.randn(4, 2, requires_grad=True)
    loss = losses.consistency(weak, strong, 0.95)
    counted = functional.cross_entropy(strong[[0, 2]], torch.tensor([0, 1]), reduction="sum")
    torch.testing.assert_close(loss, counted / 4)
    loss.backward()
    assert weak.grad is None
    assert (strong.grad[[1, 3]] == 0).all()
