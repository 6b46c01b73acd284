"""AesMamba as a whole: published sizes, the switch between inputs, every configuration, and its checkpoints."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from aescli.data.categories import category_counts
from aescli.errors import AesError
from aescli.models import aesmamba as module
from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import (
    BENCHMARKS,
    FINE_GRAINED,
    PARA_ATTRIBUTES,
    AesMamba,
    AesMambaConfig,
    aesmamba_f,
    aesmamba_m,
    aesmamba_p,
    aesmamba_v,
)
from aescli.models.checkpoint import Card, build_model, load_checkpoint, save_checkpoint
from aescli.models.encoders import EncoderConfig, build_encoder
from aescli.models.text import TextConfig, load_tokenizer, pretrained_tokenizer
from aescli.training.aesmamba_loss import AesMambaLoss, AesMambaLossConfig, AesMambaTargets

SMALL = {
    "encoder": EncoderConfig(name="test_vit", image_size=32),
    "heads": 2,
    "head_dim": 8,
    "hidden": 8,
}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _model(**changes) -> AesMamba:
    torch.manual_seed(0)
    return AesMamba(AesMambaConfig(**{**SMALL, **changes})).eval()


# --- published sizes (models.md §3) ------------------------------------------------------------------------------

ENCODERS = {"vmamba_tiny_v0": (768, 22_124_448), "vmamba_base_s2l15": (1024, 87_532_800)}
"""Width and published parameters, without head."""
BASE = {"encoder": EncoderConfig(name="vmamba_base_s2l15", levels=(4,))}


class _Counted(nn.Module):
    """Stands in for a published encoder that this version cannot build: its width, and its count as one flat tensor."""

    def __init__(self, name: str) -> None:
        super().__init__()
        width, count = ENCODERS[name]
        self.channels = [width]
        self.weights = nn.Parameter(torch.empty(count, device="meta"))


@pytest.fixture
def published_encoders(monkeypatch):
    def build(config, *, initialise=True):
        try:
            return build_encoder(config, initialise=initialise)
        except AesError as error:
            if "no encoder named" not in str(error):
                raise
            return _Counted(config.name)

    monkeypatch.setattr(module, "build_encoder", build)


@pytest.mark.usefixtures("published_encoders")
@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: aesmamba_v("ava"), 22_818_674),
        (lambda: aesmamba_v("para"), 22_815_333),
        (lambda: aesmamba_v("aadb"), 22_815_590),
        (lambda: aesmamba_v("tad66k"), 22_815_590),
        (lambda: aesmamba_v("photonet"), 22_816_875),
        (lambda: aesmamba_v("ava", **BASE), 88_587_794),
        (lambda: aesmamba_v("tad66k", **BASE), 88_584_710),
        (lambda: aesmamba_v("para", **BASE), 88_584_453),
        (lambda: aesmamba_v("photonet", **BASE), 88_585_995),
        (lambda: aesmamba_f(), 28_342_413),
    ],
    ids=[
        "V/AVA",
        "V/PARA",
        "V/AADB",
        "V/TAD66K",
        "V/Photo.Net",
        "V-B/AVA",
        "V-B/TAD66K",
        "V-B/PARA",
        "V-B/Photo.Net",
        "F",
    ],
)
def test_published_parameter_counts(build, parameters):
    assert _count(build()) == parameters


@pytest.mark.usefixtures("published_encoders")
@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda **k: aesmamba_m("ava", **k), 139_388_018),
        (lambda **k: aesmamba_m("photonet", **k), 139_386_219),
        (lambda **k: aesmamba_p(**k), 144_911_757),
        (lambda **k: aesmamba_p(category_heads=False, **k), 143_130_729),
    ],
    ids=["M/AVA", "M/Photo.Net", "P", "P without category heads"],
)
def test_published_parameter_counts_with_text(build, parameters):
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    model = build(text=TextConfig(pretrained=False))
    assert _count(model.text) == 109_482_240
    assert _count(model.integrate.fusion) == 7_087_104
    assert _count(model) == parameters


def test_the_variants_predict_what_the_paper_says():
    assert [a.outputs for a in BENCHMARKS.values()] == [10, 1, 1, 1, 7]
    assert [a.category_count for a in BENCHMARKS.values()] == [8, 4, 5, 5, 4]
    assert BENCHMARKS["ava"].bin_values == tuple(range(1, 11))
    assert BENCHMARKS["photonet"].bin_values == tuple(range(1, 8))
    assert len(PARA_ATTRIBUTES) == 9
    assert all(a.scale == (1.0, 5.0) and a.outputs == 1 for a in FINE_GRAINED)
    with pytest.raises(AesError, match="no benchmark 'imagenet'; known: ava"):
        aesmamba_v("imagenet")


# --- image only --------------------------------------------------------------------------------------------------


def test_a_distribution():
    output = _model()(torch.randn(3, 3, 32, 32))
    assert output.score.shape == (3,)
    assert output.attribute_scores.shape == (3, 1)
    assert output.probabilities.shape == (3, 10)
    assert output.features.shape == (3, 64)
    assert output.category_logits["aesthetic"].shape == (3, 8)
    torch.testing.assert_close(output.score, output.probabilities @ torch.arange(1.0, 11.0))


def test_many_attributes_and_which_is_the_score():
    attributes = (*FINE_GRAINED, AttributeConfig("votes", (0.0, 1.0), outputs=3))
    images = torch.randn(3, 3, 32, 32)
    first = _model(attributes=attributes)(images)
    assert first.attribute_scores.shape == (3, 10)
    assert torch.equal(first.score, first.attribute_scores[:, 0])
    assert first.probabilities is None
    assert first.distributions["votes"].shape == (3, 3)
    assert list(first.category_logits) == list(PARA_ATTRIBUTES)
    votes = _model(attributes=attributes, score="votes")
    assert votes.config.score_range == (0.0, 1.0)
    last = votes(images)
    assert torch.equal(last.score, last.attribute_scores[:, 9])
    assert torch.equal(last.probabilities, last.distributions["votes"])


def test_the_feature_is_the_mean_token_of_the_last_level():
    model, images = _model(), torch.randn(2, 3, 32, 32)
    levels = model.encoder(images)
    torch.testing.assert_close(model(images).features, levels[-1].flatten(2).mean(2))
    torch.testing.assert_close(model.decode(levels).score, model(images).score)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext"])
def test_any_encoder_fits(name):
    model = _model(encoder=EncoderConfig(name=name, image_size=160))
    assert model(torch.randn(1, 3, 160, 160)).features.shape == (1, model.encoder.channels[-1])


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("category_heads", [True, False])
def test_every_ablation_builds_and_learns(adapter, category_heads):
    model = _model(attributes=FINE_GRAINED[:2], adapter=adapter, category_heads=category_heads).train()
    output = model(torch.randn(2, 3, 32, 32))
    assert bool(output.category_logits) == category_heads
    total = output.attribute_scores.square().sum()
    (total + sum(logits.square().sum() for logits in output.category_logits.values())).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_dropping_the_category_heads_keeps_the_scores():
    model, images = _model(), torch.randn(2, 3, 32, 32)
    before = model(images)
    model.drop_category_heads()
    assert torch.equal(model(images).score, before.score)
    assert model(images).category_logits == {}
    rebuilt = AesMamba(model.config, initialise_encoder=False)
    assert rebuilt.state_dict().keys() == model.state_dict().keys()


def test_flip_average_is_the_mean_over_both_sides():
    images = torch.randn(3, 3, 32, 32)
    plain, averaged = _model(), _model(flip_average=True)
    one, other, both = plain(images), plain(images.flip(-1)), averaged(images)
    for a, b, mean in zip(one, other, both, strict=True):
        for key in a if isinstance(a, dict) else [None]:
            x, y, z = (t if key is None else t[key] for t in (a, b, mean))
            torch.testing.assert_close(z, (x + y) / 2)
    assert averaged.train()(images).score.shape == (3,)


def test_what_does_not_fit_is_refused():
    images = torch.randn(2, 3, 32, 32)
    tokens = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 3)}
    with pytest.raises(ValueError, match="images only"):
        _model()(images, tokens)
    with pytest.raises(ValueError, match="images only"):
        _model().decode(_model().encoder(images), tokens)
    with pytest.raises(AesError, match=r"model.score: no attribute 'beauty'; there are aesthetic"):
        _model(score="beauty")
    with pytest.raises(AesError, match="each once"):
        _model(attributes=())


# --- image and text ----------------------------------------------------------------------------------------------


@pytest.fixture
def reader(tiny_text):
    return _model(text=tiny_text), pretrained_tokenizer(tiny_text)


def test_the_model_switches_by_what_it_is_given(reader):
    model, tokenize = reader
    images = torch.randn(3, 3, 32, 32)
    alone = model(images)
    torch.testing.assert_close(alone.features, model.encoder(images)[-1].mean((2, 3)))
    great, bad = model(images, tokenize(["great light!"] * 3)), model(images, tokenize(["a bad photo"] * 3))
    assert (great.score - alone.score).abs().min() > 1e-4
    assert (great.score - bad.score).abs().min() > 1e-6
    levels = model.encoder(images)
    torch.testing.assert_close(model.decode(levels, tokenize(["great light!"] * 3)).score, great.score)


def test_a_sample_does_not_depend_on_its_batch(reader):
    """Longer neighbours mean more padding, and a photo without a comment is one without text."""
    model, tokenize = reader
    images = torch.randn(4, 3, 32, 32)
    texts = ["great", "my photo is bad , the light is a great light !", "", None]
    together = model(images, tokenize(texts)).score
    for i, text in enumerate(texts):
        alone = model(images[i : i + 1], tokenize([text])) if text else model(images[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone.score, atol=1e-5, rtol=1e-5)


def test_one_prompt_serves_all_images(reader):
    model, tokenize = reader
    images, prompt = torch.randn(3, 3, 32, 32), "my experience is expert ."
    one, each = model(images, tokenize([prompt])), model(images, tokenize([prompt] * 3))
    torch.testing.assert_close(one.score, each.score)
    with pytest.raises(ValueError, match="2 texts for 3 images"):
        model(images, tokenize([prompt] * 2))


@pytest.mark.parametrize("texts", [["great"], ["great", "", "a bad photo"]])
def test_flip_average_with_text(reader, texts):
    model, tokenize = reader
    averaged = AesMamba(replace(model.config, flip_average=True), initialise_encoder=False).eval()
    averaged.load_state_dict(model.state_dict())
    images, tokens = torch.randn(3, 3, 32, 32), tokenize(texts)
    expected = (model(images, tokens).score + model(images.flip(-1), tokens).score) / 2
    torch.testing.assert_close(averaged(images, tokens).score, expected)


def test_everything_learns_from_image_and_text(reader):
    model, tokenize = reader
    output = model.train()(torch.randn(3, 3, 32, 32), tokenize(["great light", "", "bad"]))
    (output.score.sum() + output.category_logits["aesthetic"].square().sum()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in trained.values())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "text.net.pooler.dense.weight",
        "text.net.pooler.dense.bias",
    ]


def test_a_comment_alone_can_be_learnt_from(tiny_text):
    """Equal pictures, two comments: the paper's loss must bring the text encoder and the fusion to tell them apart."""
    model, tokenize = _model(text=tiny_text), pretrained_tokenizer(tiny_text)
    tokens = tokenize(["great light !", "bad photo"] * 4)
    images = torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1)
    bins = torch.arange(1.0, 11.0)
    votes = torch.softmax(-(bins - torch.tensor([[8.0], [3.0]] * 4)).square() / 2, 1)
    targets = AesMambaTargets((votes @ bins)[:, None], {"aesthetic": votes})
    attributes = model.config.attributes
    loss = AesMambaLoss(AesMambaLossConfig(), attributes, category_counts(targets.scores, attributes))
    optimiser = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss(model.train()(images, tokens), targets)["total"].backward()
        optimiser.step()
    score = model.eval()(images, tokens).score
    assert (score - targets.scores[:, 0]).abs().max() < 0.8


# --- checkpoints -------------------------------------------------------------------------------------------------


def _config(model: AesMamba) -> dict:
    return {"architecture": "aesmamba", "model": asdict(model.config), "preprocessing": {"size": 32}}


def test_a_checkpoint_without_text(tmp_path):
    model = _model(attributes=(*FINE_GRAINED, AttributeConfig("x", (0.0, 1.0), outputs=2, categories=3)))
    save_checkpoint(tmp_path / "m", model.state_dict(), _config(model), Card("m"))
    loaded = load_checkpoint(tmp_path / "m")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images).attribute_scores, model(images).attribute_scores)
    assert loaded.model.config == model.config


def test_a_checkpoint_with_text_needs_only_itself(reader, tmp_path, monkeypatch):
    model, tokenize = reader
    config = json.loads(json.dumps(_config(model)))
    config["model"]["text"]["name"] = "a model that nobody has"
    folder = tmp_path / "m"
    save_checkpoint(folder, model.state_dict(), config, Card("m"), tokenizer=tokenize)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = load_checkpoint(folder)
    again = load_tokenizer(folder, loaded.model.config.text)
    images, texts = torch.randn(2, 3, 32, 32), ["great light!", "the photo"]
    assert torch.equal(loaded.model(images, again(texts)).score, model(images, tokenize(texts)).score)
    digest = loaded.digest
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert load_checkpoint(folder).digest != digest  # another tokenizer would give other scores


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"attributes": [{"name": "x", "scale": [5, 1]}]}, "must ascend"),
        ({"attributes": [{"name": "x", "categories": "imagenet"}]}, "no category rule"),
        ({"heads": "many"}, r"model\.heads"),
        ({"attributes": [{"name": "x", "outputs": "ten"}]}, r"model\.attributes\.0\.outputs"),
    ],
)
def test_a_config_that_does_not_fit_says_where(model, message):
    with pytest.raises(AesError, match=message):
        build_model({"architecture": "aesmamba", "model": model}, initialise_encoder=False)
