"""What every task promises to the engine; here classification under each of its losses."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

from lenshpc.engine.load import make_task
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.tasks.classification.settings import Classification as Settings
from lenshpc.tasks.physics_guided.settings import PhysicsGuided

FIRST = {"phase": 0, "progress": torch.tensor(1.0)}
NUM_CLASSES = {"cross_entropy": 3, "bce": 2, "focal": 3, "complement": 3, "guided": 3}
GUIDED = {"loss": "cross_entropy", "physics": {"pixel_scale_arcsec": 0.2, "source_side": 8}}
LENS = (
    *("theta_e_arcsec", "centre_x_arcsec", "centre_y_arcsec", "gamma1", "gamma2"),
    *("axis_ratio", "angle_rad", "physics_loss"),
)


pytestmark = pytest.mark.usefixtures("seeded")


def make(loss, **method):
    guided = loss == "guided"
    settings = PhysicsGuided(**GUIDED, **method) if guided else Settings(loss=loss, **method)
    spec = TaskSpec(
        settings=settings,
        train=Train(),
        classes=tuple(f"class{k}" for k in range(NUM_CLASSES[loss])),
        class_counts=(10,) * NUM_CLASSES[loss],
        image_shape=(1, 32, 32),
    )
    return make_task("physics-guided" if guided else "multiclass", spec)


def eight(loss):
    labels = torch.arange(8) % NUM_CLASSES[loss]
    return {"image": torch.randn(8, 1, 32, 32), "label": labels, "row": torch.arange(8)}


@pytest.fixture(params=NUM_CLASSES)
def loss(request):
    return request.param


def test_loss_falls_on_eight_images(loss):
    task, batch = make(loss), eight(loss)
    model = task.build_model("test_resnet").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    nll = []
    for _ in range(30):
        step = task.training_step(model, batch | FIRST)["loss"]
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        logp = torch.stack(list(task.predict(model, batch).values()), dim=1)
        nll.append(-logp[torch.arange(8), batch["label"]].mean().item())
    assert nll[-1] < 0.3 * nll[0]


@torch.no_grad()
@pytest.mark.parametrize("function", ["predict", "infer"])
def test_predictions_of_halves_are_those_of_the_whole(loss, function):
    task, batch = make(loss, tta="d4"), eight(loss)
    model = task.build_model("test_resnet").eval()
    whole = getattr(task, function)(model, batch)
    halves = [
        getattr(task, function)(model, {key: value[part] for key, value in batch.items()})
        for part in (slice(4), slice(4, 8))
    ]
    for key, column in whole.items():
        assert len(column) == 8
        torch.testing.assert_close(torch.cat([half[key] for half in halves]), column)


@torch.no_grad()
def test_columns_are_those_that_the_files_keep(loss):
    task, batch, ks = make(loss), eight(loss), range(NUM_CLASSES[loss])
    model = task.build_model("test_resnet").eval()
    predicted, inferred = task.predict(model, batch), task.infer(model, batch)
    logp, lens = [f"logp_{k}" for k in ks], LENS if loss == "guided" else ()
    assert list(predicted) == [*logp, *lens[-1:]]
    assert list(inferred) == [*logp, *(f"rot90_{name}" for name in logp), "embedding", *lens]
    assert inferred["embedding"].shape == (8, model.network.num_features)
    assert inferred["embedding"].dtype == torch.float16
    assert all(torch.equal(inferred[key], column) for key, column in predicted.items())


@torch.no_grad()
@pytest.mark.parametrize("tta", ["none", "d4"])
def test_probabilities_sum_to_one(loss, tta):
    task = make(loss, tta=tta)
    predictions = task.infer(task.build_model("test_resnet").eval(), eight(loss))
    for prefix in ("logp", "rot90_logp"):
        columns = [predictions[f"{prefix}_{k}"] for k in range(NUM_CLASSES[loss])]
        total = torch.stack(columns).double().exp().sum(dim=0)
        torch.testing.assert_close(total, torch.ones(8, dtype=torch.float64), atol=1e-6, rtol=0)


@torch.no_grad()
def test_state_round_trips_through_a_file(loss, tmp_path):
    task, batch = make(loss), eight(loss)
    model = task.build_model("test_resnet")
    task.training_step(model.train(), batch | FIRST)  # moves the batch-norm statistics
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model("test_resnet")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected, found = (task.infer(each.eval(), batch) for each in (model, other))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_summary_agrees_with_scikit_learn(loss):
    num = NUM_CLASSES[loss]
    labels = np.arange(12) % num
    probabilities = np.random.default_rng(0).dirichlet(np.ones(num), size=12)
    columns = {f"logp_{k}": np.log(probabilities[:, k]).astype(np.float32) for k in range(num)}
    columns["physics_loss"] = np.linspace(0, 1, 12, dtype=np.float32)
    summary = make(loss).summarise(labels, columns)
    judged = [1] if num == 2 else range(num)
    areas = [
        (roc_auc_score(labels == k, p), average_precision_score(labels == k, p))
        for k in judged
        for p in [probabilities[:, k]]
    ]
    auc, pr_auc = np.mean(areas, axis=0)
    expected = {
        "loss": log_loss(labels, probabilities),
        "auc": auc,
        "pr_auc": pr_auc,
        "accuracy": accuracy_score(labels, probabilities.argmax(axis=1)),
    }
    further = {"physics_loss": 0.5} if loss == "guided" else {}
    assert summary == pytest.approx(expected | further, rel=1e-6)
