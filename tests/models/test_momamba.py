"""MoMamba as a whole: shapes, every configuration, and the paper's sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aescli.errors import AesError
from aescli.models.dem import DEMConfig
from aescli.models.encoders import EncoderConfig
from aescli.models.momamba import LevelFusion, MoMamba, MoMambaConfig, mirrored, pool_statistics
from aescli.models.same import SAMEConfig

LITE = EncoderConfig(name="mobilenetv1", levels=(8, 11, 12, 13), image_size=64)
SMALL = {"width": 16, "same": SAMEConfig(states=5, experts=3, rank_min=2, rank_step=1, task_rank=2, heads=2)}


def _model(**changes) -> MoMamba:
    torch.manual_seed(0)
    return MoMamba(MoMambaConfig(encoder=LITE, **{**SMALL, **changes})).eval()


def test_output_shapes():
    output = _model(score_heads=("a", "b"))(torch.randn(3, 3, 64, 64))
    assert output.score.shape == (3,)
    assert output.head_scores.shape == (3, 2)
    assert output.logits.shape == (3, 5)
    assert output.routing["regression"].shape == (3, 3)
    assert output.features.shape == (3, 16)
    torch.testing.assert_close(output.score, output.head_scores.mean(1))


@pytest.mark.parametrize("modules", ["B", "B+D", "B+S", "B+D+S"])
@pytest.mark.parametrize("tasks", [("classification",), ("regression",), ("classification", "regression")])
def test_every_ablation_builds_and_learns(modules, tasks):
    model = _model(modules=modules, tasks=tasks).train()
    output = model(torch.randn(2, 3, 64, 64))
    assert (output.logits is not None) == ("classification" in tasks)
    assert (output.score is not None) == ("regression" in tasks)
    assert ("S" in modules) == bool(output.routing)
    total = sum(t.float().square().sum() for t in (output.logits, output.score) if t is not None)
    total.backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("frequency", ["none", "low", "high", "both"])
def test_frequency_modes(frequency):
    score = _model(dem=DEMConfig(frequency=frequency))(torch.randn(1, 3, 64, 64)).score
    assert score.isfinite().all()


def test_fusion_weights_are_a_softmax_over_the_earlier_levels():
    torch.manual_seed(0)
    fusion = LevelFusion([4, 6, 8], 5)
    levels = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4), torch.randn(2, 8, 4, 4)]
    last, earlier = fusion(levels)
    assert last.shape == earlier.shape == (2, 5, 4, 4)
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.copy_(torch.tensor([30.0, 0.0]))  # everything to the first level
    pooled = torch.nn.functional.adaptive_avg_pool2d(levels[0], 4)
    normed = fusion.norms[0](pooled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(fusion(levels)[1], fusion.projections[0](normed))


def test_score_starts_in_the_middle_of_the_scale():
    score = _model(score_range=(1.0, 5.0))(torch.randn(4, 3, 64, 64)).score
    assert (score - 3).abs().max() < 1.5


def test_a_sample_does_not_depend_on_its_batch():
    model, x = _model(), torch.randn(4, 3, 64, 64)
    alone = torch.cat([model(x[i : i + 1]).score for i in range(4)])
    torch.testing.assert_close(model(x).score, alone, atol=1e-5, rtol=1e-5)


def test_width_must_fit_the_heads():
    with pytest.raises(AesError, match="not divisible"):
        _model(width=15)


def test_tasks_must_be_named_once():
    with pytest.raises(AesError, match="tasks"):
        _model(tasks=())


@pytest.mark.slow
def test_the_papers_model_has_its_parts():
    model = MoMamba(MoMambaConfig())
    assert model.encoder.levels == (3, 6, 9, 12)
    assert sum(p.numel() for p in model.encoder.parameters()) == 85_798_656
    assert model.same.experts_down.weight.shape == (432, 768, 3, 3)


def test_flip_average_is_the_mean_over_both_sides():
    x = torch.randn(3, 3, 64, 64)
    plain, averaged = _model(), _model(flip_average=True)
    one, other, both = plain(x), plain(x.flip(-1)), averaged(x)
    torch.testing.assert_close(both.score, (one.score + other.score) / 2)
    torch.testing.assert_close(both.logits, (one.logits + other.logits) / 2)
    torch.testing.assert_close(averaged(x.flip(-1)).score, both.score)
    assert both.features.shape == one.features.shape
    assert averaged.train()(x).score.shape == (3,)


def test_mirror_image_of_another_scale_is_the_enlarged_one():
    x = torch.randn(3, 3, 64, 64)
    plain, averaged = _model(), _model(flip_average=True, mirror_scale=1.25)
    enlarged = F.interpolate(x.flip(-1), size=(80, 80), mode="bilinear")
    expected = (plain(x).score + plain(enlarged).score) / 2
    torch.testing.assert_close(averaged(x).score, expected)
    torch.testing.assert_close(mirrored(x), x.flip(-1))


def test_statistics_are_means_and_deviations():
    levels = [torch.randn(2, 5, 4, 4), torch.randn(2, 3, 1, 1).half()]
    expected = np.concatenate(
        [f(level.double().numpy(), axis=(2, 3)) for f in (np.mean, np.std) for level in levels], 1
    )
    found = pool_statistics(levels)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_level_without_variation_has_a_gradient():
    level = torch.ones(1, 2, 3, 3, requires_grad=True)
    pool_statistics([level]).sum().backward()
    assert level.grad.isfinite().all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_encoders_of_one_size_refuse_an_enlarged_mirror_image(name):
    encoder = EncoderConfig(name=name, levels=(1, 2), image_size=64)
    config = MoMambaConfig(encoder=encoder, **SMALL)
    with pytest.raises(AesError, match=f"mirror_scale: {name} reads pictures of 64 pixels only"):
        MoMamba(replace(config, mirror_scale=1.2))
