"""AesMamba through the export: a distribution, nine attributes, or comments; small, with all parts of the full size."""

import importlib.util
import json
import os
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aescli.errors import UsageError
from aescli.export import parity
from aescli.export.run import export
from aescli.models.aesmamba import BENCHMARKS, FINE_GRAINED, AesMambaConfig
from aescli.models.checkpoint import Card, Preprocessing, build_model, load_checkpoint, save_checkpoint
from aescli.models.encoders import EncoderConfig
from aescli.models.prompts import subject_prompt
from aescli.models.text import pretrained_tokenizer
from aescli.scoring.predictor import load_predictor

PHOTOS = str(Path(__file__).parents[1] / "photos")
HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxruntime", "onnxscript"))
FORMATS = [
    pytest.param(
        "onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxruntime, onnxscript")
    ),
    "torch-export",
]
MOBILENET = EncoderConfig(name="mobilenetv1", levels=(7,), image_size=64)
COMMENTS = ["a great light !", "", "bad photo . my experience is a bad photo", "the light"]


def make(folder: Path, task: str, model: AesMambaConfig, size: int = 64, **files) -> Path:
    """A checkpoint whose scores differ between pictures: its norms have seen some, its score MLPs are steep."""
    torch.manual_seed(0)
    config = {"architecture": "aesmamba", "model": asdict(model)}
    network = build_model(config)
    config["model"] = asdict(network.config)
    prepared = Preprocessing(size, faces=False, fit="stretch")
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.momentum = 1.0
        network.train()(torch.from_numpy(parity.normalised(parity._photo_parts(size, 12), prepared)))
        for name, weight in network.mba.named_parameters():
            if ".score." in name and name.endswith("weight"):
                weight *= 6 if network.answers.probabilities else 1
    config["preprocessing"] = asdict(prepared)
    card = Card("small", task, score_range=network.config.score_range, class_cuts=())
    save_checkpoint(folder, network.state_dict(), config, card, **files)
    return folder


def agree(folder: Path, out: Path, task: str, texts=()) -> None:
    """The file alone gives what the checkpoint gives: every part of a prediction, in any batch, for every text."""
    ours, theirs = (load_predictor(str(spec), task=task, device="cpu") for spec in (out, folder))
    for name in (
        "task",
        "scale",
        "classes",
        "cuts",
        "distribution",
        "attributes",
        "reads_text",
        "preprocessing",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    crops = parity._photo_parts(theirs.preprocessing.size, 4)
    for part in (slice(0, 4), slice(1, 2), slice(2, 4)):
        a, b = (predictor.predict(crops[part], texts[part]) for predictor in (ours, theirs))
        for name, found, expected in zip(a._fields, a, b, strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4, err_msg=name)
    assert np.ptp(theirs.predict(crops, texts).scores) > 1e-3
    assert a.features.shape[1] > 1


def same_table(ours: str, theirs: str) -> None:
    """Equal cells; a number that lies between two roundings may take either."""
    ours, theirs = ([line.split(",") for line in text.splitlines()] for text in (ours, theirs))
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    assert ours[0] == theirs[0]
    for one, other in zip(chain(*ours[1:]), chain(*theirs[1:]), strict=True):
        assert one == other or float(one) == pytest.approx(float(other), abs=1.01e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoder", ["mobilenetv1", "vmamba_tiny_v0"])
def test_a_distribution(tmp_path, encoder, format):
    if encoder == "mobilenetv1":
        settings = {"encoder": MOBILENET, "width": 16, "head_skip": True, "flip_average": True}
    else:
        settings = {"encoder": EncoderConfig(name=encoder, levels=(4,), image_size=64)}
    folder = make(
        tmp_path / "m", "viaa", AesMambaConfig(hidden=8, attributes=(BENCHMARKS["ava"],), **settings)
    )
    done = export(str(folder), tmp_path / "e", format=format)
    assert done.parity.worst[1] <= 1e-4
    assert load_predictor(str(tmp_path / "e"), task="viaa", device="cpu").classes == 10
    agree(folder, tmp_path / "e", "viaa")
    told = json.loads((tmp_path / "e" / "preprocessing.json").read_text())
    assert told["fit"] == "stretch"


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_attributes_and_the_same_table(tmp_path, capfd, format):
    from aescli.cli import main

    model = AesMambaConfig(encoder=MOBILENET, hidden=8, attributes=FINE_GRAINED, score="quality")
    folder, out = make(tmp_path / "m", "fiaa", model), tmp_path / "e"
    assert export(str(folder), out, format=format, images=[PHOTOS]).parity.worst[1] <= 1e-4
    agree(folder, out, "fiaa")
    tables = []
    for spec in (folder, out):
        with pytest.raises(SystemExit) as stop:
            main(["score", PHOTOS, "--task", "fiaa", "--model", str(spec), "--device", "cpu"])
        assert not stop.value.code
        tables.append(capfd.readouterr().out)
    same_table(*tables)
    assert "willingnessToShare" in tables[0].splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_comments(tmp_path, capfd, tiny_text, format):
    from aescli.cli import main

    model = AesMambaConfig(
        encoder=MOBILENET, text=tiny_text, heads=2, head_dim=8, hidden=8, flip_average=True
    )
    folder = make(tmp_path / "m", "miaa", model, tokenizer=pretrained_tokenizer(tiny_text))
    out = tmp_path / "e"
    assert export(str(folder), out, format=format).parity.worst[1] <= 1e-4
    agree(folder, out, "miaa", COMMENTS)
    names = sorted(os.listdir(PHOTOS))
    rows = [f"{name},a {'great' if k % 2 else 'bad'} photo" for k, name in enumerate(names)]
    (tmp_path / "c.csv").write_text("image,comment\n" + "\n".join(rows) + "\n")
    (out / "tokenizer.json").unlink()  # the model's file has its own
    tables = []
    for spec in (folder, out):
        words = ["--model", str(spec), "--comments", str(tmp_path / "c.csv"), "--device", "cpu"]
        with pytest.raises(SystemExit) as stop:
            main(["score", PHOTOS, "--task", "miaa", *words, "--probabilities"])
        assert not stop.value.code
        tables.append(capfd.readouterr().out)
    same_table(*tables)
    with pytest.raises(SystemExit) as stop:
        main(["score", PHOTOS, "--task", "miaa", "--model", str(out)])
    assert (stop.value.code, "--comments" in capfd.readouterr().err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("format", [*FORMATS, "safetensors"])
def test_a_model_that_reads_who_is_asked(tmp_path, tiny_text, format):
    """AesMamba-P: nine attributes for one person, whose prompt is the text."""
    from aescli.models.aesmamba import aesmamba_p

    settings = {
        "encoder": MOBILENET,
        "text": tiny_text,
        "heads": 2,
        "head_dim": 8,
        "hidden": 8,
        "score": "quality",
    }
    model = aesmamba_p(**settings).config
    folder = make(tmp_path / "m", "piaa", model, tokenizer=pretrained_tokenizer(tiny_text))
    assert export(str(folder), tmp_path / "e", format=format, images=[PHOTOS]).parity.worst[1] <= 1e-4
    prompts = [subject_prompt(photo=level, art=level) for level in ("beginner", "expert")]
    texts = [prompts[0], "", prompts[1], subject_prompt(traits={"openness": 7})]
    agree(folder, tmp_path / "e", "piaa", texts)
    predictor = load_predictor(str(tmp_path / "e"), task="piaa", device="cpu")
    assert predictor.attributes[1:] == load_predictor(str(folder), task="piaa", device="cpu").attributes[1:]
    picture = np.repeat(parity._photo_parts(64, 1), 2, 0)
    one, other = predictor.predict(picture, prompts).scores
    assert one != other  # the person counts


def test_bare_weights_keep_no_category_heads(tmp_path, tiny_text):
    model = AesMambaConfig(encoder=MOBILENET, text=tiny_text, heads=2, head_dim=8, hidden=8)
    folder = make(tmp_path / "m", "miaa", model, tokenizer=pretrained_tokenizer(tiny_text))
    export(str(folder), tmp_path / "e", format="safetensors")
    agree(folder, tmp_path / "e", "miaa", COMMENTS)
    before, after = (load_checkpoint(spec).model for spec in (folder, tmp_path / "e"))
    gone = {name for name in before.state_dict() if ".category." in name}
    assert gone
    assert before.state_dict().keys() - after.state_dict().keys() == gone
    assert not after.config.category_heads


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxruntime, onnxscript")
def test_int8_is_for_pictures(tmp_path, tiny_text):
    model = AesMambaConfig(encoder=MOBILENET, text=tiny_text, heads=2, head_dim=8, hidden=8)
    folder = make(tmp_path / "m", "miaa", model, tokenizer=pretrained_tokenizer(tiny_text))
    with pytest.raises(UsageError, match="also reads text; use fp16"):
        export(str(folder), tmp_path / "e", precision="int8", images=[PHOTOS])
    assert not (tmp_path / "e").exists()
