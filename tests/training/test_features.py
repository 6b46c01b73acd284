"""Features of a frozen part: what files hold is what live pictures give, for both sides of a picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aescli.models.encoders import EncoderConfig
from aescli.models.momamba import MoMamba, MoMambaConfig, mirrored, pool_statistics
from aescli.models.same import SAMEConfig
from aescli.training.config import AugmentConfig
from aescli.training.features import CachedFeatures, LivePictures
from aescli.training.momamba import skip_features

CPU = torch.device("cpu")


@pytest.fixture
def pictures(noise_pictures):
    return noise_pictures(5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = MoMambaConfig(
        encoder=EncoderConfig("mobilenetv1", (2, 4), image_size=32),
        width=8,
        same=SAMEConfig(states=3, experts=2, rank_min=2, rank_step=1, top_k=1, task_rank=2, heads=2),
        head_skip=True,
        flip_average=True,
        mirror_scale=1.5,
    )
    model = MoMamba(config).eval()
    model.encoder.set_cut(3)
    return model


@torch.inference_mode()
def test_both_sides_come_from_files_as_from_pixels(model, pictures, tmp_path):
    live = LivePictures(pictures, AugmentConfig(), CPU)
    cached = CachedFeatures(tmp_path, pictures, model.encoder, AugmentConfig(), 1, CPU)
    for source in (live, cached, CachedFeatures(tmp_path, pictures, model.encoder, AugmentConfig(), 1, CPU)):
        batches = list(source.sides(model.encoder, 2, 1.5))
        assert [len(plain[0]) for plain, _ in batches] == [2, 2, 1]
        for number, (_, other) in enumerate(batches):
            (images,) = list(live.batches(range(5), 2, None))[number]
            expected = model.encoder.lower(mirrored(images, 1.5))
            for a, b in zip(other, expected, strict=True):
                torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


@torch.inference_mode()
def test_a_model_that_sees_one_side_is_fitted_on_one(pictures, tmp_path, model):
    model.config = replace(model.config, flip_average=False)
    cached = CachedFeatures(tmp_path, pictures, model.encoder, AugmentConfig(), 1, CPU)
    live = LivePictures(pictures, AugmentConfig(), CPU)
    assert all(len(sides) == 1 for s in (live, cached) for sides in s.sides(model.encoder, 2, None))
    assert not list(tmp_path.rglob("mirror*"))
    ((images,),) = live.batches(range(5), 5, None)
    expected = pool_statistics(model.encoder(images))
    np.testing.assert_allclose(skip_features(model, cached, None), expected, atol=5e-2)


@torch.inference_mode()
def test_skips_see_in_scoring_what_they_were_fitted_on(model, pictures, monkeypatch):
    monkeypatch.setattr("aescli.training.momamba.choose_dtype", lambda *_: torch.float32)
    source = LivePictures(pictures, AugmentConfig(), CPU)
    seen = []
    model.skips["regression"].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    ((images,),) = source.batches(range(5), 5, None)
    model(images)
    expected = (seen[0] + seen[1]) / 2
    np.testing.assert_allclose(skip_features(model, source, None), expected, atol=1e-5)
    sides = model.encoder(images), model.encoder(mirrored(images, 1.5))
    torch.testing.assert_close(expected, sum(map(pool_statistics, sides)) / 2)
