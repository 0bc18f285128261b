"""The lens as a layer: rays, sources, gradients, and the Einstein radius found again."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.prep.simulation.darkroom import HaloRenderer
from lenshpc.prep.simulation.draws import Stream
from lenshpc.tasks.physics_guided.lens_layer import LensParameters, LensRenderer, light_of
from lenshpc.tasks.physics_guided.settings import Physics

SCALE, SIDE = 0.25, 25  # an odd side has a pixel in the very middle
NONE = dict.fromkeys(LensParameters._fields, 0.0) | {"axis_ratio": 1.0}

pytestmark = pytest.mark.usefixtures("seeded")


def make(lens="sis", side=SIDE, scale=SCALE, **settings):
    settings = {"ring_arcsec": (0.0, 3.0), **settings}
    return LensRenderer(Physics(pixel_scale_arcsec=scale, lens=lens, **settings), side, scale)


def lens_of(**numbers):
    return LensParameters(
        **{name: torch.tensor([value]) for name, value in (NONE | numbers).items()}
    )


def test_parameters_stay_within_their_bounds_and_begin_in_the_middle():
    layer = make("sie", theta_e_arcsec=(0.5, 1.5), max_shear=0.3, min_axis_ratio=0.4)
    found = layer.lens(torch.cat([torch.zeros(1, 7), 1000 * torch.randn(200, 7)]))
    first = {name: values[0].item() for name, values in found._asdict().items()}
    assert first == pytest.approx(NONE | {"theta_e_arcsec": 1.0}, abs=1e-3)
    assert found.theta_e_arcsec.min() == 0.5
    assert found.theta_e_arcsec.max() == 1.5
    limits = {"centre_x_arcsec": 0.1, "gamma1": 0.3, "gamma2": 0.3}
    assert {name: getattr(found, name).abs().max().item() for name in limits} == (
        pytest.approx(limits)
    )
    assert 0.4 <= found.axis_ratio.min() < found.axis_ratio.max() <= 1
    assert found.angle_rad.abs().max() <= math.pi / 2


def test_lens_without_shear_and_ellipticity_has_three_parameters():
    layer = make(shear=False)
    assert layer.physics.num_parameters == 3
    found = layer.lens(torch.randn(4, 3))
    assert torch.cat([found.gamma1, found.gamma2, found.angle_rad]).eq(0).all()
    assert found.axis_ratio.eq(1).all()


def test_x_runs_along_columns_and_y_along_rows():
    layer = make()
    beta_x, beta_y = (layer.draw(one)[0] for one in layer.trace(lens_of(centre_x_arcsec=0.5)))
    middle = SIDE // 2
    assert (beta_x[middle, middle + 4], beta_y[middle, middle + 4]) == (4 * SCALE - 0.5, 0)
    assert (beta_x[middle + 4, middle], beta_y[middle + 4, middle]) == (-0.5, 4 * SCALE)


@pytest.mark.parametrize("lens", ["sis", "sie"])
def test_rays_are_those_of_caustics(lens):
    functions = pytest.importorskip(
        "caustics.lenses.func", reason="caustics is not installed; see the extra dev"
    )
    numbers = {"theta_e_arcsec": 1.3, "gamma1": 0.05, "gamma2": -0.1}
    numbers |= {"axis_ratio": 0.6, "angle_rad": 0.7} if lens == "sie" else {}
    layer = make(lens, softening_arcsec=1e-9, ring_arcsec=(0.1, 3.0)).double()
    found = layer.trace(lens_of(**numbers))
    of = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    zero, rays = torch.tensor(0.0, dtype=torch.float64), (layer.x, layer.y)
    shape = (of["axis_ratio"], of["angle_rad"]) if lens == "sie" else ()
    deflect = getattr(functions, f"reduced_deflection_angle_{lens}")
    mass = deflect(zero, zero, *shape, of["theta_e_arcsec"], *rays)
    shear = functions.reduced_deflection_angle_external_shear(
        zero, zero, of["gamma1"], of["gamma2"], *rays
    )
    for beta, ray, *alphas in zip(found, rays, mass, shear, strict=True):
        torch.testing.assert_close(beta[0], ray - sum(alphas), atol=1e-6, rtol=0)


@pytest.mark.parametrize("lens", ["sis", "sie"])
def test_gradients_of_rays_are_the_differences_also_at_the_centre(lens):
    layer = make(lens, side=5).double()
    assert (layer.x**2 + layer.y**2).min() == 0
    raw = torch.randn(2, layer.physics.num_parameters, dtype=torch.float64) / 3
    raw[0, 1:3] = 0  # the middle ray meets the lens's centre
    raw.requires_grad_()
    assert gradcheck(lambda raw: layer.trace(layer.lens(raw)), raw, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("lens", ["sis", "sie"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_finite_everywhere(lens, dtype):
    layer = make(lens)
    images = torch.stack([torch.rand(1, SIDE, SIDE), torch.zeros(1, SIDE, SIDE)]).to(dtype)
    for start in (0.0, -100.0, 100.0):
        raw = torch.full((2, layer.physics.num_parameters), start, dtype=dtype, requires_grad=True)
        losses = layer.losses(images, layer.lens(raw))
        (gradient,) = torch.autograd.grad(losses.sum(), raw)
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        assert gradient.isfinite().all()


def test_gradient_of_the_loss_is_the_difference():
    layer = make().double()
    image = torch.rand(2, 1, SIDE, SIDE, dtype=torch.float64)
    raw = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda raw: layer.losses(image, layer.lens(raw)), raw, eps=1e-8, atol=1e-4)


def test_weights_of_the_nodes_sum_to_one_inside_the_source_and_to_zero_beyond():
    layer = make(source_half_width_arcsec=1.0, source_side=8)
    beta = torch.tensor([[0.3, -1.0, 1.0, 5.0]])
    index, weight = layer._nodes(beta, torch.zeros(1, 4))
    torch.testing.assert_close(weight.sum(dim=1), torch.tensor([[1.0, 1, 1, 0]]))
    node = torch.linspace(-1, 1, 8)[index % 8]
    torch.testing.assert_close((weight * node).sum(dim=1)[0, :3], beta[0, :3])


def test_light_is_above_the_median_of_the_edges_and_a_mean_over_channels():
    image = torch.zeros(1, 2, 4, 4)
    image[0, 0], image[0, 1] = 3.0, 5.0
    image[0, :, 1, 2] = 10.0
    expected = torch.zeros(1, 4, 4)
    expected[0, 1, 2] = 6.0
    assert torch.equal(light_of(image), expected)


def test_several_images_of_one_place_have_their_mean_in_the_source():
    layer = make(ring_arcsec=(0.99, 1.01), source_side=5)
    image = torch.zeros(1, 1, SIDE, SIDE)
    middle = SIDE // 2
    image[0, 0, middle, middle + 4], image[0, 0, middle, middle - 4] = 1.0, 3.0
    found = layer.reconstruct(image, lens_of(theta_e_arcsec=1.0))
    rays = layer.ring.sum().item()  # all of the ring at 1″ comes from the middle
    assert rays == 4
    assert found.source[0, 2, 2].item() == pytest.approx((1 + 3) / 4, rel=5e-3)
    torch.testing.assert_close(found.render, torch.full((1, 4), 1.0), atol=6e-3, rtol=0)


def test_no_lens_has_the_loss_one_whatever_brightness_and_sky():
    layer, image = make(source_side=8), torch.rand(3, 2, SIDE, SIDE)
    none = LensParameters(*(values.expand(3) for values in lens_of()))
    torch.testing.assert_close(layer.losses(image, none), torch.ones(3))
    some = LensParameters(*(values.expand(3) for values in lens_of(theta_e_arcsec=1.2, gamma2=0.1)))
    torch.testing.assert_close(
        layer.losses(image, some), layer.losses(7 * image + 3, some), rtol=1e-4, atol=0
    )


def noise_free(lens, side, num):
    """Return lenses of the simulator without noise, and what is true of them."""
    value = load_dataset("physics_guided").model_dump(by_alias=True)
    value["simulate"] |= {
        "pixel_scale_arcsec": 7.5 / side,
        "psf_fwhm_arcsec": 0.1,
        "noise": None,
        "halo_axis_ratio": (0.7, 0.9) if lens == "sie" else (1, 1),
    }
    renderer = HaloRenderer(settings=Dataset.model_validate(value).simulate, num_pixels=side)
    samples = [renderer.make(Stream(0, "train", "no"), number) for number in range(num)]
    images = torch.tensor(np.array([sample.image for sample in samples])).float()
    return images, torch.tensor([sample.truth["theta_e_arcsec"] for sample in samples])


@pytest.mark.parametrize(("lens", "num_steps"), [("sis", 80), ("sie", 120)])
def test_einstein_radius_of_noise_free_lenses_is_found_within_two_percent(lens, num_steps):
    side = 50
    images, truth = noise_free(lens, side, num=8)
    layer = make(lens, side, 7.5 / side, ring_arcsec=(0.2, 3.0))
    raw = torch.zeros(len(images), layer.physics.num_parameters, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.08)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        layer.losses(images, layer.lens(raw)).sum().backward()
        optimizer.step()
        schedule.step()
    found = layer.lens(raw.detach()).theta_e_arcsec
    assert (truth.max() - truth.min()) > 0.4
    torch.testing.assert_close(found, truth.float(), rtol=0.02, atol=0)
