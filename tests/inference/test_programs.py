"""Programs from pixels to answers: they give what the ensemble gives, or are refused."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import build
from torch import nn

from lenshpc.data.stretch import stretch
from lenshpc.errors import ConfigError, DataError
from lenshpc.inference.programs import FILES, export_programs
from lenshpc.models.d4 import transform

NOTES = {"run": "lenses-01234567", "classes": '["nonlens", "lens"]'}


class Chain(nn.Module):
    """From pixels of 40 × 40 to probabilities: every step that an ensemble can have."""

    def __init__(self, *networks, symmetries=1, own_statistics=False):
        super().__init__()
        self.networks, self.symmetries = nn.ModuleList(networks), symmetries
        self.own_statistics = own_statistics
        resize = torch.rand(32, 36)
        self.register_buffer("rows", resize / resize.sum(dim=1, keepdim=True))
        self.eval()

    def prepare(self, pixels):
        """Crop, resize, stretch and normalise."""
        image = self.rows @ (pixels[:, :, 2:38, 2:38].float() / 255) @ self.rows.T
        image = sum(stretch(image, kind) for kind in ("asinh", "log", "sqrt"))
        if not self.own_statistics:
            return (image - 0.3) / 0.7
        std, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        return (image - mean) / std

    def forward(self, pixels):
        """Return the mean probabilities."""
        image = self.prepare(pixels)
        views = [transform(image, g) for g in range(self.symmetries)]
        logits = [network(view) for network in self.networks for view in views]
        return torch.stack(logits).double().softmax(dim=2).mean(dim=0).float()


def network(name, channels=3):
    torch.manual_seed(7)
    return build(name, image_shape=(channels, 32, 32), num_outputs=2)


def tiny():
    """Return a network that is written within a second."""
    torch.manual_seed(7)
    first = nn.Conv2d(3, 4, 3, stride=2)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))


def images(number=5, dtype=torch.uint8, channels=3):
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(0, 256, (number, channels, 40, 40), generator=generator)
    return values.to(dtype)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a chain, the folder of its programs, and by how much these differ."""
    chain, folder = Chain(tiny(), symmetries=2), tmp_path_factory.mktemp("programs")
    return chain, folder, export_programs(chain, images(3), folder, ["torch", "onnx"], NOTES)


def test_programs_answer_as_the_ensemble_for_any_number_of_images(made):
    chain, folder, differences = made
    assert list(differences) == ["torch", "onnx"]
    assert max(differences.values()) < 1e-5
    session = onnxruntime.InferenceSession(folder / "ensemble.onnx")
    module = torch.export.load(folder / "ensemble.pt2").module()
    for number in (1, 7):  # 7: a number that the export has not tried
        batch = images(number)
        with torch.inference_mode():
            want = chain(batch).numpy()
            np.testing.assert_allclose(module(batch).numpy(), want, atol=1e-6)
        (answer,) = session.run(None, {"pixels": batch.numpy()})
        np.testing.assert_allclose(answer, want, atol=1e-5)


def test_onnx_program_says_what_it_takes_and_gives(made):
    path = made[1] / "ensemble.onnx"
    session = onnxruntime.InferenceSession(path)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == (
        "pixels",
        "tensor(uint8)",
        ["batch", 3, 40, 40],
    )
    assert (given.name, given.type, given.shape) == ("answer", "tensor(float)", ["batch", 2])
    assert session.get_modelmeta().custom_metadata_map == NOTES
    opsets = onnx.load(path).opset_import
    assert {one.domain: one.version for one in opsets} == {"": 20}


def test_torch_program_carries_the_notes(made):
    notes = {"notes.json": ""}
    torch.export.load(made[1] / "ensemble.pt2", extra_files=notes)
    assert json.loads(notes["notes.json"]) == NOTES


class Straying(Chain):
    """Answers in Python otherwise than as a program."""

    def forward(self, pixels):
        """Return probabilities, moved by a thousandth where no program is made of it."""
        moved = 0.0 if torch.compiler.is_exporting() else 1e-3
        return super().forward(pixels) + moved


def test_program_that_answers_otherwise_is_refused(tmp_path):
    with pytest.raises(DataError) as refused:
        export_programs(Straying(tiny()), images(), tmp_path, ["torch"])
    assert str(refused.value) == (
        "--program torch: its predictions differ from the ensemble's by up to 0.001, and at most "
        "0.0001 is accepted; leave the option out"
    )


class Deciding(Chain):
    """Looks at the pixels to decide what to do, which no program can."""

    def forward(self, pixels):
        """Return probabilities of the brighter."""
        return super().forward(pixels if pixels.float().mean() > 3 else pixels + 1)


@pytest.mark.parametrize("kind", FILES)
def test_network_that_no_program_can_hold_is_refused_in_one_line(kind, tmp_path):
    with pytest.raises(ConfigError) as refused:
        export_programs(Deciding(tiny()), images(), tmp_path, [kind])
    message = str(refused.value)
    assert message.startswith(
        f"--program {kind}: the networks of this run cannot be exported as such a program ("
    )
    assert message.endswith("); leave the option out")
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("own_statistics", [False, True])
def test_programs_see_all_symmetries_and_each_images_own_statistics(
    own_statistics, dtype, tmp_path
):
    chain = Chain(network("d4_net", 1), symmetries=8, own_statistics=own_statistics)
    examples = images(dtype=dtype, channels=1)
    assert max(export_programs(chain, examples, tmp_path, ["torch", "onnx"]).values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", "efficientnet_b0", "convnextv2_atto", "vit_tiny_patch16_224", "mae_vit",
     "swin_tiny_patch4_window7_224"],
)  # fmt: skip
def test_programs_of_networks_in_use(name, tmp_path):
    chain = Chain(network(name))
    assert max(export_programs(chain, images(), tmp_path, ["torch", "onnx"]).values()) < 1e-5
