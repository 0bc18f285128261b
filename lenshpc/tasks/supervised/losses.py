"""Losses and mixing of images for classification, on soft targets.

Shapes: B rows, K classes. Every loss takes logits (B, K) and targets (B, K) that sum to one, and
returns a value a row, (B,): the mean over shares of a batch is then the mean over the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lenshpc.registry import TaskSpec
from lenshpc.tasks.supervised.settings import Supervised

# logits (B, K), targets (B, K), class weights (K,) → (B,)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def two_logits(logits_BJ: Tensor) -> Tensor:
    """Return (B, K) logits in float32; a single z becomes (0, z), of which softmax is sigmoid."""
    # Before softmax and logarithm: bfloat16 has three digits, and a log-probability near 0 would be
    # 0.
    logits = logits_BJ.float()
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def soft_targets(label_B: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return one-hot rows, `smoothing` of each spread over all classes (Szegedy et al. 2016)."""
    hot_BK = functional.one_hot(label_B, num_classes).float()
    return hot_BK * (1 - smoothing) + smoothing / num_classes


def cross_entropy(logits_BK: Tensor, target_BK: Tensor, weight_K: Tensor) -> Tensor:
    """Return -Σ_k w_k t_k log p_k; of logits (0, z) this is the weighted binary cross-entropy."""
    # log_softmax and never log(softmax): of a sure mistake the latter is infinite.
    return -(weight_K * target_BK * logits_BK.log_softmax(dim=1)).sum(dim=1)


def focal(gamma: float) -> Loss:
    """Return -Σ_k w_k t_k (1 - p_k)^γ log p_k (Lin et al. 2017, eq. 5; w is their α)."""

    def loss(logits_BK: Tensor, target_BK: Tensor, weight_K: Tensor) -> Tensor:
        logp_BK = logits_BK.log_softmax(dim=1)
        # 1 - p = exp(log(1 - p)) loses no digits as p → 1, where its gradient must stay finite
        rest_BK = -torch.expm1(logp_BK.clamp(max=-1e-7))
        return -(weight_K * target_BK * rest_BK**gamma * logp_BK).sum(dim=1)

    return loss


def complement_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Return the entropy of the wrong classes among themselves, over K - 1 (Chen et al. 2019).

    With g the true class and q_j = p_j / (1 - p_g): -Σ_{j≠g} q_j log q_j / (K - 1). Of soft targets
    it is the mean over g. Training takes a step that lowers the cross-entropy and one, on the same
    batch, that raises this (arXiv 1903.01182, algorithm 1).
    """
    num_classes = logits_BK.shape[1]
    own_KK = torch.eye(num_classes, dtype=torch.bool, device=logits_BK.device)
    # Taken out of the softmax rather than divided by 1 - p: that quotient is 0/0 once p is 1.
    others_BKK = logits_BK[:, None, :].masked_fill(own_KK, -torch.inf)
    logq_BKK = others_BKK.log_softmax(dim=2)
    # 0 for the class left out, as 0 times minus infinity is NaN.
    entropy_BK = -(logq_BKK.exp() * logq_BKK.masked_fill(own_KK, 0.0)).sum(dim=2)
    return (target_BK * entropy_BK).sum(dim=1) / (num_classes - 1)


def consistency(weak_UK: Tensor, strong_UK: Tensor, threshold: float) -> Tensor:
    """Return FixMatch's loss of unlabelled images (Sohn et al. 2020, eq. 4), a scalar.

    The class of the weakly augmented view is the label of the strongly augmented one where its
    probability reaches the threshold; the mean is over all images, also those that do not count.
    """
    # detach: the label must not be drawn towards what has to agree with it.
    probability_U, label_U = weak_UK.detach().softmax(dim=1).max(dim=1)
    loss_U = functional.cross_entropy(strong_UK, label_U, reduction="none")
    return (loss_U * (probability_U >= threshold)).mean()


def mixup(image_BCHW: Tensor, target_BK: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return convex combinations with other rows, λ ~ Beta(α, α) (Zhang et al. 2018, eq. 1)."""
    share = _beta(alpha)
    # On the device, since a copy would be waited for; a number drawn on the CPU needs none.
    other = torch.randperm(len(image_BCHW), device=image_BCHW.device)
    return (
        share * image_BCHW + (1 - share) * image_BCHW[other],
        share * target_BK + (1 - share) * target_BK[other],
    )


def cutmix(image_BCHW: Tensor, target_BK: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return images with a box pasted from other rows, λ the area that stays (Yun et al. 2019).

    The box has the sides W√(1-λ), H√(1-λ) about a uniform centre and is cut at the borders, after
    which λ is the area that really stays (their section 3.1 and code).
    """
    height, width = image_BCHW.shape[2:]
    rows, columns = _box(height, width, _beta(alpha))
    other = torch.randperm(len(image_BCHW), device=image_BCHW.device)
    pasted = image_BCHW.clone()
    pasted[:, :, rows, columns] = image_BCHW[other][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    share = 1 - area / (height * width)
    return pasted, share * target_BK + (1 - share) * target_BK[other]


def _beta(alpha: float) -> float:
    return torch.distributions.Beta(alpha, alpha).sample().item()


def _box(height: int, width: int, share: float) -> tuple[slice, slice]:
    """Return rows and columns of a box of the area 1 - share before it is cut at the borders."""
    side = (1 - share) ** 0.5
    return _span(height, side), _span(width, side)


def _span(size: int, part: float) -> slice:
    centre, length = int(torch.randint(size, ())), int(size * part)
    first, last = centre - length // 2, centre + (length + 1) // 2
    return slice(max(first, 0), min(last, size))


def build_cross_entropy(_: TaskSpec) -> Loss:
    """Return the loss of `cross_entropy`, of `bce`, and of the first step of `complement`."""
    return cross_entropy


def build_focal(spec: TaskSpec) -> Loss:
    """Return the loss of `focal`."""
    return focal(Supervised.of(spec.settings).focal_gamma)
