"""What every task promises to the engine."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional

from lenshpc.recipe import Train
from lenshpc.tasks.base import TaskSpec
from lenshpc.tasks.table import TASKS

NUM_CLASSES = {"cross_entropy": 3, "bce": 2}
every_task_and_loss = [(task, loss) for task in TASKS for loss in NUM_CLASSES]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def make(name, loss, counts=None, **train):
    num = NUM_CLASSES[loss]
    spec = TaskSpec(
        train=Train(loss=loss, **train),
        classes=tuple(f"class{k}" for k in range(num)),
        class_counts=counts or (10,) * num,
        image_shape=(1, 32, 32),
    )
    return TASKS[name](spec)


def eight(loss):
    labels = torch.arange(8) % NUM_CLASSES[loss]
    return {"image": torch.randn(8, 1, 32, 32), "label": labels, "row": torch.arange(8)}


def given(logits, labels):
    """Return a batch whose images are the logits that `nn.Flatten` hands through."""
    return {"image": logits[:, :, None, None], "label": labels, "row": torch.arange(len(labels))}


@pytest.fixture(params=every_task_and_loss, ids=lambda pair: "-".join(pair))
def pair(request):
    return request.param


def test_loss_falls_on_eight_images(pair):
    task, batch = make(*pair), eight(pair[1])
    model = task.build_model("test_resnet").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = task.training_step(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@torch.no_grad()
def test_predictions_of_halves_are_those_of_the_whole(pair):
    task, batch = make(*pair), eight(pair[1])
    model = task.build_model("test_resnet").eval()
    whole = task.predict(model, batch)
    halves = [
        task.predict(model, {key: value[part] for key, value in batch.items()})
        for part in (slice(4), slice(4, 8))
    ]
    assert list(whole) == [f"logp_{k}" for k in range(NUM_CLASSES[pair[1]])]
    for key, column in whole.items():
        assert column.shape == (8,)
        torch.testing.assert_close(torch.cat([half[key] for half in halves]), column)


@torch.no_grad()
def test_probabilities_sum_to_one(pair):
    task = make(*pair)
    predictions = task.predict(task.build_model("test_resnet").eval(), eight(pair[1]))
    total = torch.stack(list(predictions.values())).double().exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones(8, dtype=torch.float64), atol=1e-6, rtol=0)


@torch.no_grad()
def test_state_round_trips_through_a_file(pair, tmp_path):
    task, batch = make(*pair), eight(pair[1])
    model = task.build_model("test_resnet")
    task.training_step(model.train(), batch)  # moves the batch-norm statistics
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model("test_resnet")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected, found = (task.predict(each.eval(), batch) for each in (model, other))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_summary_agrees_with_scikit_learn(pair):
    num = NUM_CLASSES[pair[1]]
    labels = np.arange(12) % num
    probabilities = np.random.default_rng(0).dirichlet(np.ones(num), size=12)
    columns = {f"logp_{k}": np.log(probabilities[:, k]).astype(np.float32) for k in range(num)}
    summary = make(*pair).summarise(labels, columns)
    assert set(summary) == {"loss", "auc"}
    assert summary["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    perfect = np.log(np.where(np.eye(num)[labels] == 1, 0.9, 0.1 / (num - 1)))
    sure = {f"logp_{k}": perfect[:, k].astype(np.float32) for k in range(num)}
    assert make(*pair).summarise(labels, sure)["auc"] == 1.0


@pytest.mark.parametrize("name", TASKS)
def test_balanced_loss_has_its_closed_form(name):
    task = make(name, "cross_entropy", counts=(60, 30, 10), class_weights="balanced")
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    loss = task.training_step(nn.Flatten(), given(logits, labels))["loss"]
    weights = np.array([100 / 180, 100 / 90, 100 / 30])[labels]
    logp = (logits - logits.logsumexp(dim=1, keepdim=True)).numpy()[np.arange(6), labels]
    assert loss.item() == pytest.approx(-(weights * logp).mean(), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_balanced_loss_of_shares_has_the_mean_of_the_whole(name):
    task = make(name, "cross_entropy", counts=(60, 30, 10), class_weights="balanced")
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    losses = [
        task.training_step(nn.Flatten(), given(logits[part], labels[part]))["loss"].item()
        for part in (slice(8), slice(4), slice(4, 8))
    ]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_binary_loss_is_the_binary_cross_entropy(name):
    logits, labels = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, 0])
    batch = given(logits, labels)
    loss = make(name, "bce").training_step(nn.Flatten(), batch)["loss"].item()
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float()).item()
    assert loss == pytest.approx(expected, rel=1e-6)
    scores = torch.sigmoid(logits[:, 0].double()).numpy()
    assert loss == pytest.approx(log_loss(labels.numpy(), scores), rel=1e-6)
    weighted = make(name, "bce", counts=(30, 10), class_weights="balanced")
    weights = torch.tensor([40 / 60, 40 / 20])[labels]
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 0], labels.float(), weight=weights
    ).item()
    loss = weighted.training_step(nn.Flatten(), batch)["loss"].item()
    assert loss == pytest.approx(expected, rel=1e-6)


def test_weights_are_one_where_none_are_asked_for():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    task = make("multiclass", "cross_entropy", counts=(60, 30, 10))
    loss = task.training_step(nn.Flatten(), given(logits, labels))["loss"]
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels))
