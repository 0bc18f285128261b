"""The network of every task compiles as one graph: no value of a tensor decides what is run."""

import pytest
import torch
from every_task import CASES
from torch import nn

# One of each network; other cases differ in what is done around it.
NETWORKS = (
    *("lens-finding", "probe", "d4_net", "mae_vit", "resnet", "convnext", "vit", "guided"),
    *("conv_ae", "conv_vae", "wae", "lens_ae", "srresnet", "edsr", "rcan", "mae_sr"),
    *("foundation", "diffusion", "guided-diffusion"),
)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("seeded")]


class Calls(nn.Module):
    """A network that keeps what it was last called with."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *args, **kwargs):
        self.given = args, kwargs
        return self.network(*args, **kwargs)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_one_graph_and_gives_what_it_gives_uncompiled(name):
    task, model, batch = CASES[name].build()
    calls = Calls(model)
    task.training_step(calls, batch)
    args, kwargs = calls.given
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for network in (model, compiled):
        torch.manual_seed(1)
        results.append(network(*args, **kwargs))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-3)
    results[1].sum().backward()
