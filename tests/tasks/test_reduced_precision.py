"""Every task under autocast: what is learnt and predicted is that of float32, but for rounding."""

import pytest
import torch
from every_task import CASES, FUNCTIONS

pytestmark = pytest.mark.usefixtures("seeded")
TOLERANCES = {torch.bfloat16: 0.03, torch.float16: 0.005}
# One of each kind; all others, and float16, are slow.
QUICK = {
    *("bce", "complement", "smote-features", "mae_vit", "guided", "conv_vae", "wae", "lens_ae"),
    *("l1_ssim", "foundation-norm", "guided-diffusion"),
}
EVERY = [
    pytest.param(
        name,
        dtype,
        marks=() if dtype == torch.bfloat16 and name in QUICK else pytest.mark.slow,
        id=f"{name}-{dtype}",
    )
    for name in CASES
    for dtype in TOLERANCES
]


def near(found, expected, dtype):
    torch.testing.assert_close(found, expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])


def step(task, model, batch, **autocast):
    """Return loss and gradients, under the same draws each time."""
    torch.manual_seed(1)
    with torch.autocast("cpu", **autocast):
        loss = task.training_step(model, batch)["loss"]
    model.zero_grad()
    loss.backward()
    return loss.detach(), [one.grad for one in model.parameters() if one.grad is not None]


@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_losses_and_gradients_are_finite_and_near_those_of_float32(name, dtype):
    task, model, batch = CASES[name].build()
    model.train()
    loss, gradients = step(task, model, batch, dtype=dtype)
    expected, _ = step(task, model, batch, dtype=dtype, enabled=False)
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(one).all() for one in gradients)
    near(loss, expected, dtype)


@torch.no_grad()
@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_predictions_are_float32_and_near_those_without_autocast(name, dtype):
    task, model, batch = CASES[name].build()
    for ask in [getattr(task, one) for one in FUNCTIONS if hasattr(task, one)]:
        expected = ask(model.eval(), batch)
        with torch.autocast("cpu", dtype=dtype):
            found = ask(model, batch)
        assert {key: one.dtype for key, one in found.items()} == {
            key: one.dtype for key, one in expected.items()
        }
        assert {one.dtype for one in found.values() if one.ndim == 1} <= {torch.float32}
        assert all(torch.isfinite(one).all() for one in found.values())
        for key in found:
            # A drawn image adds up the rounding of each of its steps.
            if not key.endswith("sample"):
                near(found[key], expected[key], dtype)


@torch.no_grad()
def test_sure_answers_keep_their_order_under_autocast():
    _, model, batch = CASES["resnet"].build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.eval()(batch["image"])
        assert model.features(batch["image"]).dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
