import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aescli.errors import AesError
from aescli.models.checkpoint import Card, half_precision, load_checkpoint, save_checkpoint
from aescli.models.encoders import EncoderConfig
from aescli.models.momamba import MoMamba, MoMambaConfig
from aescli.models.rounding import (
    RoundedConv2d,
    best_scale,
    on_grid,
    packed,
    round_convolutions,
    settle,
    unpack_into,
)


@given(bits=st.integers(2, 8), seed=st.integers(0, 1000), zero=st.booleans())
@settings(max_examples=40, deadline=None)
def test_packing_loses_nothing_of_rounded_weights(bits, seed, zero):
    torch.manual_seed(seed)
    conv = nn.Conv2d(40, 67, 2)
    if zero:
        nn.init.zeros_(conv.weight[3])
    # Sizes below the limit exercise the last, partly filled byte just as well.
    layer = nn.Sequential(RoundedConv2d(conv, bits))
    settle(layer)
    state = packed(layer.state_dict(), bits)
    assert state["0.weight"].dtype == torch.uint8
    assert state["0.weight"].numel() == -(-conv.weight.numel() * bits // 8)
    unpack_into(state, layer)
    torch.testing.assert_close(state["0.weight"], layer[0].weight, rtol=0, atol=0)
    assert len(layer[0].weight[0].unique()) <= 2**bits - 1


def test_the_scale_has_the_least_error_of_those_tried():
    torch.manual_seed(1)
    weight = torch.randn(5, 4, 3, 3)
    weight[0, 0, 0, 0] = 9  # an outlier that would coarsen all others
    error = (on_grid(weight, best_scale(weight, 4), 4) - weight).square().sum((1, 2, 3))
    plain = (on_grid(weight, weight.abs().amax((1, 2, 3), True) / 7, 4) - weight).square().sum((1, 2, 3))
    assert (error <= plain + 1e-6).all()
    assert error[0] < plain[0]


def test_training_sees_rounded_weights_and_moves_the_precise_ones():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    layer, x = RoundedConv2d(conv, 4), torch.randn(2, 8, 5, 5)
    rounded = on_grid(conv.weight.detach(), layer.scale, 4)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, rounded, conv.bias))
    layer(x).square().sum().backward()
    reference = rounded.clone().requires_grad_()
    nn.functional.conv2d(x, reference, conv.bias).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, reference.grad)  # straight through the rounding
    with torch.no_grad():
        before = layer(x)
        settle(layer)
        torch.testing.assert_close(layer(x), before, rtol=0, atol=0)


def test_only_large_convolutions_are_rounded():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(32, 64, 3), nn.Linear(200, 200))
    round_convolutions(net, 5)
    assert [type(layer).__name__ for layer in net] == ["Conv2d", "RoundedConv2d", "Linear"]


def config(bits: int) -> MoMambaConfig:
    encoder = EncoderConfig("mobilenetv1", (4, 8), image_size=32, fold_norms=True, bits=bits)
    return MoMambaConfig(encoder=encoder, width=16, modules="B")


def test_a_checkpoint_of_rounded_weights_is_small_and_scores_alike(tmp_path):
    from dataclasses import asdict

    torch.manual_seed(0)
    sizes, images = {}, torch.randn(2, 3, 32, 32)
    for bits in (5, 32):
        model = MoMamba(config(bits)).eval()
        settle(model)
        save_checkpoint(
            tmp_path / str(bits),
            half_precision(model.state_dict()),
            {"architecture": "momamba", "model": asdict(model.config)},
            Card("x"),
        )
        sizes[bits] = (tmp_path / str(bits) / "model.safetensors").stat().st_size
        loaded = load_checkpoint(tmp_path / str(bits)).model
        with torch.inference_mode():
            torch.testing.assert_close(loaded(images).score, model(images).score, rtol=1e-2, atol=1e-3)
            if bits == 5:
                for a, b in zip(loaded.encoder(images), model.encoder(images), strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert sizes[5] < 0.45 * sizes[32]  # five bits beside fp16's sixteen, the small tensors as they were


def test_packed_weights_of_another_length_are_refused(tmp_path):
    from dataclasses import asdict

    from safetensors.torch import load_file, save_file

    model = MoMamba(config(5)).eval()
    save_checkpoint(
        tmp_path / "m",
        model.state_dict(),
        {"architecture": "momamba", "model": asdict(model.config)},
        Card("x"),
    )
    path = tmp_path / "m" / "model.safetensors"
    state = load_file(path)
    key = next(k for k, v in state.items() if v.dtype == torch.uint8)
    save_file({**state, key: state[key][:-3].clone()}, path)
    with pytest.raises(AesError, match=f"{key} is .*the config needs"):
        load_checkpoint(tmp_path / "m")
