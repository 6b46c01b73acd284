"""AesMamba's studies on pictures in PARA's layout, with a tiny encoder: attributes, categories and their trend."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from aescli.ablation.categories import Change, category_changes, trend
from aescli.ablation.run import Settings, run_study
from aescli.ablation.studies import STUDIES
from aescli.data.datasets.scored import ATTRIBUTES
from aescli.models.adaptation import AttributeConfig
from aescli.models.aesmamba import PARA_ATTRIBUTES

SMALL = (
    "model.encoder={name: mobilenetv1, levels: [6], image_size: 32}",
    "model.hidden=16",
    "train.epochs=2",
    "train.batch_size=16",
    "train.lr=3e-3",
    "train.augment={flip: 0.5, crop_from: 36}",
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def para(tmp_path_factory):
    """60 pictures with nine scores that follow the brightness; the last 24 are the official test part."""
    root, rng = tmp_path_factory.mktemp("para"), np.random.default_rng(0)
    (root / "imgs" / "session0").mkdir(parents=True)
    rows = []
    for i in range(60):
        level = rng.uniform(0.1, 0.9)
        pixels = (255 * level + rng.normal(0, 10, (40, 49, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "imgs" / "session0" / f"iaa_pub{i}_.jpg")
        row = {"sessionId": "session0", "imageName": f"iaa_pub{i}_.jpg", "semantic": "scene"}
        scores = {name: np.clip(1 + 4 * level + rng.normal(0, 0.2), 1, 5) for name in ATTRIBUTES}
        rows.append(row | {f"{ATTRIBUTES[name]}_mean": round(value, 4) for name, value in scores.items()})
    for name, part in (("PARA-GiaaTrain.csv", rows[:36]), ("PARA-GiaaTest.csv", rows[36:])):
        with (root / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(part)
    return root


def test_models_a_b_and_c_are_compared_inside_each_category(para, tmp_path):
    settings = Settings("aesmamba-f-para", SMALL, (para,), None, tmp_path)
    rows = run_study(STUDIES["mba"], settings, log=lambda _: None)
    assert [row.label[:7] for row in rows] == ["Model-A", "Model-B", "Model-C"]
    assert rows[2].paper["PLCC_mean"] == 0.910
    for row, name in zip(rows, ("model-a", "model-b", "model-c"), strict=True):
        tested = json.loads((tmp_path / name / "split" / "test_para.json").read_text())
        assert len(tested) == 24
        score = stats.spearmanr([r["score"] for r in tested], [r["predicted"] for r in tested]).statistic
        assert row.folds["split"]["SRCC"] == pytest.approx(score)
        metrics = json.loads((tmp_path / name / "split" / "checkpoint" / "metrics.json").read_text())["para"]
        every = [metrics["score"]["SRCC"], *(v["SRCC"] for v in metrics["attributes"].values())]
        assert len(every) == 9
        assert row.folds["split"]["SRCC_mean"] == pytest.approx(np.mean(every))
    with (tmp_path / "categories.csv").open() as file:
        points = list(csv.DictReader(file))
    assert {p["model"] for p in points} == {"Model-B (CE)", "Model-C (Bal-CE)"}
    assert {p["attribute"] for p in points} <= set(PARA_ATTRIBUTES)
    for point in points:
        before, after = float(point["srcc_before"]), float(point["srcc_after"])
        assert float(point["relative_change"]) == pytest.approx((after - before) / abs(before))
    if len(points) >= 6:
        assert "slope p =" in (tmp_path / "table.md").read_text()


def test_nine_attributes_have_columns_of_their_own(para, tmp_path):
    study = replace(STUDIES["encoder"], variants=STUDIES["encoder"].variants[:1])
    tiny = replace(study.variants[0], changes=study.variants[0].changes[2:])
    study = replace(study, variants=(tiny,))
    rows = run_study(study, Settings("aesmamba-f-para", SMALL, (para,), None, tmp_path), log=lambda _: None)
    figures = rows[0].folds["split"]
    assert {f"SRCC {name}" for name in PARA_ATTRIBUTES} <= set(figures)
    assert figures["SRCC aesthetic"] == figures["SRCC"]
    config = json.loads((tmp_path / "resnet50" / "split" / "checkpoint" / "config.json").read_text())
    assert not config["model"]["adapter"]
    assert not config["model"]["category_heads"]
    text = (tmp_path / "table.md").read_text()
    assert "SRCC willingnessToShare" in text
    assert "| AesMamba-F |" in text  # cited


def test_category_changes_are_spearman_inside_each_category():
    rng = np.random.default_rng(1)
    attributes = (AttributeConfig("a", (1.0, 5.0), categories="para"), AttributeConfig("b", (1.0, 5.0)))
    truth = rng.uniform(1, 5, (80, 2))
    truth[:3, 0] = np.nan
    before, after = truth + rng.normal(0, 1, (80, 2)), truth + rng.normal(0, 0.5, (80, 2))
    found = category_changes(attributes, truth, before, after)
    assert {change.attribute for change in found} == {"a"}  # b has no categories
    assert [change.category for change in found] == [0, 1, 2, 3]
    assert sum(change.share for change in found) == pytest.approx(1)
    for change in found:
        keep = np.isfinite(truth[:, 0]) & (np.clip(np.floor(truth[:, 0]) - 1, 0, 3) == change.category)
        assert change.n == keep.sum()
        assert change.before == pytest.approx(stats.spearmanr(truth[keep, 0], before[keep, 0]).statistic)
        assert change.after == pytest.approx(stats.spearmanr(truth[keep, 0], after[keep, 0]).statistic)


def test_small_categories_are_left_out():
    attribute = (AttributeConfig("a", (1.0, 5.0), categories="para"),)
    truth = np.array([[1.1], [1.2], [1.3], [1.4], [2.1], [2.2], [2.3], [2.4], [2.5]])
    found = category_changes(attribute, truth, truth, truth)
    assert [(change.category, change.n) for change in found] == [(1, 5)]


def test_the_trend_is_the_least_squares_line():
    points = [Change("a", i, 10, share, 0.5, 0.5 * (1 + 0.3 - 0.4 * share)) for i, share in
              enumerate((0.1, 0.2, 0.7))]  # fmt: skip
    fitted = trend(points)
    assert fitted.slope == pytest.approx(-0.4)
    assert fitted.intercept == pytest.approx(0.3)
    assert trend(points[:2]) is None
