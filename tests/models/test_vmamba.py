"""VMamba: published sizes, the official start, both block kinds, maps of any size, and the encoder around it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import vmamba_official as official

from aescli.errors import AesError
from aescli.models import vmamba
from aescli.models.encoders import EncoderConfig, VMambaEncoder, build_encoder, encoder_statistics
from aescli.models.vmamba import SS2D, VARIANTS, DropPath, PatchMerging, VMamba, VMambaConfig
from aescli.ops import ss2d
from aescli.ops.selective_scan import available

# with and without a head of 1000 classes
GOLDEN = {
    "vmamba_tiny_v0": (22_893_448, 22_124_448),
    "vmamba_small_v0": (44_417_416, 43_648_416),
    "vmamba_base_v0": (76_254_056, 75_229_056),
    "vmamba_tiny_s2l5": (30_705_832, 29_936_832),
    "vmamba_small_s2l15": (50_147_752, 49_378_752),
    "vmamba_base_s2l15": (88_557_800, 87_532_800),
    "vmamba_tiny_s1l8": (30_249_064, 29_480_064),
    "vmamba_small_s1l20": (49_012_840, 48_243_840),
    "vmamba_base_s1l20": (86_614_504, 85_589_504),
}
SMALL = VMambaConfig(width=16, depths=(1, 1, 1, 1))
SMALL_GATED = replace(SMALL, states=3, gated=True, mlp_ratio=0.0, stem="v1", downsample="v1")


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", GOLDEN)
def test_every_variant_has_its_published_size(name):
    with torch.device("meta"):
        build = getattr(vmamba, name)
        assert (count(build(classes=1000)), count(build())) == GOLDEN[name]
    assert f"{GOLDEN[name][1]:,}" in build.__doc__
    assert GOLDEN.keys() == VARIANTS.keys()


@pytest.mark.parametrize("gated", [True, False])
def test_a_block_computes_its_equations(gated):
    torch.manual_seed(0)
    block = SS2D(24, 3, 2.0, gated).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, 5, 7, 24, dtype=torch.float64)
    state = {f"op.{k}": v for k, v in block.state_dict().items()}
    wanted = official.ss2d(x.permute(0, 3, 1, 2), state, "op", gated).permute(0, 2, 3, 1)
    # A is computed in float32 at least: the only rounding below float64
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-7)


def test_initial_values():
    torch.manual_seed(0)
    block = SS2D(256, 16, 2.0, True)
    torch.testing.assert_close(block.A_logs.exp(), torch.arange(1.0, 17.0).expand(4 * 512, 16))
    assert torch.equal(block.Ds, torch.ones(4 * 512))
    dt = F.softplus(block.dt_projs_bias)
    assert 1e-3 * 0.999 <= dt.min() < 1.2e-3
    assert 8e-2 < dt.max() <= 1e-1 * 1.001
    assert 0.45 < (dt < 1e-2).float().mean() < 0.55  # log-uniform
    assert block.rank == 16
    assert 0.95 * 16**-0.5 < block.dt_projs_weight.abs().max() <= 16**-0.5
    assert 0.95 * 512**-0.5 < block.x_proj_weight.abs().max() <= 512**-0.5
    assert block.A_logs._no_weight_decay
    assert block.Ds._no_weight_decay
    assert not torch.equal(block.dt_projs_bias[0], block.dt_projs_bias[1])
    net = VMamba(replace(SMALL, classes=10))
    assert 0.018 < torch.cat([b.mlp.fc1.weight.flatten() for s in net.layers for b in s.blocks]).std() < 0.022
    assert not net.head.bias.any()


def test_every_parameter_gets_a_gradient():
    for config in (SMALL, SMALL_GATED):
        torch.manual_seed(0)
        net = VMamba(replace(config, classes=5))
        net(torch.randn(2, 3, 64, 96)).square().sum().backward()
        for name, p in net.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [SMALL, SMALL_GATED])
def test_maps_of_any_size(config):
    net = VMamba(config).eval()
    with torch.no_grad():
        for height, width in ((32, 32), (65, 40), (224, 96)):
            sizes = [m.shape[1:] for m in net.stages(torch.randn(1, 3, height, width))]
            assert [s[2] for s in sizes] == [16, 32, 64, 128]
            for fine, coarse in itertools.pairwise(sizes):
                assert (coarse[0], coarse[1]) == (math.ceil(fine[0] / 2), math.ceil(fine[1] / 2))


def test_patch_merging_takes_neighbours_in_the_published_order():
    merging = PatchMerging(1)
    merging.norm = torch.nn.Identity()
    with torch.no_grad():
        merging.reduction.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0], [0.0, 0.0, 0.0, 1.0]]))
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 2, 1)
    # (row, column): (0,0), (1,0), (0,1), (1,1)
    assert merging(x).flatten().tolist() == [1 + 30 + 200 + 4000, 4]


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = DropPath(0.3), torch.ones(4000, 2, 2, 3)
    y = drop(x)
    kept = y[:, 0, 0, 0] > 0
    assert torch.equal(y.flatten(1).amax(1) > 0, kept)
    assert 0.66 < kept.float().mean() < 0.74
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_rises_over_the_blocks():
    net = VMamba(replace(SMALL, depths=(1, 2, 1, 1), drop_path=0.4))
    rates = [block.drop_path.rate for stage in net.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [VARIANTS[f"vmamba_{size}_v0"].drop_path for size in ("tiny", "small", "base")] == [0.2, 0.3, 0.6]


@pytest.mark.skipif(not available("numba", "cpu"), reason="numba is not installed")
@pytest.mark.parametrize("config", [SMALL, SMALL_GATED])
def test_inference_and_training_compute_the_same(config, monkeypatch):
    torch.manual_seed(0)
    net, x = VMamba(replace(config, classes=5)).eval(), torch.randn(2, 3, 64, 64)
    wanted = net(x).detach()  # with gradients: composed
    monkeypatch.setattr(ss2d, "COMPILED_FROM", 0)
    with torch.no_grad():
        torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(x).float()
    assert (half - wanted).abs().max() <= 5e-2 * wanted.abs().max()


def test_a_network_exports_with_any_batch():
    torch.manual_seed(0)
    net = VMamba(replace(SMALL, depths=(1, 1), classes=5)).eval().requires_grad_(False)
    images = torch.randn(2, 3, 32, 64)
    program = torch.export.export(net, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    other = torch.randn(3, 3, 32, 64)
    torch.testing.assert_close(program.module()(other), net(other), rtol=1e-4, atol=1e-6)


def test_the_encoder_gives_its_stages_the_last_one_normalised():
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="vmamba_tiny_s1l8")).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, stages = encoder(x), encoder.net.stages(x)
        tokens = encoder.net(x)
    assert isinstance(encoder, VMambaEncoder)
    assert encoder.levels == (1, 2, 3, 4)
    assert encoder.channels == [96, 192, 384, 768]
    assert [tuple(m.shape) for m in maps] == [
        (1, 96, 16, 24),
        (1, 192, 8, 12),
        (1, 384, 4, 6),
        (1, 768, 2, 3),
    ]
    torch.testing.assert_close(maps[1], stages[1].permute(0, 3, 1, 2))
    torch.testing.assert_close(maps[-1], tokens.permute(0, 3, 1, 2))
    torch.testing.assert_close(maps[-1].mean((2, 3)), encoder.net.norm(stages[-1]).mean((1, 2)))
    assert count(encoder) == GOLDEN["vmamba_tiny_s1l8"][1]
    assert encoder_statistics(encoder) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_encoder_builds_no_stage_above_its_deepest_level():
    encoder = build_encoder(EncoderConfig(name="vmamba_tiny_s1l8", levels=(1, 3), drop_path=0.1))
    assert len(encoder.net.layers) == 3
    assert encoder.channels == [96, 384]
    assert encoder.net.layers[-1].blocks[-1].drop_path.rate == pytest.approx(0.1)
    assert [m.shape[1] for m in encoder(torch.randn(1, 3, 32, 32))] == [96, 384]


def test_the_encoder_freezes_as_a_whole():
    encoder = build_encoder(EncoderConfig(name="vmamba_tiny_s1l8", levels=(1,))).eval()
    x = torch.randn(1, 3, 32, 32)
    whole = encoder(x)
    encoder.set_cut(1)
    assert not any(p.requires_grad for p in encoder.parameters())
    torch.testing.assert_close(encoder.upper(encoder.lower(x))[0], whole[0])


def test_what_the_encoder_cannot_be_is_refused():
    for levels in ((0, 1), (4, 5), (2, 1), (2, 2)):
        with pytest.raises(AesError, match=r"encoder\.levels: .* from 1 to 4 of vmamba_tiny_v0"):
            build_encoder(EncoderConfig(name="vmamba_tiny_v0", levels=levels))
    with pytest.raises(AesError, match=r"no VMamba named 'vmamba_tiny'; published: vmamba_tiny_v0"):
        build_encoder(EncoderConfig(name="vmamba_tiny"))
    with pytest.raises(AesError, match=r"vmamba_tiny_s1l8 has no weights to fetch"):
        build_encoder(EncoderConfig(name="vmamba_tiny_s1l8", levels=(1,), pretrained=True))
