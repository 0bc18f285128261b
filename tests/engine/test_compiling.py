"""A network that is compiled for its steps, and the plain one where that fails."""

import logging
import os
from pathlib import Path

import pytest
import torch
from test_steps import make_batch, make_network, make_strategy, weights_after
from torch import nn
from torch._inductor import config

from lenshpc.engine.compiling import Compilation, keep_private, refuse_without_compiler
from lenshpc.errors import ConfigError, LaunchError
from lenshpc.run.sections import Train

# torch's own compiler still imports it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


class Wrapped(nn.Module):
    """A network of our own: of torch's layers alone, torch compiles nothing."""

    def __init__(self):
        super().__init__()
        self.network = make_network()

    def forward(self, image):
        return self.network(image)


def test_compiling_without_a_compiler_is_refused_before_a_step(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError) as error:
        make_strategy(compile="default")
    assert str(error.value) == (
        "train.compile needs a compiler on the node, and g++ is not there; install it, load the "
        "site's module for it in its profile's setup, or use --set train.compile=none"
    )


def test_what_is_compiled_is_kept_where_no_other_user_can_write(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_private()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder.chmod(0o777)
    with pytest.raises(LaunchError, match="is open to others"):
        keep_private()


def test_compiling_for_a_gpu_needs_triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="the package triton is not installed"):
        refuse_without_compiler(torch.device("cuda"))


def test_a_network_that_cannot_be_compiled_is_trained_without_after_one_warning(
    monkeypatch, caplog, tmp_path
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    broken = config.patch({"cpp.cxx": (None, "/bin/false"), "fx_graph_cache": False})
    with broken, caplog.at_level(logging.WARNING, logger="lenshpc"):
        found = weights_after(make_strategy(Wrapped(), compile="default"))
    told = [one.message for one in caplog.records if one.name == "lenshpc.engine.compiling"]
    assert len(told) == 1
    assert told[0].startswith(
        "train.compile: the network cannot be compiled, and is trained without it: "
    )
    expected = weights_after(make_strategy(Wrapped()))
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)


def test_prediction_is_not_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    calls = []

    def note(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    network = Wrapped()
    compilation = Compilation(network, Train(compile="default"), torch.device("cpu"))
    torch.compiler.reset()
    network.compile(backend=note, dynamic=False)
    image = make_batch()["image"]
    with torch.no_grad(), compilation.pause():
        network(image)
    assert calls == []
    compilation.compute(lambda: network(image).sum())
    assert len(calls) == 1
    assert list(network.state_dict()) == list(Wrapped().state_dict())
