from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from aescli.errors import AesError, UsageError
from aescli.models.answers import Answers
from aescli.scoring.predictor import TorchPredictor, choose_device, choose_dtype, load_predictor

torch = pytest.importorskip("torch")


class Colours(torch.nn.Module):
    """score = the normalised mean of red; logits = the three normalised channel means. Fails above `most`
    images."""

    answers = Answers(probabilities=3)

    def __init__(self, most: int = 1 << 30, message: str = "DefaultCPUAllocator: can't allocate memory"):
        super().__init__()
        self.most, self.message, self.seen = most, message, []

    def forward(self, x):
        self.seen.append(len(x))
        assert not torch.is_grad_enabled()
        if len(x) > self.most:
            raise RuntimeError(self.message)
        means = x.mean((2, 3))
        return SimpleNamespace(
            score=means[:, 0], probabilities=means.softmax(1), head_scores=means, levels=means
        )


def predictor(model=None, scale=(-9.0, 9.0), head=None) -> TorchPredictor:
    checkpoint = SimpleNamespace(
        model=model or Colours(),
        card=SimpleNamespace(task="fbp", score_range=scale, class_cuts=(2.0, 3.0)),
        preprocessing=SimpleNamespace(size=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0)),
        digest="d",
    )
    return TorchPredictor(checkpoint, torch.device("cpu"), torch.float32, head)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def test_pixels_are_normalised_per_channel_in_rgb_order():
    x = images(5)
    got = predictor().predict(x)
    expected = (x / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.25, 1.0]
    np.testing.assert_allclose(got.scores, expected[..., 0].mean((1, 2)), atol=1e-6)
    powers = np.exp(expected.mean((1, 2)))
    np.testing.assert_allclose(got.probabilities, powers / powers.sum(1, keepdims=True), atol=1e-6)
    assert got.scores.dtype == got.probabilities.dtype == np.float64


def test_scores_stay_on_the_scale():
    x = images(5)
    free, clamped = predictor().predict(x).scores, predictor(scale=(0.0, 0.05)).predict(x).scores
    np.testing.assert_allclose(clamped, free.clip(0, 0.05))
    assert (clamped != free).any()


def test_one_group_of_raters_can_answer_alone():
    x = images(5)
    mixture, second = predictor(), predictor(head=1)
    expected = (x[..., 1] / 255 - 0.25) / 0.25
    np.testing.assert_allclose(second.predict(x).scores, expected.mean((1, 2)), atol=1e-6)
    assert second.digest != mixture.digest  # a journal of the one is not continued by the other


def test_unknown_raters_are_named_with_the_known_ones(tmp_path):
    from dataclasses import asdict

    from aescli.models.checkpoint import Card, build_model, save_checkpoint
    from aescli.models.encoders import EncoderConfig
    from aescli.models.momamba import MoMambaConfig

    model = MoMambaConfig(
        encoder=EncoderConfig(name="mobilenetv1", levels=(2, 3), image_size=32),
        width=8,
        modules="B",
        score_heads=("here", "there"),
        score_weights=(1.0, 3.0),
    )
    config = {"architecture": "momamba", "model": asdict(model), "preprocessing": {"size": 32}}
    network = build_model(config).eval()
    save_checkpoint(tmp_path / "m", network.state_dict(), config, Card("m"))
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    scores = {
        r: load_predictor(str(tmp_path / "m"), raters=r).predict(x).scores for r in (None, "here", "there")
    }
    np.testing.assert_allclose(scores[None], scores["here"] / 4 + scores["there"] * 3 / 4, atol=1e-5)
    with pytest.raises(UsageError, match="it knows: here, there"):
        load_predictor(str(tmp_path / "m"), raters="elsewhere")


def test_out_of_memory_halves_the_batch_and_goes_on():
    model = Colours(most=2)
    p = predictor(model)
    x = images(9)
    np.testing.assert_array_equal(p.predict(x).scores, predictor().predict(x).scores)
    assert model.seen == [9, 4, 2, 2, 2, 2, 1]
    model.seen.clear()
    p.predict(x[:4])
    assert model.seen == [2, 2]  # it does not try the large batch again


def test_out_of_memory_at_one_image_says_what_to_do():
    with pytest.raises(AesError, match="not enough memory on cpu for one image of 8 px"):
        predictor(Colours(most=0)).predict(images(3))


def test_other_failures_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        predictor(Colours(most=0, message="shape mismatch")).predict(images(3))


def test_threads_do_not_disturb_each_other():
    p, x = predictor(), images(64)
    alone = p.predict(x).scores
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda k: p.predict(x[k : k + 4]).scores, range(0, 64, 4)))
    np.testing.assert_allclose(np.concatenate(parts), alone, atol=1e-6)


def test_models_with_one_task():
    class Only(Colours):
        def __init__(self, **keep):
            super().__init__()
            self.keep = keep

        def forward(self, x):
            return SimpleNamespace(
                **{"score": None, "probabilities": None, **{k: x.mean((1, 2, 3)) for k in self.keep}},
                levels=x.mean((2, 3)),
            )

    got = predictor(Only(score=True)).predict(images(2))
    assert got.probabilities.shape == (2, 0)
    with pytest.raises(AesError, match="no score"):
        predictor(Only(probabilities=True)).predict(images(2))


@pytest.mark.parametrize("name", ["gpu", "cuda:0,cuda:1", "cpu:x", "meta"])
def test_devices_that_are_none(name):
    with pytest.raises(UsageError, match=f"--device {name}"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here():
    with pytest.raises(AesError, match="use --device cpu"):
        choose_device("cuda")


def test_precision():
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("bf16", cpu) == torch.bfloat16
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_dtype("fp16", cpu)


def test_tasks_without_a_bundled_model_say_so():
    with pytest.raises(
        AesError,
        match=r"no model for --task miaa comes with aescli.*--model.*aes train --preset aesmamba-m-ava",
    ):
        load_predictor(None, task="miaa")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A MoMamba with random weights, small and quick."""
    from aescli.models.checkpoint import Card, build_model, save_checkpoint

    torch.manual_seed(0)
    config = {
        "architecture": "momamba",
        "model": {"encoder": {"name": "mobilenetv1", "image_size": 64}, "width": 32, "same": {"heads": 4}},
        "preprocessing": {"size": 64},
    }
    model = build_model(config)
    folder = tmp_path_factory.mktemp("model") / "m"
    save_checkpoint(folder, model.state_dict(), config, Card(name="m"))
    return folder


def test_a_real_checkpoint_scores_alike_in_every_batch_size(checkpoint):
    p = load_predictor(str(checkpoint), device="cpu")
    x = np.random.default_rng(1).integers(0, 256, (9, 64, 64, 3), np.uint8)
    together = p.predict(x)
    for size in (1, 2, 4):
        parts = [p.predict(x[k : k + size]) for k in range(0, 9, size)]
        np.testing.assert_allclose(np.concatenate([q.scores for q in parts]), together.scores, atol=2e-5)
        np.testing.assert_allclose(
            np.concatenate([q.probabilities for q in parts]), together.probabilities, atol=2e-5
        )
    assert (p.scale, p.classes, p.task) == ((1.0, 5.0), 5, "fbp")
    assert len(p.digest) == 16


class Silent(Colours):
    """A model that has no features to give."""

    def forward(self, x):
        return SimpleNamespace(**{**vars(super().forward(x)), "levels": None})


def test_features_are_the_encoders_pooled_levels(checkpoint):
    model = load_predictor(str(checkpoint), device="cpu")
    x = np.random.default_rng(3).integers(0, 256, (5, *2 * (model.preprocessing.size,), 3), np.uint8)
    got = model.predict(x).features
    net = model._model
    with torch.inference_mode():
        pixels = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std)
        )
        levels = net.encoder((pixels - mean) / std)
    np.testing.assert_allclose(got, torch.cat([v.mean((2, 3)) for v in levels], 1), atol=1e-4)
    assert predictor(Silent()).predict(images(2)).features.shape == (2, 0)


def test_bf16_stays_near_fp32(checkpoint):
    x = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    exact = load_predictor(str(checkpoint), device="cpu").predict(x)
    rough = load_predictor(str(checkpoint), device="cpu", dtype="bf16").predict(x)
    np.testing.assert_allclose(rough.scores, exact.scores, atol=0.1)


def test_a_model_of_another_task_is_refused(checkpoint):
    with pytest.raises(AesError, match="is for --task fbp, not --task viaa"):
        load_predictor(str(checkpoint), task="viaa", device="cpu")


def test_without_a_task_the_models_own_counts(checkpoint):
    assert load_predictor(str(checkpoint), device="cpu").task == "fbp"
    assert load_predictor("aesmamba-lite", device="cpu").task == "viaa"
    assert load_predictor(None, device="cpu").task == "fbp"
