"""The detail enhancement module's frequency maps against the module taken apart by hand, and the experts' use."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn

pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")

from aescli.evaluation.report.heatmaps import (
    FrequencyMaps,
    face_crops,
    frequency_maps,
    has_heatmaps,
    heatmap_figure,
)
from aescli.evaluation.report.style import styled
from aescli.evaluation.utilisation import ExpertCounter
from aescli.models.checkpoint import Card, Checkpoint, Preprocessing, build_model

CONFIG = {
    "encoder": {"name": "mobilenetv1", "levels": [4, 6], "image_size": 64},
    "width": 8,
    "dem": {"d_state": 2, "expand": 1, "sub_blocks": 2},
    "same": {"states": 3, "experts": 2, "rank_min": 2, "rank_step": 1, "task_rank": 2, "heads": 2},
}


def checkpoint(tmp_path, **changes) -> Checkpoint:
    torch.manual_seed(0)
    model = build_model({"architecture": "momamba", "model": {**CONFIG, **changes}}).eval()
    preprocessing = Preprocessing(size=64, faces=False, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    return Checkpoint(model, {}, Card("small"), preprocessing, tmp_path)


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def dem_input(small: Checkpoint, crops: np.ndarray) -> torch.Tensor:
    """The features that reach the module, from the model's own parts."""
    x = (crops.astype(np.float32) / 255 - [0.4, 0.5, 0.6]) / [0.3, 0.2, 0.1]
    levels = small.model.encoder(torch.from_numpy(x).float().permute(0, 3, 1, 2))
    return small.model.fusion(levels)[0]


@torch.inference_mode()
def test_each_mode_is_the_fusion_of_what_it_lets_through(tmp_path, crops):
    small = checkpoint(tmp_path)
    dem = small.model.dem
    maps = frequency_maps(small, crops)
    features = dem_input(small, crops)
    seen = []
    hook = dem.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole = dem(features)
    hook.remove()
    high, low, states = seen[0][:, :8], seen[0][:, 8:16], seen[0][:, 16:]
    nothing = torch.zeros_like(high)
    for mode, bands in {
        "none": (nothing, nothing), "low": (nothing, low), "high": (high, nothing), "both": (high, low),
    }.items():  # fmt: skip
        expected = dem.fuse(torch.cat([*bands, states], 1))
        np.testing.assert_allclose(maps.output[mode], expected.mean(1).numpy(), rtol=1e-4, atol=1e-6)
        if mode == "high":
            change = (expected - whole).abs().mean() / whole.abs().mean()
            assert maps.influence["low"] == pytest.approx(float(change), rel=1e-3)
    assert maps.output["none"].shape == maps.output["both"].shape == (3, 4, 4)
    assert all(value > 0 for value in maps.influence.values())
    assert dem(features).equal(whole), "no hook stays behind"


@torch.inference_mode()
def test_the_bands_are_scipys(tmp_path, crops):
    small = checkpoint(tmp_path)
    maps = frequency_maps(small, crops)
    spectrum = dctn(dem_input(small, crops).double().numpy(), axes=(2, 3), norm="ortho")
    high = np.add.outer(np.arange(4), np.arange(4)) >= 6  # one coefficient of 4 × 4 is nearest to 5 %
    for band, mask in (("high", high), ("low", ~high)):
        expected = np.abs(idctn(spectrum * mask, axes=(2, 3), norm="ortho")).mean(1)
        np.testing.assert_allclose(maps.bands[band], expected, rtol=1e-3, atol=1e-5)


def test_a_fusion_that_ignores_a_band_is_found_out(tmp_path, crops):
    small = checkpoint(tmp_path)
    with torch.no_grad():
        small.model.dem.fuse[0][0].weight[:, 8:16] = 0
    maps = frequency_maps(small, crops)
    assert maps.influence["low"] == 0
    assert maps.influence["high"] > 0
    np.testing.assert_array_equal(maps.output["low"], maps.output["none"])
    said = FrequencyMaps({}, {}, {"low": 0.0, "high": 0.0312}).describe()
    assert "without the low band not at all" in said
    assert "without the high band 3.1 %" in said


def test_models_without_both_bands_have_no_maps(tmp_path, crops):
    for changes in ({"modules": "B+S"}, {"dem": {**CONFIG["dem"], "frequency": "low"}}):
        small = checkpoint(tmp_path, **changes)
        assert not has_heatmaps(small)
        with pytest.raises(ValueError, match="both frequency bands"):
            frequency_maps(small, crops)
    assert not has_heatmaps(SimpleNamespace(model=torch.nn.Identity()))


def test_crops_are_those_of_scoring_and_the_figure_has_a_panel_for_each_map(tmp_path):
    small = checkpoint(tmp_path)
    Image.new("RGB", (90, 64), (200, 30, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    found = face_crops(small, [tmp_path / "a.png", tmp_path / "b.png"], "none")
    assert found.shape == (1, 64, 64, 3)
    assert found[0, 32, 32].tolist() == [200, 30, 10]
    assert face_crops(small, [tmp_path / "b.png"], "none").shape == (0, 64, 64, 3)
    with styled():
        figure = heatmap_figure(found, frequency_maps(small, found))
        assert [axes.get_title() for axes in figure.axes] == [
            "input", "without frequency", "only low", "only high", "low and high", "the low band", "the high band",
        ]  # fmt: skip
        assert [len(axes.images) for axes in figure.axes] == [1, 2, 2, 2, 2, 2, 2]


def test_the_experts_use_is_counted_over_all_batches_and_threads():
    rng = np.random.default_rng(0)
    batches = [rng.dirichlet(np.ones(5), n) for n in (7, 1, 12, 8)]
    counter = ExpertCounter(top_k=2)
    threads = [
        threading.Thread(target=counter, args=(SimpleNamespace(routing={"regression": torch.tensor(p)}),))
        for p in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = np.concatenate(batches)
    use = counter.result()["regression"]
    assert use.n == 28
    np.testing.assert_allclose(use.probability, every.mean(0))
    second = np.sort(every, axis=1)[:, -2:-1]
    np.testing.assert_allclose(use.kept, (every >= second).mean(0))
    assert use.kept.sum() == pytest.approx(2)
    assert ExpertCounter(2).result() == {}
