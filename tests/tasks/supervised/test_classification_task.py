"""Classification: what reaches the loss, and what is predicted."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from lenshpc.models.d4 import transform
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.tasks.classification.settings import Classification as Settings
from lenshpc.tasks.supervised import losses
from lenshpc.tasks.supervised.task import SupervisedTask

pytestmark = pytest.mark.usefixtures("seeded")


def make(num_classes=3, counts=None, shape=(1, 32, 32), **method):
    spec = TaskSpec(
        settings=Settings.model_validate(method),
        train=Train(),
        classes=tuple(f"class{k}" for k in range(num_classes)),
        class_counts=counts or (10,) * num_classes,
        image_shape=shape,
    )
    return SupervisedTask(spec)


def given(logits, labels, **further):
    """Return a batch whose images are the logits that `nn.Flatten` hands through."""
    return {"image": logits[:, :, None, None], "label": labels, **further}


def loss_of(task, batch, model=None):
    first = {**batch, "phase": 0}
    return task.training_step(model or nn.Flatten(), first)["loss"]


LABELS = torch.tensor([0, 1, 2, 2, 0, 1])


def test_weights_are_one_where_none_are_asked_for():
    logits = torch.randn(6, 3)
    loss = loss_of(make(counts=(60, 30, 10)), given(logits, LABELS))
    torch.testing.assert_close(loss, functional.cross_entropy(logits, LABELS))


def test_balanced_loss_has_its_closed_form():
    logits, weights = torch.randn(6, 3), torch.tensor([100 / 180, 100 / 90, 100 / 30])
    task = make(counts=(60, 30, 10), class_weights="balanced")
    rows = functional.cross_entropy(logits, LABELS, reduction="none")
    expected = (weights[LABELS] * rows).mean()
    torch.testing.assert_close(loss_of(task, given(logits, LABELS)), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "complement"])
def test_loss_of_shares_has_the_mean_of_the_whole(loss):
    task = make(counts=(60, 30, 10), class_weights="balanced", loss=loss)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    whole, *halves = (
        loss_of(task, given(logits[part], labels[part])).item()
        for part in (slice(8), slice(4), slice(4, 8))
    )
    assert whole == pytest.approx(sum(halves) / 2, rel=1e-6)


def test_weighted_binary_loss_is_torchs():
    logits, labels = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, 0])
    task = make(2, counts=(30, 10), class_weights="balanced", loss="bce")
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 0], labels.float(), weight=torch.tensor([40 / 60, 40 / 20])[labels]
    )
    torch.testing.assert_close(loss_of(task, given(logits, labels)), expected)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixed_batch_reaches_the_loss_with_its_soft_targets(mixing):
    images, model = torch.randn(6, 1, 8, 8), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    task = make(**{f"{mixing}_alpha": 1.0, "label_smoothing": 0.1})
    torch.manual_seed(5)
    found = loss_of(task, {"image": images, "label": LABELS}, model)
    torch.manual_seed(5)
    torch.randint(1, ())
    mixed, target = getattr(losses, mixing)(images, losses.soft_targets(LABELS, 3, 0.1), 1.0)
    torch.testing.assert_close(found, functional.cross_entropy(model(mixed), target))


def test_smote_in_pixels_moves_each_image_towards_its_partner():
    one, two, mix = torch.randn(6, 3), torch.randn(6, 3), torch.tensor([0, 0, 0.3, 0.5, 0, 1])
    task = make(smote={"space": "pixel"})
    batch = given(one, LABELS, partner=two[:, :, None, None], mix=mix)
    expected = functional.cross_entropy(one + mix[:, None] * (two - one), LABELS)
    torch.testing.assert_close(loss_of(task, batch), expected)


def test_smote_between_features_mixes_before_the_last_layer():
    task = make(smote={"space": "feature"})
    model = task.build_model("test_resnet").eval()
    one, two, mix = *torch.randn(2, 6, 1, 32, 32), torch.tensor([0, 0, 0.3, 0.5, 0, 1])
    batch = {"image": one, "label": LABELS, "partner": two}
    found = loss_of(task, batch | {"mix": mix, "mixed": torch.tensor([2, 3, 5])}, model)
    features = torch.lerp(model.features(one), model.features(two), mix[:, None])
    torch.testing.assert_close(found, functional.cross_entropy(model.head(features), LABELS))
    none = {"mix": 0 * mix, "mixed": torch.zeros(0, dtype=torch.int64)}
    plain = loss_of(task, batch | none, model)
    torch.testing.assert_close(plain, functional.cross_entropy(model(one), LABELS))


def test_consistency_adds_its_weighted_loss_in_one_call_of_the_network():
    calls = []

    class Counted(nn.Flatten):
        def forward(self, image):
            calls.append(len(image))
            return super().forward(image)

    task = make(consistency={"weight": 0.5, "threshold": 0.8})
    logits, weak, strong = torch.randn(6, 3), 4 * torch.randn(9, 3), torch.randn(9, 3)
    views = {"weak": weak[:, :, None, None], "strong": strong[:, :, None, None]}
    found = loss_of(task, given(logits, LABELS, **views), Counted())
    expected = functional.cross_entropy(logits, LABELS)
    expected = expected + 0.5 * losses.consistency(weak, strong, 0.8)
    torch.testing.assert_close(found, expected)
    assert calls == [24]


@torch.no_grad()
def test_d4_augmentation_is_the_mean_probability_of_eight_views():
    image = torch.randn(4, 1, 32, 32)
    plain, augmented = make(), make(tta="d4")
    model = plain.build_model("test_resnet").eval()
    views = [model(transform(image, g)).softmax(dim=1) for g in range(8)]
    found, without = (task.infer(model, {"image": image}) for task in (augmented, plain))
    for k in range(3):
        mean = torch.stack(views).mean(dim=0)[:, k]
        torch.testing.assert_close(found[f"logp_{k}"].exp(), mean)
        torch.testing.assert_close(without[f"logp_{k}"].exp(), views[0][:, k])
        for each in (found, without):
            torch.testing.assert_close(each[f"rot90_logp_{k}"].exp(), views[1][:, k])


@torch.no_grad()
def test_d4_augmented_prediction_is_the_same_for_turned_images():
    image, task = torch.randn(4, 1, 32, 32), make(tta="d4")
    model = task.build_model("test_resnet").eval()
    views = [task.infer(model, {"image": transform(image, g)})["logp_0"] for g in range(8)]
    for one, two in pairwise(views):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_second_step_of_complement_training_raises_the_entropy_of_the_wrong_classes():
    task = make(counts=(60, 30, 10), class_weights="balanced", loss="complement")
    logits, weights = torch.randn(6, 3), torch.tensor([100 / 180, 100 / 90, 100 / 30])
    steps = [
        task.training_step(nn.Flatten(), {**given(logits, LABELS), "phase": phase})
        for phase in range(task.num_phases)
    ]
    primary = functional.cross_entropy(logits, LABELS, reduction="none") * weights[LABELS]
    wrong = losses.complement_entropy(logits, losses.soft_targets(LABELS, 3)) * weights[LABELS]
    torch.testing.assert_close(steps[0]["loss"], primary.mean())
    torch.testing.assert_close(steps[1]["loss"], -wrong.mean())
