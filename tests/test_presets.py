"""Presets: every shipped one is valid, and every mistake names its place."""

import pytest
import yaml

from aescli import presets
from aescli.errors import UsageError


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_is_valid(name):
    preset = presets.load_preset(name)
    assert preset.name == name
    assert preset.description


def test_the_papers_settings():
    preset = presets.load_preset("momamba-scut-fbp5500")
    assert preset.model.encoder.name == "vit_base_patch16_224"
    assert preset.model.encoder.levels == (3, 6, 9, 12)
    assert (preset.train.lr, preset.train.weight_decay, preset.train.epochs, preset.train.batch_size) == (
        1e-4,
        1e-5,
        100,
        16,
    )
    assert (preset.model.same.experts, preset.model.same.top_k, preset.model.dem.alpha) == (9, 4, 0.05)
    assert presets.load_preset("momamba-scut-fbp").data.class_cuts == (1.9, 2.6, 3.4, 4.2)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"architecture": "momamba", "model": {"width": 64}}))
    preset = presets.load_preset(str(path))
    assert (preset.name, preset.model.width) == ("mine", 64)


def test_changes_are_applied():
    preset = presets.load_preset(
        "momamba-lite", ["train.lr=3e-4", "model.same.experts=0", "train.augment.flip=0"]
    )
    assert preset.train.lr == pytest.approx(3e-4)
    assert preset.model.same.experts == 0
    assert preset.train.augment.flip == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.learning_rate=1", "unknown key train.learning_rate"),
        ("train.epoch=1", "did you mean train.epochs"),
        ("model.same.expert=3", "did you mean model.same.experts"),
        ("modle.width=3", "did you mean model"),
        ("train.epochs=many", "train.epochs.*many"),
        ("model.modules=X", "model.*modules|modules"),
        ("train.epochs=-1", "train.epochs.*greater than or equal to 1"),
        ("train.validation=1.5", "train.validation.*less than 1"),
        ("train.lr", "write key=value"),
        ("train.lr.x=1", "not a group"),
        ("train.loss.label_sigma=0", "train.mixup: 0.4 .*train.loss.label_sigma above 0"),
        ("data.class_cuts=[1.5,2.5,4.5,3.5]", "data.class_cuts.*ascending"),
        ("data.class_cuts=[1.5,2.5]", "data.class_cuts.*4 ascending"),
        ("train.teacher.shares=[0.5]", "train.teacher.shares: one for each .*1 for 0"),
    ],
)
def test_mistakes_are_explained(change, message):
    with pytest.raises(UsageError, match=message):
        presets.load_preset("momamba-lite", [change])


def test_mixup_without_soft_labels_is_for_regression_alone():
    changes = ["train.loss.label_sigma=0", "model.tasks=[regression]"]
    assert presets.load_preset("momamba-lite", changes).train.mixup > 0
    changes = ["train.loss.label_sigma=0", "train.mixup=0"]
    assert "classification" in presets.load_preset("momamba-lite", changes).model.tasks


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'momamba-lite'"):
        presets.load_preset("momamba-light")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "architecture: other"])
def test_files_that_are_no_preset(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        presets.load_preset(str(path))


@pytest.mark.parametrize(
    "name", [name for name in presets.names() if name.startswith("aesmamba-") and "-lite" not in name]
)
def test_the_aesthetics_papers_schedule(name):
    """AesMamba §4.1.3: what differs between the variants, and nothing else does."""
    preset = presets.load_preset(name)
    _, variant, *_, dataset = name.split("-")
    train = preset.train
    assert train.epochs == (100 if variant == "f" else 50)
    assert (train.beta2, train.min_lr) == (0.99, 1e-6)
    assert (train.augment.crop_from, train.augment.flip) == (256, 0.5)
    personal = variant == "p"
    assert (train.lr, train.batch_size, train.weight_decay) == (
        (4e-5, 10, 0.001) if personal else (1e-4, 64, 0.01)
    )
    assert preset.task == {"v": "viaa", "m": "miaa", "f": "fiaa", "p": "piaa"}[variant]
    base = "-base-" in name
    assert (preset.model.encoder.name, preset.model.encoder.drop_path) == (
        ("vmamba_base_s2l15", 0.6) if base else ("vmamba_tiny_v0", 0.0)
    )
    assert (preset.model.text is not None) == (variant in "mp")
    assert len(preset.model.attributes) == (9 if variant in "fp" else 1)
    attribute = preset.model.attributes[0]
    assert (attribute.outputs, attribute.categories) == ({"ava": 10, "photonet": 7}.get(dataset, 1), dataset)
    good = {"ava": 5, "photonet": 5, "tad66k": 5, "para": 3, "aadb": 0.5}[dataset]
    assert preset.data.class_cuts == (good,)
    assert not preset.preprocessing.faces
