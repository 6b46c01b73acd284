"""Rates by depth: every kind of encoder names its blocks in its own way."""

import pytest

from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.training.trainer import depths_below_last


def _depths(name, **changes):
    encoder = build_encoder(EncoderConfig(name=name, image_size=32, **changes))
    return depths_below_last(f"encoder.{key}" for key, _ in encoder.named_parameters())


def test_a_transformers_embeddings_lie_below_all_blocks():
    depths = _depths("vit_tiny_patch16_224", levels=(1, 2, 3))
    assert depths["encoder.net.pos_embed"] == depths["encoder.net.patch_embed.proj.weight"] == 3
    assert depths["encoder.net.blocks.0.attn.qkv.weight"] == 2
    assert depths["encoder.net.blocks.2.mlp.fc1.weight"] == depths["encoder.net.norm.weight"] == 0


def test_a_state_space_models_stages_count_through():
    depths = _depths("vmamba_tiny_s2l5")  # 2 + 2 + 5 + 2 blocks
    by_block = {key.split(".op.")[0]: depth for key, depth in depths.items() if ".op." in key}
    assert sorted(by_block.values(), reverse=True) == list(by_block.values()) == list(range(10, -1, -1))
    assert max(depths.values()) == 11


@pytest.mark.parametrize(("name", "blocks"), [("mobilenetv1", 13), ("tf_efficientnet_lite0", 7)])
def test_convolutional_blocks(name, blocks):
    depths = _depths(name)
    assert set(depths.values()) == set(range(blocks + 1))


def test_an_encoder_without_blocks_is_all_of_one_depth():
    assert set(_depths("resnet18").values()) == {0}
