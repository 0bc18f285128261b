"""A trained network, as other programs get it."""

import pytest
import torch
from safetensors.torch import save_file
from synthetic_run import make_run

from lenshpc.engine.load import load_model
from lenshpc.files import read_json
from lenshpc.models.backbones import build
from lenshpc.run.completion import hash_outputs, mark_done


@pytest.mark.parametrize(
    "method",
    [{"weights": "gone.safetensors", "weights_sha256": "0" * 64}, {"class_weights": "balanced"}],
)
def test_network_needs_nothing_that_training_alone_did(tmp_path, seeded, method):
    run = make_run(tmp_path, models=("test_resnet",), folds=1, method=method)
    files = run.paths.member(run.plan.members[0].name)
    trained = build("test_resnet", image_shape=(1, 4, 4), num_outputs=2).eval()
    save_file(trained.state_dict(), files.weights)
    facts = {key: read_json(files.done)[key] for key in ("mean", "std")}
    mark_done(run.paths, run.plan, run.plan.members[0], hash_outputs(files), facts)
    images = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(load_model(run.paths.root, 0)(images), trained(images))
