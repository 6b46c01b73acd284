"""EfficientNets in two halves, and the packaged weights' names."""

import pytest
import torch

from aescli.errors import AesError
from aescli.models.encoders import EncoderConfig, build_encoder


def _encoder(**changes):
    return build_encoder(
        EncoderConfig(**{"name": "tf_efficientnet_lite0", "levels": (3, 5, 7), "image_size": 64, **changes})
    ).eval()


def test_levels_are_timms_stages():
    encoder = _encoder()
    assert encoder.channels == [40, 112, 320]
    x = torch.randn(2, 3, 64, 64)
    stem = encoder.net.bn1(encoder.net.conv_stem(x))
    expected = encoder.net.blocks[:3](stem)
    torch.testing.assert_close(encoder(x)[0], expected)
    torch.testing.assert_close(encoder(x)[-1], encoder.net.blocks(stem))


@pytest.mark.parametrize("cut", [0, 2, 3, 4, 6, 7])
def test_the_halves_are_the_whole_and_the_lower_one_is_frozen(cut):
    encoder = _encoder()
    encoder.set_cut(cut)
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(encoder.upper(encoder.lower(x)), encoder(x), strict=True):
        torch.testing.assert_close(a, b)
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    assert any(n.startswith("net.conv_stem") for n in frozen) == (cut > 0)
    assert {int(n.split(".")[2]) for n in frozen if n.startswith("net.blocks")} == set(range(cut))


def _as_packaged(net, head=True):
    """The same tensors under names of the packages' kind, in the same order."""
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    renamed = {f"_blocks.{i}.{k}" if i else "_conv_stem.weight": v for i, (k, v) in enumerate(state.items())}
    return renamed | ({"_conv_head.weight": torch.zeros(1280, 320, 1, 1)} if head else {})


def test_packaged_weights_are_loaded_and_a_mismatch_is_explained(tmp_path):
    source = _encoder(levels=(7,))
    torch.save(_as_packaged(source.net), tmp_path / "lite0.pth")
    loaded = _encoder(weights=str(tmp_path / "lite0.pth"))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x)[-1], source(x)[-1])
    with pytest.raises(AesError, match="another EfficientNet"):
        _encoder(name="tf_efficientnet_lite2", weights=str(tmp_path / "lite0.pth"))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("owned",))

    torch.save({"_conv_stem.weight": Hostile()}, tmp_path / "bad.pth")
    with pytest.raises(AesError, match="refused, it refers to"):
        _encoder(weights=str(tmp_path / "bad.pth"))


def test_joined_encoders_are_rounded_alike():
    """A checkpoint packs all of them with the bits of the first."""
    second = EncoderConfig(name="tf_efficientnet_lite0", levels=(3, 7), bits=8)
    with pytest.raises(AesError, match=r"encoder\.also: set bits to 6 for all"):
        build_encoder(
            EncoderConfig(name="mobilenetv1", levels=(2,), pooling="statistics", bits=6, also=(second,))
        )


def test_two_encoders_join_their_statistics():
    joined = build_encoder(
        EncoderConfig(
            name="mobilenetv1",
            levels=(2, 4),
            image_size=64,
            pooling="statistics",
            also=(EncoderConfig(name="tf_efficientnet_lite0", levels=(3, 7)),),
        )
    ).eval()
    assert joined.channels == [2 * (128 + 256) + 2 * (40 + 320)]
    x = torch.randn(2, 3, 64, 64)
    whole = joined(x)[0]
    for cut in (0, 1, 3, 4):
        joined.set_cut(cut)
        torch.testing.assert_close(joined.upper(joined.lower(x))[0], whole)
    torch.testing.assert_close(whole[:, joined.last_mean, 0, 0], joined.inners[0](x)[-1].mean((2, 3)))
    with pytest.raises(AesError, match=r"encoder\.also"):
        build_encoder(EncoderConfig(name="mobilenetv1", also=(EncoderConfig(name="tf_efficientnet_lite0"),)))
