"""Every study's variants parse, build and differ in what they are meant to differ in; the published rows belong."""

import math

import pytest
from made import SMALL

from aescli.ablation.run import Settings, parameter_count, plan, study_presets
from aescli.ablation.studies import STUDIES
from aescli.errors import UsageError
from aescli.evaluation.metrics import delta_m
from aescli.presets import load_preset

MOMAMBA = [name for name, study in STUDIES.items() if study.architecture == "momamba"]


@pytest.mark.parametrize("name", MOMAMBA)
def test_momamba_variants_build(name):
    presets = study_presets(STUDIES[name], "momamba-frozen", SMALL, 1)
    assert list(presets) == [variant.name for variant in STUDIES[name].variants]
    sizes = {
        variant: parameter_count(preset)
        for variant, preset in presets.items()
        if not preset.model.encoder.name.startswith("swin")
    }
    assert all(size > 0 for size in sizes.values())
    if name == "modules":
        one, both = sizes["single-regression"], sizes["multi-b"]
        assert one < both < sizes["multi-b+d"] < sizes["multi-b+d+s"]
        assert both < sizes["multi-b+s"] < sizes["multi-b+d+s"]
    if name == "experts":
        counts = [sizes[f"experts-{k}"] for k in (0, 3, 6, 9, 12, 15)]
        assert counts == sorted(set(counts))
    if name == "top-k":
        assert len({sizes[f"top-{k}"] for k in range(1, 7)}) == 1
        assert [presets[f"top-{k}"].model.same.top_k for k in range(1, 7)] == [1, 2, 3, 4, 5, 6]
    if name == "frequency":
        assert {p.model.dem.frequency for p in presets.values()} == {"none", "low", "high", "both"}


@pytest.mark.parametrize("name", ["mba", "encoder"])
@pytest.mark.parametrize("preset", ["aesmamba-f-para", "aesmamba-v-ava"])
def test_aesmamba_variants_parse(name, preset):
    presets = study_presets(STUDIES[name], preset, (), 1)
    assert len({repr(p.model) + repr(p.train) for p in presets.values()}) == len(presets)


def test_model_a_b_and_c_are_the_papers():
    presets = study_presets(STUDIES["mba"], "aesmamba-f-para", (), 1)
    a, b, c = (presets[f"model-{x}"] for x in "abc")
    assert parameter_count(c) == 28_342_413  # the published model
    assert parameter_count(b) == parameter_count(c) > parameter_count(a)
    assert (b.train.aesmamba_loss.balanced, c.train.aesmamba_loss.balanced) == (False, True)


@pytest.mark.slow
def test_encoders_of_table_3_build():
    presets = study_presets(STUDIES["encoder"], "aesmamba-f-para", (), 1)
    sizes = {name: parameter_count(preset) for name, preset in presets.items()}
    assert sizes["aesmamba-f"] == 28_342_413
    heads = 9 * (768 * 256 + 256 + 256 + 1)
    assert sizes["vmamba-t"] == 22_124_448 + heads
    assert sizes["vit-b16"] == 85_798_656 + heads
    assert sizes["resnet50"] == 23_508_032 + 9 * (2048 * 256 + 256 + 256 + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "level", "parameters"),
    [
        ("resnet50", 5, 51_858_797),
        ("resnext50_32x4d", 5, 51_330_669),
        ("vit_base_patch16_224", 12, 92_016_621),
        ("swin_tiny_patch4_window7_224", 4, 33_737_319),
        ("convnext_tiny", 4, 34_038_093),
    ],
)
def test_f_on_the_encoders_of_table_3(encoder, level, parameters):
    """The encoder's published size, and MBA on its width: 9 of d² / 2 and four small layers."""
    preset = load_preset(
        "aesmamba-f-para",
        [
            f"model.encoder.name={encoder}",
            f"model.encoder.levels=[{level}]",
            "model.encoder.pretrained=false",
        ],
    )
    assert parameter_count(preset) == parameters


@pytest.mark.parametrize("name", STUDIES)
def test_rows_that_the_study_refers_to_exist(name):
    study = STUDIES[name]
    for row in (study.single, study.reference):
        assert row is None or row in study.rows
    assert len({variant.name for variant in study.variants}) == len(study.variants)
    assert set(study.shown) <= set(study.columns)
    for rows in study.paper.values():
        for figures in rows.values():
            assert set(figures) <= set(study.columns)


@pytest.mark.parametrize("name", [n for n in MOMAMBA if n != "groups"])
def test_published_rows_are_rows_of_the_study(name):
    study = STUDIES[name]
    rows = study.paper_rows("fbp", "scut-fbp5500")
    assert set(rows) & set(study.rows)
    if name != "baselines":
        assert set(rows) == set(study.rows) - ({study.single} if study.axis else set())


@pytest.mark.parametrize(("name", "dataset"), [("modules", "scut-fbp"), ("modules", "scut-fbp5500")])
def test_published_gains_follow_from_the_published_figures(name, dataset):
    rows = STUDIES[name].paper_rows("fbp", dataset)
    single = rows[STUDIES[name].single]
    for row in rows.values():
        assert math.isclose(delta_m(row, single), row["delta_m"], abs_tol=0.02)


@pytest.mark.parametrize("name", ["experts", "top-k"])
def test_published_gains_are_against_the_same_single_task_row(name):
    single = STUDIES["modules"].paper_rows("fbp", "scut-fbp5500")[STUDIES["modules"].single]
    for label, row in STUDIES[name].paper_rows("fbp", "scut-fbp5500").items():
        assert math.isclose(delta_m(row, single), row["delta_m"], abs_tol=0.25), label


def test_a_plan_lists_every_run_with_its_size(tmp_path):
    settings = Settings("momamba-frozen", SMALL, (), None, tmp_path, folds=(1, 2))
    lines = plan(STUDIES["modules"], settings)
    assert len(lines) == 13
    assert lines[-1].startswith("12 runs of modules")
    assert lines[0].startswith("single-classification/fold1: ")
    assert "model.tasks=[classification]" in lines[0]


def test_a_preset_of_the_other_architecture_is_refused():
    with pytest.raises(UsageError, match="study mba is about aesmamba, this preset is momamba"):
        study_presets(STUDIES["mba"], "momamba-lite", (), 1)
