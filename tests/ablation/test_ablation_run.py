"""A study end to end on made-up pictures: runs are made once, kept, continued, shared; the table is their figures."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from made import SMALL, make_faces, read_labels, write_labels
from sklearn import metrics as sk

from aescli.ablation.run import KEY, STUDY, Settings, _changed, run_study
from aescli.ablation.studies import STUDIES, Study, Variant
from aescli.ablation.table import CSV, MARKDOWN
from aescli.errors import AesError, UsageError
from aescli.training.trainer import STATE, Trainer

# Two of the modules' rows and the single-task reference are enough to exercise all of the loop.
FEW = replace(
    STUDIES["modules"],
    variants=tuple(v for v in STUDIES["modules"].variants if v.name in
                   ("single-classification", "single-regression", "multi-b", "multi-b+s")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return make_faces(tmp_path_factory.mktemp("faces"))


def _settings(faces, out, *changes, **options):
    return Settings("momamba-frozen", (*SMALL, *changes), (faces,), None, out, **options)


def _run(study, settings):
    lines = []
    rows = run_study(study, settings, log=lines.append)
    return rows, [
        line for line in lines if line.endswith(("kept", "started", "continued")) or "taken" in line
    ]


@pytest.fixture(scope="module")
def done(faces, tmp_path_factory):
    """A finished study of two folds, its rows and its log."""
    out = tmp_path_factory.mktemp("study")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
    found = _run(FEW, _settings(faces, out, folds=(1, 2)))
    patch.undo()
    return out, *found


def _table(folder):
    with (folder / CSV).open() as file:
        return {(row["row"], row["metric"]): row for row in csv.DictReader(file)}


def test_the_table_holds_what_the_predictions_give(done):
    out, _, lines = done
    assert [line.split(": ")[1] for line in lines] == ["started"] * 8
    table = _table(out)
    for fold in (1, 2):
        tested = json.loads((out / "multi-b+s" / f"fold{fold}" / "test_scut-fbp5500.json").read_text())
        truth = np.array([row["score"] for row in tested])
        predicted = np.array([row["heads"][0] for row in tested])
        p = np.array([row["probabilities"] for row in tested])
        classes = np.clip(np.floor(truth + 0.5) - 1, 0, 4).astype(int)
        expected = {
            "PLCC": np.corrcoef(truth, predicted)[0, 1],
            "MAE": sk.mean_absolute_error(truth, predicted),
            "RMSE": sk.mean_squared_error(truth, predicted) ** 0.5,
            "R2": sk.r2_score(truth, predicted),
            "ACC": sk.accuracy_score(classes, p.argmax(1)),
            "F1": sk.f1_score(classes, p.argmax(1), average="weighted", zero_division=0),
            "AP": sum(sk.average_precision_score(classes == c, p[:, c]) * (classes == c).mean()
                      for c in np.unique(classes)),
        }  # fmt: skip
        for metric, value in expected.items():
            got = float(table["multi-task B+S", metric][f"fold_{fold}"])
            assert got == pytest.approx(value, abs=1e-9), metric
    cell = table["multi-task B+S", "MAE"]
    values = [float(cell[f"fold_{fold}"]) for fold in (1, 2)]
    assert float(cell["mean"]) == pytest.approx(np.mean(values))
    assert float(cell["sd"]) == pytest.approx(np.std(values, ddof=1))
    assert float(cell["paper"]) == 0.2311
    other = [float(table["multi-task B", "MAE"][f"fold_{fold}"]) for fold in (1, 2)]
    assert float(cell["difference"]) == pytest.approx(np.mean(values) - np.mean(other))


def test_the_single_task_row_is_one_model_for_each_task_and_what_gains_are_against(done):
    out, rows, _ = done
    table, by_label = _table(out), {row.label: row for row in rows}
    for metric, name in (("ACC", "single-classification"), ("MAE", "single-regression")):
        kind = "classes" if metric == "ACC" else "score"
        own = json.loads((out / name / "fold1" / "checkpoint" / "metrics.json").read_text())
        assert float(table["single-task B", metric]["fold_1"]) == own["scut-fbp5500"][kind][metric]
    single, multi = by_label["single-task B"].folds["1"], by_label["multi-task B"].folds["1"]
    if min(single[m] for m in ("ACC", "F1", "AP", "PLCC", "R2")) > 0:
        gain = np.mean([multi[m] / single[m] - 1 for m in ("ACC", "F1", "AP")])
        score = [multi[m] / single[m] - 1 for m in ("PLCC", "R2")]
        score += [single[m] / multi[m] - 1 for m in ("MAE", "RMSE")]
        assert multi["delta_m"] == pytest.approx(50 * (gain + np.mean(score)))
    else:
        assert math.isnan(multi["delta_m"])


def test_published_rows_of_this_data_set_stand_beside(done):
    out, *_ = done
    text = (out / MARKDOWN).read_text()
    assert "| multi-task B+S |" in text
    assert "(.8989)" in text.replace("(0.8989)", "(.8989)")
    assert "| multi-task B+D+S | – (78.36)" in text  # not run here: only cited
    assert "95 % interval" in text
    described = json.loads((out / STUDY).read_text())
    assert described["study"] == "modules"
    assert described["datasets"] == {"scut-fbp5500": 40}


def test_a_plot_is_drawn_where_matplotlib_is(done):
    pytest.importorskip("matplotlib")
    out, *_ = done
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "plot.svg").read_text()
    assert not list(out.glob(".plot*")), "staging files are gone"


def test_features_of_the_frozen_encoder_are_gone_unless_asked_for(done, faces, tmp_path):
    out, *_ = done
    assert not (out / "features").exists()
    only = replace(FEW, variants=FEW.variants[2:3])
    _run(only, _settings(faces, tmp_path / "run", folds=(1,), features=tmp_path / "features"))
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_finished_runs_are_kept_and_new_folds_added(done, faces):
    out, *_ = done
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/checkpoint/model.safetensors")}
    assert len(before) == 8
    rows, lines = _run(FEW, _settings(faces, out, folds=(1, 2, 3)))
    assert sum(line.endswith("kept") for line in lines) == 8
    assert sum(line.endswith("started") for line in lines) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert set(rows[0].folds) == {"1", "2", "3"}


def test_a_run_of_another_preset_or_data_is_never_taken_for_this_one(done, faces, tmp_path):
    out, *_ = done
    with pytest.raises(
        AesError, match=r"single-classification, 1: .*another preset or data; choose another --out"
    ):
        _run(FEW, _settings(faces, out, "train.lr=1e-3", folds=(1,)))
    other = tmp_path / "relabelled"
    other.mkdir()
    (other / "images").symlink_to(faces / "images")
    rows = read_labels(faces)
    rows[0][1] = "3.3"
    write_labels(other, rows)
    with pytest.raises(AesError, match="another preset or data"):
        _run(FEW, _settings(other, out, folds=(1,)))


def test_finished_runs_of_another_study_are_reused(done, faces, tmp_path):
    out, rows, _ = done
    same = Study(
        "x", "again", "momamba", (Variant("b", "multi-task B", FEW.variants[2].changes),), FEW.columns
    )
    again, lines = _run(same, _settings(faces, tmp_path / "x", folds=(1,), reuse=(out,)))
    assert len(lines) == 1
    assert "taken from" in lines[0]
    was = next(row for row in rows if row.label == "multi-task B").folds["1"]
    assert all(value == was[metric] for metric, value in again[0].folds["1"].items() if metric != "delta_m")
    assert (tmp_path / "x" / "b" / "fold1" / KEY).is_file()


def test_an_interrupted_run_is_continued_to_the_same_figures(done, faces, tmp_path, monkeypatch):
    out, *_ = done
    real = Trainer._save

    def save_then_die(self, record):
        real(self, record)
        raise KeyboardInterrupt

    only = replace(FEW, variants=FEW.variants[3:])
    settings = _settings(faces, tmp_path, folds=(1,))
    monkeypatch.setattr(Trainer, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        _run(only, settings)
    assert (tmp_path / "multi-b+s" / "fold1" / STATE).is_file()
    monkeypatch.setattr(Trainer, "_save", real)
    rows, lines = _run(only, settings)
    assert lines == ["multi-b+s/fold1: continued"]
    was = _table(out)
    for metric, value in rows[0].folds["1"].items():
        if ("multi-task B+S", metric) in was and metric != "delta_m":
            assert value == pytest.approx(float(was["multi-task B+S", metric]["fold_1"]), abs=1e-12)


def test_test_labels_change_no_prediction(done, faces, tmp_path):
    out, *_ = done
    other = tmp_path / "shuffled"
    other.mkdir()
    (other / "images").symlink_to(faces / "images")
    rows = read_labels(faces)
    test = [row for row in rows if row[3] == "1"]
    scores = [row[1] for row in test]
    for row, score in zip(test, scores[3:] + scores[:3], strict=True):
        row[1] = score
    write_labels(other, rows)
    only = replace(FEW, variants=FEW.variants[3:])
    _run(only, _settings(other, tmp_path / "run", folds=(1,)))
    a, b = (
        json.loads((folder / "multi-b+s" / "fold1" / "test_scut-fbp5500.json").read_text())
        for folder in (out, tmp_path / "run")
    )
    assert [row["heads"] for row in a] == [row["heads"] for row in b]
    assert [row["probabilities"] for row in a] == [row["probabilities"] for row in b]
    assert [row["score"] for row in a] != [row["score"] for row in b]


def test_groups_learn_from_one_group_and_are_tested_on_each(faces, tmp_path):
    rows, _ = _run(STUDIES["groups"], _settings(faces, tmp_path, folds=(1,)))
    labels = [row.label for row in rows]
    assert labels == ["female on female", "female on male", "male on female", "male on male"]
    assert rows[0].paper["PLCC"] == 0.8936
    assert not rows[1].paper
    groups = {row[0]: "female" if row[2] in ("AF", "CF") else "male" for row in read_labels(faces)}
    for group in ("female", "male"):
        folder = tmp_path / f"group-{group}" / "fold1"
        for part in ("female", "male"):
            tested = json.loads((folder / f"test_{part}.json").read_text())
            assert {groups[row["name"]] for row in tested} == {part}
        own = sum(value == group for value in groups.values())
        run = json.loads((folder / "run.json").read_text())
        assert run["train"] == own - run["test"][group]
    own = json.loads((tmp_path / "group-male" / "fold1" / "checkpoint" / "metrics.json").read_text())
    assert rows[3].folds["1"]["MAE"] == own["male"]["score"]["MAE"]


def test_groups_need_labels_that_name_them(faces, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "images").mkdir()
    rows = []
    for i, row in enumerate(read_labels(faces)):
        (plain / "images" / f"{i}.png").write_bytes((faces / "images" / row[0]).read_bytes())
        rows.append((f"{i}.png", row[1]))
    with (plain / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "rating"), *rows])
    with pytest.raises(UsageError, match="say nothing in 'sex'; two groups are needed"):
        _run(STUDIES["groups"], _settings(plain / "labels.csv", tmp_path / "run", folds=(1,)))


def test_an_impossible_fold_is_refused_before_anything_runs(faces, tmp_path):
    with pytest.raises(UsageError, match="--folds 9: the folds of scut-fbp5500 are 1 to 5"):
        _run(FEW, _settings(faces, tmp_path / "run", folds=(1, 9)))
    assert not (tmp_path / "run").exists()


def test_keys_name_what_differs_from_the_defaults_only():
    plain = {"a": 1, "inner": {"x": 1, "y": [1, 2]}, "whole": {"z": 1}}
    values = {"a": 1, "inner": {"x": 2, "y": [1, 2]}, "whole": {"z": 1}, "more": None}
    assert _changed(values, plain) == {"inner": {"x": 2}, "more": None}
