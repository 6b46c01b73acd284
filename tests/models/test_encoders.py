"""Encoders: levels, halves, pretrained layouts, and names that do not exist."""

import pytest
import torch
from safetensors.torch import save_file

from aescli.errors import AesError
from aescli.models.encoders import EncoderConfig, MobileNetV1Encoder, build_encoder, encoder_statistics
from aescli.models.mobilenet import MobileNetV1, SeparableBlock


def test_mobilenet_has_the_published_size():
    assert sum(p.numel() for p in MobileNetV1().parameters()) == 3_206_976 + 0


def test_mobilenet_pads_right_and_bottom_as_tensorflow_does():
    torch.manual_seed(0)
    net, x = MobileNetV1().eval(), torch.randn(1, 3, 8, 8)
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), net.conv.weight, stride=2)
    torch.testing.assert_close(net.stem(x), torch.nn.functional.relu6(net.bn(expected)))
    assert net(torch.randn(1, 3, 224, 224)).shape == (1, 1024, 7, 7)


@pytest.mark.parametrize("cut", [0, 3, 8, 11, 13])
def test_halves_make_the_whole(cut):
    torch.manual_seed(0)
    encoder, x = MobileNetV1Encoder((3, 8, 11, 13)).eval(), torch.randn(2, 3, 64, 64)
    whole = encoder(x)
    encoder.set_cut(cut)
    halves = encoder.upper(encoder.lower(x))
    assert len(whole) == len(halves) == 4
    for a, b in zip(whole, halves, strict=True):
        torch.testing.assert_close(a, b)
    frozen = [p for block in encoder.net.blocks[:cut] for p in block.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_caffe_weights_are_rewritten_exactly_for_rgb(tmp_path):
    torch.manual_seed(0)
    original = MobileNetV1().eval()
    original.bn.running_mean.normal_()
    state = {k: v.clone() for k, v in original.state_dict().items()}
    save_file({**state, "g.weight": torch.zeros(1, 256)}, tmp_path / "face.safetensors")
    encoder = MobileNetV1Encoder(None).eval()
    from aescli.models.encoders import load_pretrained

    load_pretrained(encoder, tmp_path / "face.safetensors")
    rgb = torch.rand(1, 3, 64, 64)
    caffe = rgb.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    ours, theirs = encoder.net.stem((rgb - 0.5) / 0.5), original.stem(caffe)
    # The last row and column touch the padding, which means black there and mid grey here.
    torch.testing.assert_close(ours[..., :-1, :-1], theirs[..., :-1, :-1], atol=2e-4, rtol=1e-4)


def test_weights_that_do_not_fit_say_so(tmp_path):
    save_file({"conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(AesError, match=r"lacks .* tensors"):
        build_encoder(EncoderConfig(name="mobilenetv1", weights=str(tmp_path / "w.safetensors")))
    with pytest.raises(AesError, match="no such file"):
        build_encoder(EncoderConfig(name="mobilenetv1", weights=str(tmp_path / "absent.safetensors")))


def test_levels_are_checked():
    for levels in ((0, 3), (3, 14), (5, 3), (3, 3)):
        with pytest.raises(AesError, match="levels"):
            build_encoder(EncoderConfig(name="mobilenetv1", levels=levels))


def test_transformer_gives_maps_of_thirds_of_its_depth():
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=64)).eval()
    assert encoder.levels == (3, 6, 9, 12)
    assert [tuple(m.shape) for m in encoder(torch.randn(1, 3, 64, 64))] == [(1, 192, 4, 4)] * 4


def test_transformer_levels_are_the_blocks_outputs():
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=32, levels=(2, 4))).eval()
    seen = {}
    for number in (1, 3):
        encoder.net.blocks[number].register_forward_hook(lambda _m, _i, o, n=number: seen.__setitem__(n, o))
    first, last = encoder(torch.randn(1, 3, 32, 32))
    as_map = lambda t: t[:, 1:].transpose(1, 2).reshape(1, 192, 2, 2)  # noqa: E731
    torch.testing.assert_close(first, as_map(seen[1]))
    torch.testing.assert_close(last, as_map(encoder.net.norm(seen[3])))
    assert len(encoder.net.blocks) == 4


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "tf_efficientnet_lite0", "resnet18"])
def test_any_features_only_model_is_an_encoder(name):
    encoder = build_encoder(EncoderConfig(name=name, image_size=64)).eval()
    maps = encoder(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == list(encoder.channels)
    assert len(maps) == 4
    assert len(encoder_statistics(encoder)[0]) == 3


def test_swin_maps_have_channels_first():
    encoder = build_encoder(EncoderConfig(name="swin_tiny_patch4_window7_224", image_size=224)).eval()
    maps = encoder(torch.randn(1, 3, 224, 224))
    assert [m.shape[1] for m in maps] == list(encoder.channels)


def test_unknown_names_suggest_others():
    with pytest.raises(AesError, match="no encoder named 'vit_bse'"):
        build_encoder(EncoderConfig(name="vit_bse"))


def test_training_and_scoring_compute_the_same_stride():
    torch.manual_seed(0)
    block = SeparableBlock(6, 8, 2).eval()
    x = torch.randn(2, 6, 10, 12, requires_grad=True)
    trained = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), trained)
    gradient = torch.autograd.grad(trained.square().sum(), (x, block.dw.weight))
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))
    y = torch.nn.functional.relu6(
        block.b1(torch.nn.functional.conv2d(padded, block.dw.weight, stride=2, groups=6))
    )
    y = torch.nn.functional.relu6(block.b2(block.pw(y)))
    expected = torch.autograd.grad(y.square().sum(), (x, block.dw.weight))
    for a, b in zip(gradient, expected, strict=True):
        torch.testing.assert_close(a, b)
