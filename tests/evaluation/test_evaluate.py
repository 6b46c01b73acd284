"""Predictions joined to labels, scales, subsets, training overlap: on files that the tests make."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aescli.data.datasets import read_dataset
from aescli.data.hashing import content_hash, perceptual_hash
from aescli.data.images import load_image
from aescli.errors import AesError, UsageError
from aescli.evaluation import tables
from aescli.evaluation.class_columns import settle_classes
from aescli.evaluation.evaluate import evaluate
from aescli.evaluation.metrics import regression_metrics
from aescli.evaluation.overlap import Overlap, find_overlap, parse_hashes
from aescli.evaluation.predictions import PredictedRow, PredictedRows, join, read_predictions


def labels(folder: Path, rows: list[str], header: str = "image,score,place") -> Path:
    path = folder / "labels.csv"
    path.write_text(header + "\n" + "".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def dataset_of(folder: Path, scores: dict[str, float], scale=(1, 5), places="xy"):
    path = labels(folder, [f"{n},{s},{places[i % len(places)]}" for i, (n, s) in enumerate(scores.items())])
    return read_dataset("csv", path, match_images=False, scale=scale)


def predictions_of(scores: dict[str, float | None], scale=(1.0, 5.0)) -> PredictedRows:
    rows = [
        PredictedRow(path, score, error="" if score is not None else "broken")
        for path, score in scores.items()
    ]
    return PredictedRows("test", rows, scale)


TRUE = {f"{i}.jpg": 1 + i / 4 for i in range(17)}


# ---------------------------------------------------------------- reading


def test_the_file_of_aes_score(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "path,face_index,face,score,class,class_prob,p_1,p_2,error\n"
        "a.jpg,0,1;2;3;4,2.5000,2,0.6000,0.4000,0.6000,\n"
        "a.jpg,1,1;2;3;4,1.5000,1,0.7000,0.7000,0.3000,\n"
        "b.jpg,,,,,,,,no face found\n"
    )
    found = read_predictions(path)
    assert found.scale == (1.0, 5.0)
    assert found.notes == []
    assert found.rows[0] == PredictedRow("a.jpg", 2.5, 1, (0.4, 0.6), 0, "", 2)
    assert (found.rows[2].score, found.rows[2].error) == (None, "no face found")
    assert read_predictions(path, scale=(0, 10)).scale == (0, 10)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_other_tools_and_formats(tmp_path, suffix):
    records = [{"file": "a.jpg", "rating": 2.5}, {"file": "b.jpg", "rating": None}]
    path = tmp_path / f"p{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif suffix == ".json":
        path.write_text(json.dumps(records))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        cell = "," if suffix == ".csv" else "\t"
        path.write_text(f"file{cell}rating\na.jpg{cell}2.5\nb.jpg{cell}\n")
    found = read_predictions(path)
    assert [(row.path, row.score) for row in found.rows] == [("a.jpg", 2.5), ("b.jpg", None)]
    assert found.scale is None
    assert "columns 'file' and 'rating'" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "path,score\na.jpg,good\n", r"p\.csv:2: a\.jpg: 'good' is not a score"),
        ("p.csv", "path,score\na.jpg,\n", "holds no scores"),
        ("p.csv", "path,score,p_1\na.jpg,3,\n", "a probability is missing"),
        (
            "p.csv",
            "path,score,p_1,p_2\na.jpg,3,-1,2\n",
            r"p\.csv:2: a\.jpg: p_1 to p_2 must lie between 0 and 1",
        ),
        ("p.csv", "path,score,p_1,p_2\na.jpg,3,0.2,0.2\n", "add up to 1, and are 0.2, 0.2"),
        ("p.csv", "path,score,class\na.jpg,3,2.7\n", r"p\.csv:2: a\.jpg: class 2.7 is not a whole number"),
        ("p.csv", "path,score,x\na.jpg,3\n", r"p\.csv:2: .*2 cells where the first row has 3"),
        ("p.json", "{", "not valid JSON"),
        ("p.json", "[1]", "list of objects"),
        ("p.jsonl", "", "is empty"),
    ],
)
def test_files_that_are_no_predictions(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AesError, match=message):
        read_predictions(tmp_path / name)


def test_classes_from_zero_are_recognised(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("path,score,class\na.jpg,1,0\nb.jpg,5,4\n")
    found = read_predictions(path)
    assert [row.best_class for row in found.rows] == [0, 4]
    assert "counts from 0" in found.notes[-1]


CUTS = (1.5, 2.5, 3.5, 4.5)
P3 = "path,score,class,p_1,p_2,p_3\n"


@pytest.mark.parametrize(
    ("text", "classes", "why"),
    [
        # No picture is of class 0: the probabilities tell, else the scores.
        (P3 + "a,1.1,1,0.2,0.7,0.1\nb,2,2,0,0.3,0.7\n", [1, 2], "0: so 2 of 2 are the most likely"),
        (P3 + "a,1.1,1,0.7,0.2,0.1\nb,2,2,0.1,0.6,0.3\n", [0, 1], "1: so 2 of 2 are the most likely"),
        (P3 + "a,1.1,3,0.7,0.2,0.1\n", [2], "1: it has a class 3"),
        ("path,score,class\na,2.1,1\nb,2.9,2\nc,4.2,3\n", [1, 2, 3], "0: so 3 of 3 classes are those of the"),
        ("path,score,class\na,1.1,1\nb,1.9,2\nc,3.2,3\n", [0, 1, 2], "1: so 3 of 3 classes are those of the"),
        ("path,score,class_prob,error,class\na,2.1,0.5,,1\nb,3,0.5,,2\n", [0, 1], None),  # of aes score
    ],
)
def test_where_classes_count_from_is_told_by_what_stands_beside_them(tmp_path, text, classes, why):
    path = tmp_path / "p.csv"
    path.write_text(text)
    found = settle_classes(read_predictions(path), CUTS)
    assert [row.best_class for row in found.rows] == classes
    said = [note for note in found.notes if "'class' counts from" in note]
    assert [why in note for note in said] == ([] if why is None else [True])


@pytest.mark.parametrize(
    "text",
    [P3 + "a,1.1,1,0.7,0.2,0.1\nb,2,1,0.1,0.6,0.3\n", "path,score,class\na,1.1,1\nb,3.2,2\nc,2,4\nd,2,4\n"],
)
def test_classes_that_fit_neither_way_of_counting_are_refused(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(AesError, match=r"counts from 0 or from 1 cannot be told.*rename the column"):
        settle_classes(read_predictions(tmp_path / "p.csv"), CUTS)


def test_argmax_classes_that_never_are_the_lowest_are_scored_as_they_are_meant(tmp_path):
    """The file of the plainest script: argmax of five classes, none of which is ever 0."""
    dataset = dataset_of(tmp_path, {name: score for name, score in TRUE.items() if score >= 1.5})
    lines = [f"{s.name},{s.score},{int(s.score + 0.5) - 1}" for s in dataset.samples]
    (tmp_path / "p.csv").write_text("file,rating,class\n" + "\n".join(lines) + "\n")
    result = evaluate(read_predictions(tmp_path / "p.csv"), dataset, resamples=0)
    assert result.main.metrics["ACC"].value == 1
    assert any("'class' counts from 0" in note for note in result.notes)
    assert any("equal their labels exactly" in note for note in result.notes)


def test_a_class_that_does_not_exist_is_named_with_its_line(tmp_path):
    dataset = dataset_of(tmp_path, TRUE)
    (tmp_path / "p.csv").write_text("file,rating,class\n0.jpg,1,0\n1.jpg,2,9\n")
    with pytest.raises(AesError, match=r"p\.csv:3: 1\.jpg: class 10, counted from 1, and there are 5"):
        evaluate(read_predictions(tmp_path / "p.csv"), dataset, resamples=0)
    (tmp_path / "p.csv").write_text(P3 + "0.jpg,1,9,0.5,0.5,0\n")
    with pytest.raises(AesError, match=r"p\.csv:2: 0\.jpg: class 9, and there are 3"):
        read_predictions(tmp_path / "p.csv")


def test_counts_become_probabilities_if_every_row_holds_counts(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("path,score,p_1,p_2\na.jpg,3,1,3\nb.jpg,3,0,1\n")
    found = read_predictions(path)
    assert [row.probabilities for row in found.rows] == [(0.25, 0.75), (0, 1)]
    assert "hold counts" in found.notes[-1]
    path.write_text("path,score,p_1,p_2\na.jpg,3,1,3\nb.jpg,3,0.5,0.5\n")
    with pytest.raises(AesError, match=r"p\.csv:2: a\.jpg: p_1 to p_2 must lie between 0 and 1"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,score,pred\na.jpg,3,4\n",
            r"'score' and 'pred' could all be .* --prediction-columns image,pred",
        ),
        ("image,prediction,y_pred\na.jpg,3,4\n", "'prediction' and 'y_pred' could all be the score"),
        ("a.jpg,3\nb.jpg,4\n", r"the first row \(a\.jpg, 3\) holds no column names"),
        ("1,3.5\n2,4\n", "holds no column names"),
        ("image,first,second\na.jpg,3,4\n", "with --prediction-columns IMAGE,SCORE"),
    ],
)
def test_columns_are_not_guessed_where_two_could_be_meant(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(AesError, match=message):
        read_predictions(path)


def test_a_column_called_prediction_is_the_score(tmp_path):
    (tmp_path / "p.csv").write_text("image,pred,seconds\na.jpg,3,40\n")
    assert read_predictions(tmp_path / "p.csv").rows[0].score == 3
    (tmp_path / "p.csv").write_text("image,score,pred\na.jpg,3,40\n")
    assert read_predictions(tmp_path / "p.csv", image_column="image", score_column="pred").rows[0].score == 40


def test_scores_outside_their_scale_are_counted_and_named(tmp_path):
    dataset = dataset_of(tmp_path, {"a.jpg": 2, "b.jpg": 3, "c.jpg": 4})
    result = evaluate(predictions_of({"a.jpg": 50.0, "b.jpg": 3.0, "c.jpg": 100.0}), dataset, resamples=0)
    (note,) = [note for note in result.notes if "outside" in note]
    assert note.startswith("2 of 3 scores of")
    assert "a.jpg 50, c.jpg 100" in note
    with pytest.raises(AesError, match=r"b\.jpg: 1e\+300 is no score on a scale"):
        evaluate(predictions_of({"a.jpg": 2.0, "b.jpg": 1e300, "c.jpg": 4.0}), dataset, resamples=0)


# ---------------------------------------------------------------- joining


def test_join_by_any_spelling_and_name_what_is_left(tmp_path):
    dataset = dataset_of(tmp_path, {"AF1.jpg": 2, "b/AM2.jpg": 3, "CF3.jpg": 4, "CM4.jpg": 5, "d.jpg": 1})
    found = join(
        predictions_of(
            {
                "/abs/fty1.jpg": 2.0,
                "x/b/AM2.jpg": 3.0,
                "p/CF3.jpg": 1.0,
                "q/CF3.jpg": 2.0,
                "d.jpg": None,
                "extra.jpg": 4.0,
            }
        ),
        dataset,
    )
    assert [dataset.samples[i].name for i in found.positions] == ["AF1.jpg", "b/AM2.jpg"]
    assert [row.score for row in found.rows] == [2.0, 3.0]
    assert found.unpredicted == ["CM4.jpg"]
    assert [problem.name for problem in found.unscored] == ["d.jpg"]
    assert len(found.ambiguous) == 1
    assert "CF3.jpg: 2 have this name" in found.ambiguous[0]
    assert set(found.unlabelled) == {"extra.jpg", "p/CF3.jpg", "q/CF3.jpg"}


def test_one_prediction_never_serves_two_labels(tmp_path):
    dataset = dataset_of(tmp_path, {"a/1.jpg": 2, "b/1.jpg": 3, "2.jpg": 4})
    found = join(predictions_of({"1.jpg": 2.0, "2.jpg": 1.0}), dataset)
    assert [dataset.samples[i].name for i in found.positions] == ["2.jpg"]
    assert found.unpredicted + found.ambiguous


def test_predictions_spelt_without_a_suffix_find_their_labels(tmp_path):
    dataset = dataset_of(
        tmp_path, {"AF1.jpg": 2, "b/2.jpg": 3, "c/3.jpg": 4, "4.jpg": 5, "4.png": 1, "5.jpg": 1}
    )
    found = join(predictions_of({"af1": 2.0, "2": 3.0, "c/3": 4.0, "4": 1.0, "5.png": 2.0}), dataset)
    assert [dataset.samples[i].name for i in found.positions] == ["AF1.jpg", "b/2.jpg", "c/3.jpg"]
    assert len(found.ambiguous) == 1
    assert found.unpredicted == ["5.jpg"], "another suffix is another picture"


def test_faces_and_repetitions(tmp_path):
    dataset = dataset_of(tmp_path, {"a.jpg": 2, "b.jpg": 3, "c.jpg": 4})
    rows = [
        PredictedRow("a.jpg", 1.0, face_index=1),
        PredictedRow("a.jpg", 2.0, face_index=0),
        PredictedRow("b.jpg", 3.0),
        PredictedRow("b.jpg", 3.0),
        PredictedRow("c.jpg", 3.0),
        PredictedRow("c.jpg", 4.0),
    ]
    found = join(PredictedRows("t", rows, (1.0, 5.0)), dataset)
    assert [row.score for row in found.rows] == [2.0, 3.0]
    assert found.ambiguous == ["c.jpg: 2 predictions that differ"]
    assert [note.split(":")[0] for note in found.notes] == [
        "1 images have rows for several faces",
        "1 images are predicted twice with the same score",
    ]


def test_the_file_itself_decides_where_names_cannot(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    dataset = read_dataset("csv", labels(tmp_path, ["a/1.png,2,x", "b/1.png,4,x"]), tmp_path, scale=(1, 5))
    (tmp_path / "link").symlink_to(tmp_path / "b")
    paths = {str(tmp_path / "link" / "1.png"): 4.0, str(tmp_path / "a" / "1.png"): 2.0}
    found = join(predictions_of(paths), dataset)
    assert [row.score for row in found.rows] == [2.0, 4.0]


# ---------------------------------------------------------------- evaluating


def test_numbers_are_those_of_the_metrics(tmp_path):
    rng = np.random.default_rng(0)
    pred = {name: float(score + rng.normal(0, 0.3)) for name, score in TRUE.items()}
    result = evaluate(predictions_of(pred), dataset_of(tmp_path, TRUE), resamples=200)
    (subset,) = result.subsets
    assert (subset.name, subset.n) == ("all", 17)
    for name, value in regression_metrics(list(pred.values()), list(TRUE.values())).items():
        estimate = subset.metrics[name]
        assert estimate.value == pytest.approx(value, abs=1e-12)
        assert estimate.low < value < estimate.high
    assert any(
        "predicted classes taken from the scores, cut at 1.5, 2.5, 3.5, 4.5" in n for n in result.notes
    )
    assert math.isnan(subset.metrics["AP"].value)


def test_labels_are_mapped_to_the_predictions_scale(tmp_path):
    ten = dataset_of(tmp_path, {name: 1 + (s - 1) * 9 / 4 for name, s in TRUE.items()}, scale=(1, 10))
    result = evaluate(predictions_of(TRUE), ten, resamples=0)
    assert result.scale == (1.0, 5.0)
    assert result.subsets[0].metrics["MAE"].value == pytest.approx(0, abs=1e-12)
    assert result.subsets[0].metrics["ACC"].value == 1
    assert any("mapped linearly from 1–10 to the predictions' 1–5" in note for note in result.notes)
    unknown = evaluate(predictions_of(TRUE, scale=None), ten, resamples=0)
    assert unknown.scale == (1, 10)
    assert unknown.subsets[0].metrics["MAE"].value > 1
    assert any("taken to be on the labels' scale" in note for note in unknown.notes)


def test_groups_and_gaps(tmp_path):
    pred = {name: score if i % 2 == 0 else score + 0.5 for i, (name, score) in enumerate(TRUE.items())}
    result = evaluate(predictions_of(pred), dataset_of(tmp_path, TRUE), group_by="PLACE", resamples=0)
    assert [(g.name, g.n) for g in result.groups] == [("place=x", 9), ("place=y", 8)]
    gap = result.gaps["MAE"]
    assert (gap.value, gap.largest, gap.smallest) == (pytest.approx(0.5), "place=y", "place=x")
    with pytest.raises(UsageError, match="choose from place"):
        evaluate(predictions_of(pred), dataset_of(tmp_path, TRUE), group_by="sex", resamples=0)


def test_training_images_are_kept_apart_and_named(tmp_path):
    pred = {name: score + 0.5 for name, score in TRUE.items()} | {"0.jpg": 1.0, "1.jpg": 1.25}
    asked = []

    def overlap(measured):
        asked.extend(sample.name for sample in measured.samples)
        return Overlap(same=[0], near=[1])

    result = evaluate(
        predictions_of(pred), dataset_of(tmp_path, TRUE), overlap=overlap, group_by="place", resamples=0
    )
    assert asked == list(TRUE)
    clean, training = result.subsets
    assert (clean.name, clean.n, training.name) == ("clean", 15, "TRAINING DATA")
    assert training.images == ["0.jpg", "1.jpg"]
    assert clean.metrics["MAE"].value == pytest.approx(0.5)
    assert training.metrics["MAE"].value == 0
    assert sum(group.n for group in result.groups) == 15
    assert "2 images (0.jpg, 1.jpg) kept apart" in result.warnings()[0]
    assert any("near-duplicates of training images (1.jpg)" in note for note in result.notes)
    everything = evaluate(
        predictions_of(pred),
        dataset_of(tmp_path, TRUE),
        overlap=lambda d: Overlap(list(range(17)), []),
        resamples=0,
    )
    assert [subset.name for subset in everything.subsets] == ["TRAINING DATA"]


def test_only_the_chosen_images_count_and_are_missed(tmp_path):
    dataset = dataset_of(tmp_path, TRUE)
    pred = {name: score for name, score in TRUE.items() if name not in ("3.jpg", "9.jpg")}
    result = evaluate(predictions_of(pred), dataset, keep=[2, 3, 4], resamples=0)
    assert result.subsets[0].images == ["2.jpg", "4.jpg"]
    assert result.joined.unpredicted == ["3.jpg"]
    assert result.joined.unlabelled == []


def test_class_probabilities_give_ap_and_distributions_give_emd(tmp_path):
    header = "image,score,count_1,count_2,count_3,count_4,count_5"
    path = labels(tmp_path, ["a.jpg,1,9,0,0,0,0", "b.jpg,3,0,0,9,0,0", "c.jpg,5,0,0,0,0,9"], header)
    dataset = read_dataset("csv", path, match_images=False)
    eye = np.eye(5)
    rows = [
        PredictedRow(n, s, None, tuple(eye[k]))
        for n, s, k in (("a.jpg", 1, 0), ("b.jpg", 3, 2), ("c.jpg", 4, 3))
    ]
    result = evaluate(PredictedRows("t", rows, (1.0, 5.0)), dataset, resamples=0)
    metrics = result.subsets[0].metrics
    assert metrics["EMD"].value == pytest.approx((0 + 0 + 0.2) / 3)
    assert metrics["ACC"].value == pytest.approx(2 / 3)
    assert metrics["AP"].value == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_what_is_not_defined_keeps_its_row_and_gets_a_reason(tmp_path):
    dataset = dataset_of(tmp_path, TRUE)
    constant = evaluate(predictions_of(dict.fromkeys(TRUE, 3.0)), dataset, resamples=0)
    assert tables.undefined(constant) == ["PLCC, SRCC, KRCC: not defined, because all predictions are equal"]
    lines = tables.as_table(constant).splitlines()
    assert any(line.split()[:2] == ["SRCC", "–"] for line in lines)
    assert any(line.startswith("– PLCC, SRCC, KRCC") for line in lines)
    assert not any(line.startswith("AP") for line in lines), "without probabilities, as a note says"
    (one,) = tables.undefined(evaluate(predictions_of(TRUE), dataset, keep=[3], resamples=0))
    assert one == "PLCC, SRCC, KRCC, R²: not defined, because there is one image only"
    reverse = evaluate(predictions_of({n: 6 - s for n, s in TRUE.items()}), dataset, resamples=0)
    assert any(line.split()[:2] == ["SRCC", "−1.0000"] for line in tables.as_table(reverse).splitlines())


def test_the_result_says_how_it_was_made(tmp_path):
    result = evaluate(
        predictions_of(TRUE), dataset_of(tmp_path, TRUE), keep=[1, 2, 3], part="fold 2", resamples=20, seed=7,
        overlap=lambda d: Overlap([], []),
    )  # fmt: skip
    made = result.to_dict()["provenance"]
    assert (made["part"], made["resamples"], made["seed"]) == ("fold 2", 20, 7)
    assert made["version"]
    assert made["date"].count("-") == 2
    assert "overlap with training images checked: none found" in result.notes


def test_nothing_to_measure(tmp_path):
    dataset = dataset_of(tmp_path, TRUE)
    with pytest.raises(
        AesError, match=r"no labelled image .* the labels name 0\.jpg, the predictions other\.jpg"
    ):
        evaluate(predictions_of({"other.jpg": 3.0}), dataset)


# ---------------------------------------------------------------- output


def test_outputs(tmp_path):
    pred = {name: score + 0.1 * (i % 3) for i, (name, score) in enumerate(TRUE.items())}
    result = evaluate(
        predictions_of(pred),
        dataset_of(tmp_path, TRUE),
        overlap=lambda d: Overlap([4], []),
        group_by="place",
        resamples=100,
    )
    document = json.loads(tables.as_json(result))
    assert [s["subset"] for s in document["subsets"]] == ["clean", "TRAINING DATA"]
    assert document["subsets"][1]["images"] == ["4.jpg"]
    assert document["subsets"][1]["metrics"]["PLCC"]["value"] is None
    assert document["labels"]["rows"] == 17
    rows = list(csv.DictReader(tables.as_csv(result).splitlines()))
    srcc = next(row for row in rows if (row["subset"], row["metric"]) == ("clean", "SRCC"))
    assert float(srcc["value"]) == result.subsets[0].metrics["SRCC"].value
    assert {row["subset"] for row in rows if row["metric"] == "MAE"} >= {
        "place=x",
        "place=y",
        "TRAINING DATA",
    }
    text = tables.as_table(result)
    assert "clean (n = 16)" in text
    assert "TRAINING DATA (n = 1)" in text
    assert f"{result.subsets[0].metrics['MAE'].value:.4f}" in text
    assert "largest gap" in text
    assert max(map(len, text.splitlines())) <= 118


# ---------------------------------------------------------------- training overlap


def gradient(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    small.resize((80, 80), Image.Resampling.BICUBIC).save(path)
    return path


def test_overlap_by_content_and_by_near_duplicate(tmp_path):
    paths = [gradient(tmp_path / f"{i}.png", i) for i in range(6)]
    again = tmp_path / "again.jpg"
    Image.open(paths[2]).save(again, quality=85)
    (tmp_path / "broken.png").write_bytes(b"x")
    measured = [*paths[3:], paths[0], again, tmp_path / "broken.png", tmp_path / "absent.png"]
    content = [content_hash(path) for path in paths[:3]]
    assert find_overlap(measured, content) == Overlap(same=[3], near=[])
    both = [f"{content_hash(p)}:{int(perceptual_hash(load_image(p, 32).pixels)):016x}" for p in paths[:3]]
    (tmp_path / "broken.png").unlink()
    measured.remove(tmp_path / "broken.png")
    found = find_overlap(measured, both)
    assert found == Overlap(same=[3], near=[4])
    assert found.all == [3, 4]


def test_hash_lists_are_read_strictly():
    content, bits = parse_hashes(["00ff" * 4, "A" * 16 + ":" + "0" * 15 + "7"])
    assert content == {"00ff" * 4, "a" * 16}
    assert bits.tolist() == [7]
    for token in ("12", "g" * 16, "0" * 17, "0" * 16 + ":"):
        with pytest.raises(ValueError, match="not a hash"):
            parse_hashes([token])


# ---------------------------------------------------------------- attributes


def test_attributes_are_measured_each_against_labels_of_its_name(tmp_path):
    data = dataset_of(tmp_path, TRUE, scale=(0, 5))
    random = np.random.default_rng(0)
    given = {s.name: {"color": random.uniform(0, 5), "light": random.uniform(0, 5)} for s in data.samples}
    del given["3.jpg"]["light"]
    data = replace(data, samples=[replace(s, scores=given[s.name]) for s in data.samples])
    said = {name: {"color": random.uniform(1, 5), "light": random.uniform(1, 5), "dof": 2.0} for name in TRUE}
    rows = [PredictedRow(name, score, attributes=said[name]) for name, score in TRUE.items()]
    result = evaluate(PredictedRows("test", rows, (1.0, 5.0)), data, resamples=50)
    assert [(a.name, a.n) for a in result.attributes] == [("color", 17), ("light", 16)]
    for attribute in result.attributes:
        true = [1 + given[n][attribute.name] * 4 / 5 for n in attribute.images]
        expected = regression_metrics([said[n][attribute.name] for n in attribute.images], true)
        for metric, estimate in attribute.metrics.items():
            assert estimate.value == pytest.approx(expected[metric]), metric
        assert attribute.metrics["PLCC"].low < attribute.metrics["PLCC"].high
    assert "not measured, because the labels do not name them: dof" in result.notes
    text = tables.as_table(result)
    assert [line.split()[:2] for line in text.splitlines() if line.startswith(("color", "light"))] == [
        ["color", "17"],
        ["light", "16"],
    ]
    cells = list(csv.DictReader(tables.as_csv(result).splitlines()))
    assert {row["subset"] for row in cells} >= {"attribute color", "attribute light"}
    assert [a["subset"] for a in result.to_dict()["attributes"]] == ["color", "light"]


def test_labels_without_attributes_say_that_the_score_is_measured(tmp_path):
    rows = [PredictedRow(name, score, attributes={"color": 2.0}) for name, score in TRUE.items()]
    result = evaluate(PredictedRows("test", rows, (1.0, 5.0)), dataset_of(tmp_path, TRUE), resamples=0)
    assert result.attributes == []
    assert any("the score alone; the labels have no columns color" in note for note in result.notes)


def test_attributes_of_a_predictions_file_meet_the_tables_further_columns(tmp_path):
    rows = [f"{name},{score},{5 - score / 2},{40 * i}" for i, (name, score) in enumerate(TRUE.items())]
    dataset = read_dataset(
        "csv", labels(tmp_path, rows, "image,score,light,age"), match_images=False, scale=(1, 5)
    )
    ours = "path,face_index,face,score,class,class_prob,light,age,mood,error\n"
    lines = [f"{name},,,{score},1,,{1 + score / 2},3,2,\n" for name, score in TRUE.items()]
    (tmp_path / "p.csv").write_text(ours + "".join(lines))
    result = evaluate(read_predictions(tmp_path / "p.csv"), dataset, resamples=0)
    assert [(a.name, a.n) for a in result.attributes] == [("light", 17)]
    assert result.attributes[0].metrics["SRCC"].value == pytest.approx(-1)
    assert any("lie outside the score's scale of 1–5: age" in note for note in result.notes)
    assert any("the labels do not name them: mood" in note for note in result.notes)

    # Another tool's columns are compared where the labels have them, and not spoken of where not.
    lines = [f"{name},{score},{1 + score / 2},1024\n" for name, score in TRUE.items()]
    (tmp_path / "q.csv").write_text("image,pred,light,width\n" + "".join(lines))
    result = evaluate(read_predictions(tmp_path / "q.csv"), dataset, resamples=0)
    assert [a.name for a in result.attributes] == ["light"]
    assert not any("width" in note for note in result.notes)


@pytest.mark.parametrize("suffix", ["ndjson", "jsonl"])
def test_json_lines_whose_names_hold_odd_line_ends(tmp_path, suffix):
    names = ["a\x85.jpg", "b\u2028.jpg"]
    lines = "".join(json.dumps({"path": name, "score": 2}, ensure_ascii=False) + "\n" for name in names)
    (tmp_path / f"p.{suffix}").write_text(lines, encoding="utf-8", newline="")
    assert [row.path for row in read_predictions(tmp_path / f"p.{suffix}").rows] == names


def test_predictions_saved_again_with_a_decimal_comma(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "path;face_index;score;class;class_prob;p_1;p_2;light;error\na.jpg;0;1,25;1;0,75;0,75;0,25;1,5;\n"
    )
    (row,) = read_predictions(path).rows
    assert (row.score, row.probabilities, row.attributes) == (1.25, (0.75, 0.25), {"light": 1.5})


def test_good_above_must_lie_on_the_scale(tmp_path):
    dataset = dataset_of(tmp_path, TRUE)
    with pytest.raises(UsageError, match="--good-above 9: must lie on the scale 1–5, below its end"):
        evaluate(predictions_of(TRUE), dataset, resamples=0, above=9)


def test_labels_carried_along_in_a_predictions_file_are_no_attributes(tmp_path):
    rows = [f"{name},{score},{1 + i % 3}" for i, (name, score) in enumerate(TRUE.items())]
    dataset = read_dataset(
        "csv", labels(tmp_path, rows, "image,mos,gender"), match_images=False, scale=(1, 5)
    )
    lines = [f"{name},{6 - score},{score},{1 + i % 3}\n" for i, (name, score) in enumerate(TRUE.items())]
    (tmp_path / "p.csv").write_text("image,pred,mos,gender\n" + "".join(lines))
    result = evaluate(
        read_predictions(tmp_path / "p.csv", image_column="image", score_column="pred"), dataset, resamples=0
    )
    assert result.attributes == []
    assert any("columns of the predictions are the labels': mos, gender" in note for note in result.notes)


def test_classes_of_other_boundaries_are_noticed(tmp_path):
    lines = [f"{name},,,{score},{1 + (score > 3)},,\n" for name, score in TRUE.items()]
    (tmp_path / "p.csv").write_text("path,face_index,face,score,class,class_prob,error\n" + "".join(lines))
    told = "the column 'class' has other boundaries than"
    for cuts, wrong in ((None, True), ((3.0,), False)):
        result = evaluate(
            read_predictions(tmp_path / "p.csv"), dataset_of(tmp_path, TRUE), resamples=0, cuts=cuts
        )
        assert any(told in note for note in result.notes) == wrong
