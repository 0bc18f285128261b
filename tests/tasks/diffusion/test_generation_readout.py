"""A generative model says nothing of given images, and what is told of that."""

import pytest
from generation_run import make_generation_run

from lenshpc.errors import ConfigError
from lenshpc.inference.trained import open_trained


def test_run_that_draws_images_is_sent_to_the_command_for_it(tmp_path):
    paths, *_ = make_generation_run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_trained(paths.root)
    assert str(caught.value) == (
        f"run {paths.name} is of task diffusion, which predicts nothing for new images; draw "
        "images with: lenshpc sample"
    )
