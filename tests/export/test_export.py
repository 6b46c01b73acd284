"""Small models through every format: the file alone must score as the checkpoint does."""

import importlib.util
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from aescli.errors import AesError, UsageError
from aescli.export import parity
from aescli.export import run as exports
from aescli.export.program import HalfWeights, Scorer, trace
from aescli.export.run import export
from aescli.models import checkpoint as checkpoints
from aescli.models.answers import Answers
from aescli.models.checkpoint import Card, Preprocessing, build_model, load_checkpoint, save_checkpoint
from aescli.models.dem import DEMConfig
from aescli.models.encoders import EncoderConfig
from aescli.models.exported import Description, exported_file, load_program, model_folder
from aescli.models.momamba import MoMambaConfig
from aescli.models.same import SAMEConfig
from aescli.scoring.predictor import Prediction, load_predictor

PHOTOS = str(Path(__file__).parents[1] / "photos")
HAS_ONNX = all(importlib.util.find_spec(n) for n in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxruntime and onnxscript")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole MoMamba (fusion, DEM with its scans, SAME), small, with two score heads."""
    torch.manual_seed(0)
    model = MoMambaConfig(
        encoder=EncoderConfig(name="mobilenetv1", levels=(5, 7), image_size=64),
        width=16,
        dem=DEMConfig(sub_blocks=2, d_state=4),
        same=SAMEConfig(states=5, experts=2, rank_min=4, rank_step=4, top_k=1, task_rank=4, heads=2),
        score_heads=("here", "there"),
        head_skip=True,
        flip_average=True,
        mirror_scale=1.25,
    )
    config = {
        "architecture": "momamba",
        "model": asdict(model),
        "preprocessing": {"size": 64, "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.25, 0.2), "faces": False},
    }
    network = build_model(config)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(0.5)
    folder = tmp_path_factory.mktemp("model") / "m"
    save_checkpoint(
        folder, network.state_dict(), config, Card("small", description="a test"), None, {"a" * 16}
    )
    return folder


@pytest.fixture(scope="module")
def crops():
    return parity._photo_parts(64, 5)


@pytest.fixture(scope="module")
def onnx_folder(checkpoint, tmp_path_factory):
    if not HAS_ONNX:
        pytest.skip("needs onnx, onnxruntime and onnxscript")
    out = tmp_path_factory.mktemp("onnx") / "e"
    done = export(str(checkpoint), out)
    assert done.parity.worst[1] <= 1e-4
    assert done.parity.images == exports.COMPARED
    return out


def same_scores(checkpoint, file, crops, tolerance=2e-5) -> None:
    for raters in (None, "there"):
        ours, theirs = (
            load_predictor(str(spec), device="cpu", raters=raters).predict(crops)
            for spec in (file, checkpoint)
        )
        assert np.ptp(theirs.scores) > 1e-3
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=tolerance)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=tolerance)
        assert theirs.features.shape[1] > 1
        np.testing.assert_allclose(ours.features, theirs.features, atol=tolerance, rtol=50 * tolerance)


@needs_onnx
@pytest.mark.slow
def test_an_onnx_file_scores_as_its_checkpoint_in_any_batch(checkpoint, onnx_folder, crops):
    same_scores(checkpoint, onnx_folder, crops)
    same_scores(checkpoint, onnx_folder / "model.onnx", crops[3:])
    predictor = load_predictor(str(onnx_folder))
    assert (predictor.task, predictor.scale, predictor.classes) == ("fbp", (1.0, 5.0), 5)
    alone = [predictor.predict(crops[k : k + 1]).scores[0] for k in range(5)]
    np.testing.assert_allclose(alone, predictor.predict(crops).scores, atol=1e-5)
    assert predictor.digest != load_predictor(str(onnx_folder), raters="here").digest
    with pytest.raises(UsageError, match="it knows: here, there"):
        load_predictor(str(onnx_folder), raters="nobody")
    with pytest.raises(UsageError, match="--dtype bf16"):
        load_predictor(str(onnx_folder), dtype="bf16")
    with pytest.raises(AesError, match="is for --task fbp"):
        load_predictor(str(onnx_folder), task="viaa")


@needs_onnx
@pytest.mark.slow
def test_an_onnx_file_carries_what_belongs_to_it_and_one_loop_for_each_scan(checkpoint, onnx_folder):
    import onnx

    model = onnx.load(onnx_folder / "model.onnx")
    onnx.checker.check_model(model)
    meta = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert meta["aescli.card"]["name"] == "small"
    assert meta["aescli.preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert meta["aescli.digest"] == load_checkpoint(checkpoint).digest
    assert meta["aescli.outputs"] == ["score", "probabilities", "head_scores", "levels"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    # one loop for each direction, however long the sequence is
    assert [node.op_type for node in model.graph.node].count("Scan") == 2
    assert len(model.graph.node) < 700
    assert not any(node.metadata_props for node in model.graph.node)  # no source paths of this machine
    assert str(Path(exports.__file__).parents[3]).encode() not in (onnx_folder / "model.onnx").read_bytes()


@needs_onnx
@pytest.mark.slow
def test_the_folder_is_complete_and_replaced_as_a_whole(checkpoint, onnx_folder, tmp_path):
    names = ["card.json", "model.onnx", "preprocessing.json", "training_images.txt"]
    assert sorted(os.listdir(onnx_folder)) == names
    assert os.listdir(onnx_folder.parent) == ["e"]
    told = json.loads((onnx_folder / "preprocessing.json").read_text())
    assert (told["size"], told["outputs"]) == (64, ["score", "probabilities", "head_scores", "levels"])
    assert "take the whole image" in told["steps"]
    assert model_folder(onnx_folder / "model.onnx") == onnx_folder
    assert exported_file(onnx_folder) == onnx_folder / "model.onnx"
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(AesError, match=r"holds what no export wrote \(mine\.txt\)"):
        export(str(checkpoint), tmp_path)
    with pytest.raises(UsageError, match="exported file already"):
        export(str(onnx_folder), tmp_path / "again")


@needs_onnx
@pytest.mark.slow
def test_beyond_the_tolerance_nothing_is_written(checkpoint, onnx_folder, tmp_path, monkeypatch):
    shutil.copytree(onnx_folder, tmp_path / "e")
    before = (tmp_path / "e" / "model.onnx").stat().st_mtime_ns

    def wrong(program, path, description, opset=None):
        other = tmp_path / "e" / "model.onnx"
        shutil.copyfile(other, path)

    def shifted(checkpoint):
        checkpoint.model.heads["regression"].linear.bias.data += 0.01
        return checkpoint

    monkeypatch.setattr(exports.onnx_file, "write_onnx", wrong)
    monkeypatch.setattr(exports, "trace", lambda *_: None)
    load = exports.load_checkpoint
    monkeypatch.setattr(exports, "load_checkpoint", lambda spec: shifted(load(spec)))
    with pytest.raises(AesError, match=r"the score by 2\.5e-03 of the range, more than 1e-04"):
        export(str(checkpoint), tmp_path / "e", images=[PHOTOS])
    assert os.listdir(tmp_path) == ["e"]
    assert (tmp_path / "e" / "model.onnx").stat().st_mtime_ns == before


@needs_onnx
@pytest.mark.slow
def test_int8_is_smaller_and_ranks_alike(checkpoint, tmp_path, crops, monkeypatch):
    monkeypatch.setattr(exports, "CALIBRATION", 40)
    monkeypatch.setattr(exports, "HELD_OUT", 40)
    monkeypatch.setattr(parity, "MIN_SRCC", 0.9)  # the scores of an untrained model lie close together
    parts = parity._photo_parts(64, 80)
    monkeypatch.setattr(parity, "sample_crops", lambda *_: (parts, "parts"))
    done = export(str(checkpoint), tmp_path / "e", precision="int8", images=[PHOTOS])
    assert done.parity.srcc >= 0.9
    assert done.parity.images == 40
    assert done.size < 0.5 * done.full_size
    assert "full.onnx" not in os.listdir(tmp_path / "e")
    description = load_predictor(str(tmp_path / "e")).description
    assert description.precision == "int8"
    full = load_predictor(str(checkpoint)).predict(crops).scores
    assert (load_predictor(str(tmp_path / "e")).predict(crops).scores != full).any()


@needs_onnx
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("model", ["momamba-lite", "aesmamba-lite"])
def test_the_bundled_models_in_int8_on_photos_that_did_not_calibrate_them(tmp_path, model):
    data = Path(os.environ.get("AESCLI_DATA") or "nowhere")
    folders = [data / "mebeauty" / "originals"]
    folders += [data / "sophoappeal" / "images"] if model == "aesmamba-lite" else []
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("needs AESCLI_DATA with mebeauty/originals and sophoappeal/images")
    done = export(model, tmp_path / "e", precision="int8", images=[str(folder) for folder in folders])
    assert done.parity.images == exports.HELD_OUT
    assert done.parity.srcc >= 0.995
    assert done.parity.classes <= 0.04
    assert done.size < 0.3 * done.full_size


@needs_onnx
def test_int8_leaves_out_the_image_s_first_convolutions_and_the_answers():
    import onnx
    from onnx import TensorProto, helper

    from aescli.export.onnx_file import _EARLY, _kept

    nodes, last = [], "images"
    for k in range(5):
        nodes.append(helper.make_node("Conv", [last, "w"], [f"c{k}"], f"conv{k}"))
        nodes.append(helper.make_node("Clip", [f"c{k}"], [f"r{k}"], f"clip{k}"))
        last = f"r{k}"
    nodes.append(helper.make_node("Gemm", [last, "wide"], ["hidden"], "middle"))
    nodes.append(helper.make_node("Gemm", ["hidden", "narrow"], ["score"], "end"))
    shapes = {"w": (3, 3, 1, 1), "wide": (160, 400), "narrow": (5, 160)}
    weights = [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(np.prod(s))) for n, s in shapes.items()]
    graph = helper.make_graph(nodes, "g", [], [], weights)
    early = [f"{name}{k}" for k in range(_EARLY) for name in ("conv", "clip")]
    assert _kept(onnx.helper.make_model(graph).graph) == [*early, "end"]


def test_int8_asks_for_what_it_needs(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="needs --images"):
        export(str(checkpoint), tmp_path / "e", precision="int8")
    with pytest.raises(UsageError, match="is for --format onnx"):
        export(str(checkpoint), tmp_path / "e", format="safetensors", precision="int8", images=[PHOTOS])
    if HAS_ONNX:
        with pytest.raises(AesError, match="only 4 of your images"):
            export(str(checkpoint), tmp_path / "e", precision="int8", images=[PHOTOS])
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_torch_export_file_scores_as_its_checkpoint(checkpoint, tmp_path, crops, precision, monkeypatch):
    if precision == "fp16":  # every weight of this small model is small
        monkeypatch.setattr("aescli.models.checkpoint.half_precision.__defaults__", (100,))
    done = export(str(checkpoint), tmp_path / "e", format="torch-export", precision=precision)
    assert done.parity.worst[1] <= parity.TOLERANCE[precision]
    same_scores(checkpoint, tmp_path / "e", crops, 2e-5 if precision == "fp32" else 4e-3)
    loaded = load_program(tmp_path / "e" / "model.pt2", torch.device("cpu"))
    assert loaded.card.name == "small"
    if precision == "fp16":
        full = sum(
            v.numel() * v.element_size() for v in load_checkpoint(checkpoint).model.state_dict().values()
        )
        assert done.size < 0.75 * full


def test_safetensors_are_a_checkpoint_again(checkpoint, tmp_path, crops):
    export(str(checkpoint), tmp_path / "e", format="safetensors")
    same_scores(checkpoint, tmp_path / "e", crops)
    assert load_checkpoint(tmp_path / "e").digest == load_checkpoint(checkpoint).digest
    done = export(str(checkpoint), tmp_path / "h", format="safetensors", precision="fp16", images=[PHOTOS])
    assert done.parity.images == 4
    assert done.pictures == "of your images"


def test_files_of_others_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"no archive")
    with pytest.raises(AesError, match="cannot read the exported model"):
        load_predictor(str(tmp_path / "x.pt2"), device="cpu")
    with pytest.raises(AesError, match="no such model file"):
        load_predictor(str(tmp_path / "y.onnx"))
    with pytest.raises(AesError, match="only files that aes export wrote"):
        Description.read({}, tmp_path / "x.onnx")
    if HAS_ONNX:
        (tmp_path / "x.onnx").write_bytes(b"no model")
        with pytest.raises(AesError, match="onnxruntime cannot load it"):
            load_predictor(str(tmp_path / "x.onnx"))


# -- a model of another kind --------------------


class Attributes(nn.Module):
    """Stands for any architecture: a distribution behind the score, attributes, no logits."""

    answers = Answers(4, True, ("one", "other"))

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            p = self.linear(x.mean((2, 3))).softmax(-1)
        score = p @ torch.arange(4.0)
        attributes = torch.stack([score, -score], 1)
        return SimpleNamespace(
            score=score, probabilities=p, attribute_scores=attributes, levels=x.mean((2, 3))
        )


@dataclass(frozen=True)
class Nothing:
    pass


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A checkpoint of an architecture that the export has never heard of."""
    builder = (Nothing, lambda config, initialise_encoder=True: Attributes())
    monkeypatch.setitem(checkpoints.BUILDERS, "attributes", builder)
    torch.manual_seed(1)
    config = {"architecture": "attributes", "model": {}, "preprocessing": {"size": 16, "faces": False}}
    model = Attributes()
    model.linear.weight.data *= 5
    card = Card("other", "viaa", score_range=(0.0, 3.0), class_cuts=(1.0, 1.5, 2.0))
    save_checkpoint(tmp_path / "m", model.state_dict(), config, card)
    return tmp_path / "m"


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_an_unknown_architecture_needs_nothing_here(other, tmp_path, format):
    if format == "onnx" and not HAS_ONNX:
        pytest.skip("needs onnx, onnxruntime and onnxscript")
    done = export(str(other), tmp_path / "e", format=format, images=[PHOTOS])
    assert done.parity.worst[1] <= 1e-4
    assert done.pictures == "of your images"
    names = ["card.json", Path(exports.FILES[format]).name, "preprocessing.json"]
    assert sorted(os.listdir(tmp_path / "e")) == names
    crops = parity._photo_parts(16, 9)
    exported = load_predictor(str(tmp_path / "e"), task="viaa", device="cpu").predict(crops)
    with torch.inference_mode():
        x = torch.from_numpy(parity.normalised(crops, load_checkpoint(other).preprocessing))
        expected = load_checkpoint(other).model(x)
    assert np.ptp(exported.scores) > 0.01
    np.testing.assert_allclose(exported.scores, expected.score.numpy(), atol=1e-5)
    np.testing.assert_allclose(exported.probabilities, expected.probabilities.numpy(), atol=1e-5)
    np.testing.assert_allclose(exported.attributes, expected.attribute_scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(exported.features, expected.levels.numpy(), atol=1e-5)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "place", ["the model", "above it", "a checkpoint", "a run", "a card of others", "a link to it"]
)
def test_an_export_takes_the_place_of_an_export_only(other, tmp_path, place):
    """Everything in this temporary folder is somebody's: nothing of it may change."""
    mine = tmp_path / "mine"
    shutil.copytree(other, mine)
    if place == "a run":
        (mine / "preprocessing.json").write_text("{}")
        (mine / "log.txt").write_text("weeks of work")
    if place == "a card of others":
        for name in ("config.json", "model.safetensors"):
            (mine / name).unlink()
        (mine / "photo.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(other)
    out = {"the model": other, "above it": tmp_path, "a link to it": tmp_path / "link"}.get(place, mine)
    before = files_in(tmp_path)
    with pytest.raises(AesError, match=r"--out .* holds (what no export wrote|the model that is exported)"):
        export(str(other), out, format="safetensors")
    assert files_in(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["link", "m", "mine"]


def test_an_earlier_export_is_replaced_also_behind_a_link_but_not_the_current_folder(
    other, tmp_path, monkeypatch
):
    export(str(other), tmp_path / "e", format="safetensors")
    names = sorted(os.listdir(tmp_path / "e"))
    (tmp_path / "link").symlink_to("e")
    export(str(other), tmp_path / "link", format="torch-export")
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["e", "link", "m"]
    assert "model.pt2" in os.listdir(tmp_path / "e")
    assert names == ["card.json", "config.json", "model.safetensors", "preprocessing.json"]
    monkeypatch.chdir(tmp_path / "e")
    with pytest.raises(
        UsageError, match=r"--out \.: the current folder would be replaced; give a folder in it"
    ):
        export(str(other), Path(), format="safetensors")


def test_what_came_into_the_folder_meanwhile_stays(other, tmp_path, monkeypatch):
    compare = parity.compare

    def slowly(*arguments):
        (tmp_path / "e").mkdir()
        (tmp_path / "e" / "mine.txt").write_text("x")
        return compare(*arguments)

    monkeypatch.setattr(parity, "compare", slowly)
    with pytest.raises(AesError, match="holds what no export wrote"):
        export(str(other), tmp_path / "e", format="safetensors")
    assert (tmp_path / "e" / "mine.txt").read_text() == "x"
    assert sorted(os.listdir(tmp_path)) == ["e", "m"]


def test_failures_name_the_folder_that_was_given(other, tmp_path, monkeypatch):
    def broken(program, path, description):
        path.write_bytes(b"no archive")

    monkeypatch.setattr(exports, "save_program", broken)
    with pytest.raises(AesError, match=rf"^{tmp_path}/e/model\.pt2: cannot read the exported model"):
        export(str(other), tmp_path / "e", format="torch-export")
    (tmp_path / "file").write_text("")
    with pytest.raises(AesError, match=rf"^cannot write {tmp_path}/file/e: "):
        export(str(other), tmp_path / "file" / "e", format="safetensors")


@pytest.mark.parametrize("format", ["safetensors", "torch-export"])
def test_the_prior_over_tastes_travels_with_the_weights(other, tmp_path, format):
    from aescli.personalization.prior import load_prior, save_prior, unlearned_prior

    features = np.random.default_rng(0).normal(size=(20, 3))
    prior = unlearned_prior(load_checkpoint(other).digest, (0.0, 3.0), features)
    save_prior(prior, other)
    export(str(other), tmp_path / "e", format=format)
    digest = load_predictor(str(tmp_path / "e"), task="viaa", device="cpu").digest
    found = load_prior(tmp_path / "e", digest)
    np.testing.assert_allclose(found.projection, prior.projection, atol=1e-3)
    save_prior(replace(prior, base="another"), other)
    with pytest.raises(AesError, match="was learned for the model another"):
        export(str(other), tmp_path / "f", format=format)


@needs_onnx
def test_the_operator_set_is_the_one_that_was_asked_for(other, tmp_path):
    import onnx

    export(str(other), tmp_path / "e", opset=20, images=[PHOTOS])
    sets = {item.domain: item.version for item in onnx.load(tmp_path / "e" / "model.onnx").opset_import}
    assert sets[""] == 20
    with pytest.raises(AesError, match=r"--opset 17: torch can only write this model in set \d+"):
        export(str(other), tmp_path / "f", opset=17, images=[PHOTOS])
    assert not (tmp_path / "f").exists()


MISFITS = {
    "size": ("preprocessing", "size", 0, "preprocessing.size in its metadata makes no sense"),
    "another size": ("preprocessing", "size", 17, "does not fit its graph"),
    "std": ("preprocessing", "std", [0.5, 0.0, 0.5], "preprocessing.std in its metadata"),
    "mean": ("preprocessing", "mean", [0.5, 0.5], "preprocessing.mean"),
    "fit": ("preprocessing", "fit", "crop", "preprocessing.fit"),
    "range": ("card", "score_range", [3.0, 0.0], "card.score_range in its metadata"),
    "field": ("card", "colour", "blue", "card.colour: no such field"),
    "classes": ("answers", "probabilities", 5, "does not fit its graph"),
    "attributes": ("answers", "attributes", ["one"], "does not fit its graph"),
    "text": ("answers", "reads_text", True, "does not fit its graph"),
    "outputs": ("outputs", None, ["score", "probabilities"], "does not fit its graph"),
    "unknown output": ("outputs", None, ["score", "mood"], "outputs in its metadata"),
    "config": ("config", None, [], "config"),
}


@pytest.fixture(scope="module")
def strings_and_shapes():
    """The metadata of a model with four probabilities and two attributes, and what its graph looks like."""
    answers = Answers(4, True, ("one", "other"))
    outputs = ("score", "probabilities", "attribute_scores", "levels")
    made = Description(
        {"model": {}}, Card("c"), Preprocessing(16), outputs, answers, "", "0" * 16, "fp32", "1"
    )
    shapes = {"score": [None], "probabilities": [None, 4], "attribute_scores": [None, 2], "levels": [None, 3]}
    return made.strings(), {"images": [None, 3, 16, 16]}, shapes


@pytest.mark.parametrize("name", [None, *MISFITS])
def test_metadata_that_was_changed_is_refused_in_a_sentence(strings_and_shapes, name):
    strings, inputs, outputs = strings_and_shapes
    part, key, value, said = MISFITS.get(name, ("card", "name", "other", None))
    content = json.loads(strings[f"aescli.{part}"])
    content = value if key is None else {**content, key: value}

    def read():
        found = Description.read({**strings, f"aescli.{part}": json.dumps(content)}, Path("m.onnx"))
        found.require_fit(inputs, outputs, Path("m.onnx"))

    if said is None:
        read()
        return
    with pytest.raises(AesError, match=rf"^m\.onnx: .*{said}.*; export the model again$"):
        read()


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_an_exported_file_is_held_against_its_metadata(other, tmp_path, format, monkeypatch):
    if format == "onnx" and not HAS_ONNX:
        pytest.skip("needs onnx, onnxruntime and onnxscript")
    export(str(other), tmp_path / "e", format=format, images=[PHOTOS])
    read = Description.read.__func__

    def changed(cls, strings, where):
        found = read(cls, strings, where)
        return replace(found, preprocessing=replace(found.preprocessing, size=20))

    monkeypatch.setattr(Description, "read", classmethod(changed))
    with pytest.raises(AesError, match="its metadata does not fit its graph; export the model again"):
        load_predictor(str(tmp_path / "e"), task="viaa", device="cpu")


def test_a_damaged_archive_is_one_line(tmp_path, capfd, caplog):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("x/version", "3")
    with pytest.raises(AesError, match=r"cannot read the exported model: .*; export the model again"):
        load_predictor(str(tmp_path / "x.pt2"), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@needs_onnx
def test_the_command_writes_and_scores_with_it(other, tmp_path, capfd):
    from aescli.cli import main

    def aes(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(w) for w in words])
        return stop.value.code or 0, *capfd.readouterr()

    words = ["export", "--task", "viaa", "--model", other, "--out", tmp_path / "e", "--images", PHOTOS]
    code, out, err = aes(*words)
    assert (code, out) == (0, "")
    assert "largest difference of a score" in err
    assert "times as fast as torch" in err
    for spec in (tmp_path / "e", tmp_path / "e" / "model.onnx"):
        code, ours, _ = aes("score", PHOTOS, "--task", "viaa", "--model", spec, "--probabilities")
        assert code == 0
        assert ours == aes("score", PHOTOS, "--task", "viaa", "--model", other, "--probabilities")[1]
        assert ours.count("\n") == 5
    assert aes("export", "--model", tmp_path / "e", "--out", tmp_path / "f")[0] == 2
    code, _, err = aes("score", PHOTOS, "--task", "viaa", "--model", tmp_path / "e", "--device", "cuda")
    assert (code, "install onnxruntime-gpu" in err) == (1, True)


def test_outputs_are_told_from_the_model():
    scorer = Scorer(Attributes()).eval()
    x = torch.randn(3, 3, 8, 8)
    assert list(scorer.named(x)) == ["score", "probabilities", "attribute_scores", "levels"]
    program = trace(scorer, (x[:2],))
    for batch in (1, 3):
        for a, b in zip(program.module()(x[:batch]), scorer(x[:batch]), strict=True):
            torch.testing.assert_close(a, b)
    silent = nn.Identity()
    silent.forward = lambda x: SimpleNamespace(score=None)
    with pytest.raises(AesError, match="classes only"):
        Scorer(silent).named(x)


def test_what_cannot_be_traced_is_said():
    class Loop(nn.Module):
        def forward(self, x):
            return (x * 2,) if x.sum() > 0 else (x,)

    with pytest.raises(AesError, match="the model cannot be exported: "):
        trace(Loop(), (torch.zeros(2, 3, 8, 8),))


def test_half_weights_answer_as_rounded_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 200), nn.Linear(200, 2)).eval()
    half = HalfWeights(model)
    stored = {v.dtype for k, v in half.state_dict().items() if "1.weight" in k}
    assert stored == {torch.float16}
    x = torch.randn(4, 3, 8, 8)
    rounded = nn.Sequential(nn.Flatten(), nn.Linear(192, 200), nn.Linear(200, 2)).eval()
    rounded.load_state_dict(model.state_dict())
    rounded[1].weight.data = model[1].weight.data.half().float()
    torch.testing.assert_close(half(x), rounded(x))
    assert model[1].weight.dtype == torch.float32


# -- the comparison --------------------


class Numbers:
    scale, reads_text, classes, distribution, cuts = (0.0, 10.0), False, 0, False, (5.0,)

    def __init__(self, shift=0.0, noise=0.0):
        self.shift, self.noise = shift, noise

    def predict(self, crops, texts=()):
        mean = crops.reshape(len(crops), -1).mean(1) / 25.5
        nothing = np.empty((len(crops), 0))
        return Prediction(mean + self.shift + self.noise * np.sin(1e4 * mean), nothing, nothing, nothing)


def test_parity_measures_what_it_says():
    crops = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    found = parity.compare(Numbers(0.5), Numbers(), crops)
    assert (found.images, round(found.score, 9), round(found.srcc, 9)) == (50, 0.05, 1.0)
    assert (found.probability, found.attribute, found.worst) == (None, None, ("score", found.score))
    assert found.speed > 0
    a, b = Numbers(noise=0.2).predict(crops).scores, Numbers().predict(crops).scores
    import scipy.stats

    found = parity.compare(Numbers(noise=0.2), Numbers(), crops)
    assert found.srcc == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert found.classes == ((a >= 5) != (b >= 5)).mean() > 0
    with pytest.raises(AesError, match="SRCC"):
        parity.check(found, "int8")
    right = {"images": 5, "score": 9e-5, "probability": 1e-5, "attribute": None}
    right |= {"classes": 0.0, "srcc": None, "speed": 1.0}
    parity.check(parity.Parity(**right), "fp32")
    parity.check(parity.Parity(**{**right, "score": 0.1, "srcc": 0.991}), "int8")
    for name, value, said in (
        ("score", float("nan"), "the score by inf of the range"),
        ("probability", 2e-4, "the probability by 2.0e-04, more"),
        ("attribute", 3e-4, "the attribute by 3.0e-04 of its largest value, more than 1e-04"),
    ):
        with pytest.raises(AesError, match=said):
            parity.check(parity.Parity(**{**right, name: value}), "fp32")


def test_each_difference_is_its_own():
    """Two models alike in the score and unlike in the rest, and the other way round."""

    class Both(Numbers):
        classes = 2

        def __init__(self, p, attribute):
            super().__init__()
            self.p, self.attribute = p, attribute

        def predict(self, crops, texts=()):
            n = len(crops)
            p, attribute = np.tile([self.p, 1 - self.p], (n, 1)), np.full((n, 1), self.attribute)
            return super().predict(crops)._replace(probabilities=p, attributes=attribute)

    crops = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    found = parity.compare(Both(0.4, 3.0), Both(0.6, 4.0), crops)
    assert (found.score, found.classes) == (0.0, 1.0)
    assert (found.probability, found.attribute) == (pytest.approx(0.2), pytest.approx(0.25))
    assert found.worst[0] == "attribute"


def test_sample_photos_are_real_and_differ():
    parts = parity._photo_parts(32, 6)
    assert parts.shape == (6, 32, 32, 3)
    assert all(part.std() > 5 for part in parts)
    assert len({part.tobytes() for part in parts}) == 6
