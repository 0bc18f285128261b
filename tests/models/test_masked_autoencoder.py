"""The masked autoencoder, its encoder in other networks, and the fillings beside it."""

import pytest
import torch
from networks import build

from lenshpc.engine.optimizers import build_optimizer
from lenshpc.errors import ConfigError
from lenshpc.models.encoder import VitEncoder, encoder_of, positions
from lenshpc.models.importing import timm_module
from lenshpc.models.layers import layer_factors
from lenshpc.models.vit import Vit
from lenshpc.run.sections import Train
from lenshpc.tasks.foundation.networks import MaskedAutoencoder, fill_smoothly, fill_with_mean
from lenshpc.tasks.foundation.settings import Foundation
from lenshpc.tasks.super_resolution.networks import SuperResolver, mae_sr

pytestmark = pytest.mark.usefixtures("seeded")
SIZE = Vit(patch=4, width=24, depth=3, heads=2)
SMALL = {"vit": SIZE, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def autoencoder(**method):
    return MaskedAutoencoder((2, 16, 24), Foundation(**SMALL, **method))


def orders(num, num_patches=24):
    return torch.rand(num, num_patches).argsort(dim=1)


@pytest.mark.parametrize(("ratio", "num_seen"), [(0.75, 6), (0.5, 12), (0.9, 2)])
def test_mask_hides_its_part_of_the_patches_exactly(ratio, num_seen):
    model, order = autoencoder(mask_ratio=ratio), orders(3)
    seen, hidden = model.split(order)
    assert seen.shape == (3, num_seen)
    assert torch.equal(torch.cat([seen, hidden], dim=1).sort(dim=1).values[0], torch.arange(24))
    mask = model.mask(torch.zeros(3, 2, 16, 24), hidden)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [16 * (24 - num_seen)] * 3


@torch.no_grad()
def test_encoder_sees_no_hidden_pixel_and_the_loss_no_seen_one():
    model, image, order = autoencoder(), torch.randn(2, 2, 16, 24), orders(2)
    mask = model.mask(image, model.split(order)[1])
    drawn, hidden = model.draw(image, order)
    altered = torch.where(mask, torch.randn_like(image), image)
    assert torch.equal(model.draw(altered, order)[0], drawn)
    others = torch.where(mask, image, torch.randn_like(image))
    assert torch.equal(model.error(others, drawn, hidden), model.error(image, drawn, hidden))


@torch.no_grad()
def test_loss_is_the_mean_square_over_hidden_pixels():
    model, image, order = autoencoder(), torch.randn(2, 2, 16, 24), orders(2)
    drawn, hidden = model.draw(image, order)
    mask = model.mask(image, hidden)
    pasted = model.paste(image, drawn, hidden)
    assert torch.equal(torch.where(mask, image, pasted), image)
    expected = ((pasted - image) ** 2).sum(dim=(1, 2, 3)) / (2 * mask.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(model(image, order), expected)


@torch.no_grad()
def test_normalised_targets_know_no_brightness_and_no_contrast():
    model, image, order = autoencoder(norm_pixels=True), torch.randn(2, 2, 16, 24), orders(2)
    drawn, hidden = model.draw(image, order)
    losses = [model.error(each, drawn, hidden) for each in (image, 3 * image + 5)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    flat = model.error_of_filled(image, torch.zeros_like(image), hidden)
    torch.testing.assert_close(flat, torch.full((2,), 31 / 32), rtol=1e-5, atol=0)


@torch.no_grad()
def test_encoder_of_all_patches_is_that_of_the_whole_image():
    encoder, image = VitEncoder(1, SIZE).eval(), torch.randn(2, 1, 12, 16)
    order = orders(2, 12)
    whole, shuffled = encoder(image), encoder(image, order)
    assert whole.shape == (2, 12, 24)
    expected = whole.gather(1, order[:, :, None].expand(-1, -1, 24))
    torch.testing.assert_close(shuffled, expected, rtol=1e-5, atol=1e-5)


def test_positions_are_those_of_timm_and_continue_in_larger_images():
    timm, cpu = timm_module(), torch.device("cpu")
    found = positions((3, 5), 24, cpu)
    assert torch.equal(found, timm.layers.build_sincos2d_pos_embed([3, 5], 24))
    larger = positions((4, 7), 24, cpu).view(4, 7, 24)
    torch.testing.assert_close(larger[:3, :5], found.view(3, 5, 24))


@torch.no_grad()
def test_encoder_takes_images_that_do_not_fill_their_patches():
    encoder = VitEncoder(1, SIZE).eval()
    image = torch.randn(1, 1, 15, 18)
    reflected = torch.nn.functional.pad(image, (0, 2, 0, 1), "reflect")
    assert torch.equal(encoder(image), encoder(reflected))
    assert encoder(image).shape == (1, 20, 24)


def test_fillings_are_those_of_closed_forms():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (2 * x - y)[None, None]
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[:, :, 4:8, 4:12] = True
    torch.testing.assert_close(fill_smoothly(ramp, mask), ramp, rtol=1e-4, atol=1e-4)
    filled = fill_with_mean(ramp, mask)
    torch.testing.assert_close(filled[mask], ramp[~mask].mean().expand(32))
    assert torch.equal(filled[~mask], ramp[~mask])


def test_classifier_and_enlarger_hold_the_encoder_of_the_pre_training():
    encoder = MaskedAutoencoder((1, 16, 16), Foundation(**SMALL)).encoder
    classifier = build("mae_vit", image_shape=(1, 16, 16), num_outputs=3, vit=SIZE)
    enlarger = SuperResolver(mae_sr(1, 2, 8, 1, SIZE), 2)
    for model in (classifier, enlarger):
        encoder_of(model).load_state_dict(encoder.state_dict())
    image = torch.randn(2, 1, 16, 16)
    expected = encoder(image).mean(dim=1)
    torch.testing.assert_close(classifier.features(image), expected)


def test_probe_trains_its_last_layer_alone_on_standardised_features():
    probe = build(
        "mae_vit", image_shape=(1, 16, 16), num_outputs=3, vit=SIZE, linear_probe=True
    ).train()
    before = {name: value.clone() for name, value in probe.network.state_dict().items()}
    optimizer = build_optimizer(probe, Train(lr=0.1), torch.device("cpu"))
    image = 5 + torch.randn(16, 1, 16, 16)
    features = probe.features(image)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(24), atol=1e-4, rtol=0)
    probe(image).square().sum().backward()
    optimizer.step()
    changed = {n for n, value in probe.network.state_dict().items() if (value != before[n]).any()}
    assert changed == {"head.weight", "head.bias"}


def test_frozen_network_keeps_its_batch_statistics():
    probe = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2, linear_probe=True).train()
    before = {name: value.clone() for name, value in probe.network.named_buffers()}
    probe(torch.randn(4, 1, 32, 32))
    assert all(torch.equal(value, before[n]) for n, value in probe.network.named_buffers())


def test_rates_of_the_layers_are_those_of_timm():
    vit = timm_module().create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=3, num_classes=3
    )
    from timm.optim import param_groups_layer_decay  # after timm_module has made it importable

    scaled = param_groups_layer_decay(vit, layer_decay=0.75)
    expected = {group["lr_scale"] for group in scaled}
    model = build("mae_vit", image_shape=(1, 16, 16), num_outputs=3, vit=SIZE)
    factors = layer_factors(model, 0.75)
    encoder = encoder_of(model)
    assert factors[encoder.patches.weight] == 0.75**4
    assert factors[encoder.blocks[0].attn.qkv.weight] == 0.75**3
    assert factors[encoder.norm.weight] == 1
    assert sorted({*factors.values()}) == pytest.approx(sorted(expected))
    train = Train(lr=1.0, layer_decay=0.75, weight_decay=0.1)
    groups = build_optimizer(model, train, torch.device("cpu")).param_groups
    rates = [(group["lr"], group["weight_decay"]) for group in groups]
    assert rates[:2] == [(1.0, 0.1), (1.0, 0.0)]
    assert rates[-1] == (0.75**4, 0.0)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_drop_path_of_a_network_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="vgg11 has no blocks to skip"):
        build("vgg11", image_shape=(1, 64, 64), num_outputs=2, drop_path=0.1)
