"""Readers: official formats written by hand, everything that does not fit is named, nothing disappears."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aescli.data.datasets import read_dataset
from aescli.data.datasets.index import ImageIndex, NameIndex
from aescli.data.datasets.ratings import read_ratings
from aescli.data.datasets.scut import spellings
from aescli.data.labels import CLASS_CUTS, class_cuts, map_scale, score_to_class
from aescli.errors import AesError, UsageError

REAL = os.environ.get("AESCLI_DATA")


def picture(path: Path, colour: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, colour, colour)).save(path)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def scores(dataset) -> dict[str, float]:
    return {sample.name: sample.score for sample in dataset.samples}


# ---------------------------------------------------------------- SCUT-FBP5500, labels.csv


def test_scut_labels_csv(tmp_path):
    for name in ("AF1.jpg", "AM2.jpg", "CF3.jpg"):
        picture(tmp_path / "images" / name)
    write(
        tmp_path / "labels.csv",
        "image,score,group,fold,split6040\nAF1.jpg,2.883333,AF,1,test\nAM2.jpg,1.5,AM,2,train\nCF3.jpg,4,CF,5,train\n",
    )
    dataset = read_dataset("auto", tmp_path)
    assert (dataset.name, dataset.scale, len(dataset)) == ("scut-fbp5500", (1.0, 5.0), 3)
    first = dataset.samples[0]
    assert first.path == tmp_path / "images" / "AF1.jpg"
    assert (first.name, first.score, first.fold, first.split) == ("AF1.jpg", 2.883333, 1, "test")
    assert first.group == {"group": "AF", "sex": "female", "ethnicity": "asian"}
    assert dataset.notes.clean
    assert dataset.notes.score_range == (1.5, 4.0)
    assert read_dataset("auto", tmp_path / "labels.csv").samples == dataset.samples


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AF437.jpg", "fty437.jpg"),
        ("AM1.jpg", "mty1.jpg"),
        ("CF7.png", "ftw7.png"),
        ("x/CM9.jpg", "x/mtw9.jpg"),
    ],
)
def test_both_naming_schemes(old, new):
    assert spellings(old) == (old, new)
    assert spellings(new) == (new, old)
    assert spellings("face.jpg") == ("face.jpg",)


@pytest.mark.parametrize("on_disk", ["AF1.jpg", "fty1.jpg"])
@pytest.mark.parametrize("in_label", ["AF1.jpg", "fty1.jpg"])
def test_labels_and_files_may_use_either_scheme(tmp_path, on_disk, in_label):
    picture(tmp_path / "images" / on_disk)
    write(tmp_path / "labels.csv", f"image,score,group,fold,split6040\n{in_label},3,AF,1,test\n")
    sample = read_dataset("auto", tmp_path).samples[0]
    assert sample.path.name == on_disk
    assert sample.group["group"] == "AF"


def test_everything_that_does_not_fit_is_named(tmp_path):
    for i in (1, 2, 3, 4, 5, 9):
        picture(tmp_path / "images" / f"AF{i}.jpg")
    rows = [
        "AF1.jpg,3.0,AF,1,test",
        "AF2.jpg,5.5,AF,1,test",  # line 3: out of range
        "AF3.jpg,high,AF,1,test",  # line 4: not a number
        "AF4.jpg,,AF,1,test",  # line 5: empty
        "AF5.jpg,nan,AF,1,test",  # line 6: not finite
        "AF6.jpg,2.0,AF,1,test",  # line 7: no image
        "AF1.jpg,3.5,AF,1,test",  # line 8: repeated, another score
        "fty1.jpg,3.0,AF,1,test",  # line 9: the same picture under its other name
        "AF9.jpg,3,AF",  # line 10: cells missing
    ]
    write(tmp_path / "labels.csv", "image,score,group,fold,split6040\n" + "\n".join(rows) + "\n")
    dataset = read_dataset("auto", tmp_path)
    report = dataset.notes
    assert scores(dataset) == {"AF1.jpg": 3.0}
    assert sorted(problem.line for problem in report.bad) == [3, 4, 5, 6, 10]
    assert [(p.line, p.name) for p in report.missing] == [(7, "AF6.jpg")]
    assert [(p.line, p.name) for p in report.duplicates] == [(8, "AF1.jpg"), (9, "fty1.jpg")]
    assert "score 3.5, there 3.0" in report.duplicates[0].reason
    assert report.unlabelled == ["AF9.jpg"]
    assert report.rows == len(rows)
    assert report.rows == report.usable + len(report.bad) + len(report.missing) + len(report.duplicates)
    text = "\n".join(report.lines())
    for part in (
        "9 label rows, 1 usable",
        "labels.csv:3: AF2.jpg",
        "5.5 lies outside 1 to 5",
        "'high'",
        "AF6.jpg",
    ):
        assert part in text
    assert report.to_dict()["unlabelled"] == ["AF9.jpg"]


def test_a_repeated_image_whose_first_row_is_broken_keeps_the_good_row(tmp_path):
    picture(tmp_path / "images" / "AF1.jpg")
    write(tmp_path / "labels.csv", "image,score,fold,split6040\nAF1.jpg,?,1,test\nAF1.jpg,2.5,1,test\n")
    dataset = read_dataset("auto", tmp_path)
    assert scores(dataset) == {"AF1.jpg": 2.5}
    assert [p.line for p in dataset.notes.bad] == [2]


def test_group_that_contradicts_the_name_is_reported(tmp_path):
    write(
        tmp_path / "labels.csv",
        "image,score,group,fold,split6040\nAF1.jpg,3,CM,1,test\nAF2.jpg,3,AF,x,test\nAF3.jpg,3,AF,2,\n",
    )
    dataset = read_dataset("auto", tmp_path, match_images=False)
    assert scores(dataset) == {"AF3.jpg": 3.0}
    assert [p.line for p in dataset.notes.bad] == [2, 3]


# ---------------------------------------------------------------- SCUT-FBP5500, official lists

LABELS = {
    f"{group}{i}.jpg": 1 + (3 * k + i) % 17 / 4
    for k, group in enumerate(("AF", "AM", "CF", "CM"))
    for i in range(1, 6)
}


def official(folder: Path, *, nested: bool, rename=lambda name: name, folds: int = 5) -> Path:
    """`train_test_files` as published: five folds of lists "AF437.jpg 2.883333" and the 60/40 lists."""
    lists = folder / "train_test_files"
    names = list(LABELS)

    def listing(path, members):
        write(path, "".join(f"{rename(n)} {LABELS[n]:.6f}\n" for n in members))

    for k in range(1, folds + 1):
        parent = lists / "5_folders_cross_validations_files" / f"cross_validation_{k}" if nested else lists
        listing(parent / f"test_{k}.txt", names[k - 1 :: 5])
        listing(parent / f"train_{k}.txt", [n for n in names if n not in names[k - 1 :: 5]])
    split = lists / "split_of_60%training and 40%testing"
    listing(split / "train.txt", names[:12])
    listing(split / "test.txt", names[12:])
    for name in names:
        picture(folder / "Images" / name)
    return folder


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("new_names", [True, False])
def test_official_lists(tmp_path, nested, new_names):
    official(tmp_path, nested=nested, rename=lambda n: spellings(n)[1] if new_names else n)
    for data in (tmp_path, tmp_path / "train_test_files"):
        dataset = read_dataset("auto", data)
        assert dataset.name == "scut-fbp5500"
        assert dataset.notes.clean, dataset.notes.lines()
        assert not dataset.notes.notes
        names = list(LABELS)
        assert len(dataset) == len(names)
        for sample in dataset.samples:
            own = sample.path.name
            assert sample.score == pytest.approx(LABELS[own], abs=1e-6)
            assert sample.fold == names.index(own) % 5 + 1
            assert sample.split == ("train" if names.index(own) < 12 else "test")


def test_official_lists_that_mix_the_schemes_are_one_image(tmp_path):
    official(tmp_path, nested=True)
    path = next(tmp_path.rglob("train_2.txt"))
    path.write_text(path.read_text().replace("AF1.jpg", "fty1.jpg"))
    assert len(read_dataset("auto", tmp_path)) == len(LABELS)


def test_official_inconsistencies_are_reported_or_refused(tmp_path):
    official(tmp_path, nested=False)
    lists = tmp_path / "train_test_files"
    train = lists / "train_3.txt"
    train.write_text(train.read_text().replace("AF1.jpg 1.250000", "AF1.jpg 4.500000") + "AF5.jpg\n")
    dataset = read_dataset("auto", tmp_path)
    text = "\n".join(dataset.notes.lines(99))
    assert "score 4.500000, but 1.250000" in text
    assert "train_3.txt" in text
    assert len(dataset) == len(LABELS)

    test = lists / "test_3.txt"
    test.write_text(test.read_text() + "AF1.jpg 1.250000\n")
    with pytest.raises(AesError, match=r"AF1\.jpg.*both lists of fold 3"):
        read_dataset("auto", tmp_path)
    test.unlink()
    with pytest.raises(AesError, match=r"no test_3\.txt"):
        read_dataset("auto", tmp_path)


def test_a_single_list_file(tmp_path):
    picture(tmp_path / "images" / "AF1.jpg")
    picture(tmp_path / "images" / "AF2.jpg")
    write(tmp_path / "train_1.txt", "AF1.jpg 2.883333\nAF2.jpg 3.1\n")
    dataset = read_dataset("auto", tmp_path / "train_1.txt")
    assert scores(dataset) == {"AF1.jpg": 2.883333, "AF2.jpg": 3.1}


# ---------------------------------------------------------------- SCUT-FBP


def test_scut_fbp_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="the xlsx extra is not installed")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Image", "Attractiveness label", "Standard Deviation"])
    for row in ([1, 2.2571, 0.87], [2, 4.3, 0.5], [3, 7.0, 0.5], [4, None, 0.5]):
        sheet.append(row)
    (tmp_path / "Rating_Collection").mkdir()
    book.save(tmp_path / "Rating_Collection" / "Attractiveness label.xlsx")
    for i in (1, 2, 3, 4):
        picture(tmp_path / "Data_Collection" / f"SCUT-FBP-{i}.jpg")
    dataset = read_dataset("auto", tmp_path)
    assert dataset.name == "scut-fbp"
    assert scores(dataset) == {"SCUT-FBP-1.jpg": 2.2571, "SCUT-FBP-2.jpg": 4.3}
    assert dataset.samples[0].std == 0.87
    assert [(p.line, p.name) for p in dataset.notes.bad] == [(5, "SCUT-FBP-4.jpg"), (4, "SCUT-FBP-3.jpg")]


def test_a_workbook_that_is_none_is_a_clear_error(tmp_path):
    pytest.importorskip("openpyxl", reason="the xlsx extra is not installed")
    path = write(tmp_path / "Attractiveness label.xlsx", "not a zip")
    with pytest.raises(AesError, match="cannot be read as a workbook"):
        read_dataset("auto", path)


# ---------------------------------------------------------------- MEBeauty

MEBEAUTY = """file,crop,original,split,mean,std,count,sex,ethnicity
female/asian/13.jpg,crops/female/asian/13.jpg,,train,6.0294,1.487,34,female,asian
male/asian/13.jpg,crops/male/asian/13.jpg,originals/male/asian/13.jpg,val,3.5,1.2,12,male,asian
male/indian/10.jpg,,,train,7.2777,1.88,33,male,indian
"""


def mebeauty(folder: Path) -> Path:
    write(folder / "labels.csv", MEBEAUTY)
    picture(folder / "crops/female/asian/13.jpg")
    picture(folder / "crops/male/asian/13.jpg")
    picture(folder / "originals/male/asian/13.jpg")
    return folder


def test_mebeauty_crops_and_originals(tmp_path):
    mebeauty(tmp_path)
    crops = read_dataset("auto", tmp_path)
    assert (crops.name, crops.scale) == ("mebeauty", (1.0, 10.0))
    assert [s.path for s in crops.samples] == [
        tmp_path / "crops/female/asian/13.jpg",
        tmp_path / "crops/male/asian/13.jpg",
    ]
    first = crops.samples[0]
    assert (first.n_ratings, first.std, first.split) == (34, 1.487, "train")
    assert first.group == {"sex": "female", "ethnicity": "asian"}
    assert [p.name for p in crops.notes.missing] == ["male/indian/10.jpg"]
    assert not crops.notes.unlabelled
    originals = read_dataset("auto", tmp_path, variant="originals")
    assert [s.path for s in originals.samples] == [tmp_path / "originals/male/asian/13.jpg"]
    assert len(originals.notes.missing) == 2


def test_mebeauty_never_takes_another_folders_file_of_the_same_name(tmp_path):
    mebeauty(tmp_path)
    (tmp_path / "crops/female/asian/13.jpg").unlink()
    dataset = read_dataset("auto", tmp_path)
    assert [s.name for s in dataset.samples] == ["male/asian/13.jpg"]


# ---------------------------------------------------------------- any table


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_encodings_and_quotes(tmp_path, delimiter, encoding, end):
    rows = [["Photo", "MOS", "place"], ['"é, a.jpg"', "2.5", '"Köln; ""Dom"""'], ["b.jpg", "3.5", "x"]]
    text = end.join(delimiter.join(row) for row in rows) + end
    path = write(tmp_path / "t.csv", text, encoding)
    dataset = read_dataset("auto", path, match_images=False)
    assert scores(dataset) == {"é, a.jpg": 2.5, "b.jpg": 3.5}
    assert dataset.samples[0].group["place"] == 'Köln; "Dom"'
    assert dataset.scale == (1.0, 5.0)
    assert any("scale 1 to 5 assumed" in note for note in dataset.notes.notes)


def test_decimal_commas_of_semicolon_files(tmp_path):
    path = write(tmp_path / "t.csv", "sep=;\nimage;score\na.jpg;2,5\nb.jpg;x\n")
    dataset = read_dataset("auto", path, match_images=False)
    assert scores(dataset) == {"a.jpg": 2.5}
    assert dataset.notes.bad[0].line == 4


def test_line_numbers_count_lines_inside_quotes(tmp_path):
    path = write(tmp_path / "t.csv", 'image,score,comment\na.jpg,3,"one\ntwo"\n\nb.jpg,oops,\n')
    assert [p.line for p in read_dataset("csv", path, match_images=False).notes.bad] == [5]


def test_columns_by_name_and_a_second_score(tmp_path):
    path = write(tmp_path / "t.csv", "nr,pic,beauty2,light\n1,a.jpg,3,0.5\n2,b.jpg,4,\n")
    dataset = read_dataset(
        "auto", path, match_images=False, image_column="PIC", score_columns=["beauty2", "light"], scale=(0, 7)
    )
    assert dataset.scale == (0, 7)
    assert [s.scores for s in dataset.samples] == [{"beauty2": 3, "light": 0.5}, {"beauty2": 4}]
    assert dataset.samples[0].group == {"nr": "1"}
    with pytest.raises(AesError, match=r"no column 'beuty2' \(did you mean 'beauty2'\?\)"):
        read_dataset("csv", path, match_images=False, score_columns=["beuty2"])


def test_further_columns_of_numbers_are_scores_too(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "image;score;light;mood;camera;fold;std;count;age\n"
        "a.jpg;3;1,5;;X100;1;0,5;9;31\nb.jpg;4;2,5;2;GR;2;0,5;9;\nc.jpg;5;;4;7;1;0,5;9;50\n",
    )
    dataset = read_dataset("csv", path, match_images=False)
    assert [s.scores for s in dataset.samples] == [
        {"score": 3, "light": 1.5, "age": 31},
        {"score": 4, "light": 2.5, "mood": 2},
        {"score": 5, "mood": 4, "age": 50},
    ]
    assert dataset.samples[0].group["light"] == "1,5"  # and still a column to group by
    only = read_dataset(
        "csv", write(tmp_path / "u.csv", "image,score,place\na.jpg,3,x\n"), match_images=False
    )
    assert only.samples[0].scores == {}


def test_ambiguous_score_columns_ask(tmp_path):
    path = write(tmp_path / "t.csv", "image,u,v\na.jpg,1,2\n")
    with pytest.raises(AesError, match=r"u, v.*--score-column"):
        read_dataset("csv", path, match_images=False)


def test_a_file_without_a_header(tmp_path):
    path = write(tmp_path / "t.csv", "a.jpg,0.25\nb.jpg,0.75\n")
    dataset = read_dataset("auto", path, match_images=False)
    assert scores(dataset) == {"a.jpg": 0.25, "b.jpg": 0.75}
    assert dataset.scale == (0.0, 1.0)


def test_distributions_and_counts(tmp_path):
    path = write(
        tmp_path / "t.csv", "file,mos,n,count_1,count_2,count_3,fold,split\na.png,2.5,4,0,2,2,2,val\n"
    )
    sample = read_dataset("auto", path, match_images=False).samples[0]
    assert (sample.counts, sample.n_ratings, sample.fold, sample.split) == ((0.0, 2.0, 2.0), 4, 2, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("image,score\n", "holds no labels"),
        ("image,image,score\na.jpg,b.jpg,1\n", "two columns called 'image'"),
        ("image,score\na.jpg,?\n", "none of the 1 labels"),
        ("a\0b", "not a text file"),
    ],
)
def test_unusable_files_are_clear_errors(tmp_path, text, message):
    with pytest.raises(AesError, match=message):
        read_dataset("csv", write(tmp_path / "t.csv", text), match_images=False)


def test_wrong_arguments(tmp_path):
    with pytest.raises(AesError, match="does not exist"):
        read_dataset("auto", tmp_path / "none")
    with pytest.raises(UsageError, match="no data set layout"):
        read_dataset("ava9", tmp_path)
    with pytest.raises(AesError, match="no label file"):
        read_dataset("auto", tmp_path)
    path = write(tmp_path / "t.csv", "image,score\na.jpg,1\n")
    with pytest.raises(AesError, match="--images"):
        read_dataset("auto", path, tmp_path / "nowhere")
    with pytest.raises(AesError, match="matches an image"):
        read_dataset("auto", path)
    with pytest.raises(UsageError, match="low < high"):
        read_dataset("auto", path, scale=(5, 1))


# ---------------------------------------------------------------- matching names


def test_image_index_spellings(tmp_path):
    for name in ("a/x.JPG", "b/x.jpg", "b/y.png", "z.jpeg", "e\u0301.jpg", ".hidden.jpg", "notes.txt"):
        (picture if not name.endswith("txt") else write)(
            tmp_path / name, *(["t"] if name.endswith("txt") else [])
        )
    index = ImageIndex(tmp_path)
    assert len(index.files) == 5
    find = lambda *names: index.find(names)[0]  # noqa: E731
    assert find("a/x.jpg") == tmp_path / "a/x.JPG"
    assert find("B/X.jpg") == tmp_path / "b/x.jpg"
    assert find("images/b/x.jpg") == tmp_path / "b/x.jpg"
    assert find("y") == tmp_path / "b/y.png"
    assert find("nope.jpg", "y.png") == tmp_path / "b/y.png"
    assert find("\u00e9.jpg") == tmp_path / "e\u0301.jpg"
    assert find("y.jpg") is None, "another suffix is another file"
    none, why = index.find(["x.jpg"])
    assert none is None
    assert "2 have this name" in why


def test_a_bare_name_that_two_labels_share_decides_nothing():
    index = NameIndex(["13.jpg"])
    index.expect(["a/13.jpg", "b/13.jpg"])
    assert index.find(["a/13.jpg"])[0] is None
    alone = NameIndex(["13.jpg"])
    alone.expect(["a/13.jpg"])
    assert alone.find(["a/13.jpg"])[0] == "13.jpg"


names = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 4)).map(
        lambda t: f"{t[0]}/{t[1]}/{t[2]}.jpg"
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(names, st.sampled_from(["", "./", "/data/set/", "images/"]))
def test_every_name_finds_itself_behind_any_prefix(listed, prefix):
    index = NameIndex([prefix + name for name in listed])
    index.expect(listed)
    for name in listed:
        assert index.find([name]) == (prefix + name, "")
    bare = NameIndex(listed)
    bare.expect([prefix + name for name in listed])
    for name in listed:
        assert bare.find([prefix + name]) == (name, "")


# ---------------------------------------------------------------- classes and scales


@given(st.lists(st.integers(1000, 5000), min_size=1))
def test_scut5500_classes_are_the_rounded_score(thousandths):
    values = np.array(thousandths) / 1000
    expected = np.clip((np.array(thousandths) + 500) // 1000 - 1, 0, 4)
    assert score_to_class(values, CLASS_CUTS["scut-fbp5500"]).tolist() == expected.tolist()


def test_scut_fbp_cuts_lie_in_the_upper_class():
    cuts = CLASS_CUTS["scut-fbp"]
    assert score_to_class([1.0, 1.899, 1.9, 2.6, 3.39, 3.4, 4.2, 5.0], cuts).tolist() == [
        0,
        0,
        1,
        2,
        2,
        3,
        4,
        4,
    ]
    assert score_to_class(np.float32([1.9, 2.6, 3.4, 4.2]), cuts).tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="ascend"):
        score_to_class([1.0], (2, 1))
    with pytest.raises(ValueError, match="not a number"):
        score_to_class([float("nan")], cuts)


def test_scales():
    assert map_scale([1, 5.5, 10], (1, 10), (1, 5)).tolist() == [1, 3, 5]
    assert class_cuts("mebeauty", (1, 10)) == pytest.approx((2.125, 4.375, 6.625, 8.875))
    assert class_cuts("scut-fbp", (1, 5)) == CLASS_CUTS["scut-fbp"]
    with pytest.raises(ValueError, match="low < high"):
        map_scale([1], (1, 1), (0, 1))


# ---------------------------------------------------------------- real data


@pytest.mark.realdata
@pytest.mark.skipif(not REAL, reason="AESCLI_DATA names no data folder")
def test_real_scut_fbp5500():
    dataset = read_dataset("auto", Path(REAL) / "scut-fbp5500")
    assert len(dataset) == 5500
    assert dataset.notes.clean
    assert np.bincount([s.fold for s in dataset.samples]).tolist() == [0, 1100, 1100, 1100, 1100, 1100]
    assert sum(s.split == "train" for s in dataset.samples) == 3300
    assert sum(s.group["group"] == "AF" for s in dataset.samples) == 2000


@pytest.mark.realdata
@pytest.mark.skipif(not REAL, reason="AESCLI_DATA names no data folder")
def test_real_mebeauty():
    crops = read_dataset("auto", Path(REAL) / "mebeauty")
    assert (crops.notes.rows, len(crops)) == (1973, 1852)
    assert len(crops.notes.missing) == 121
    assert [*crops.notes.unlabelled, *crops.notes.bad, *crops.notes.duplicates] == []
    originals = read_dataset("mebeauty", Path(REAL) / "mebeauty", variant="originals")
    assert len(originals) == 400
    assert len({s.name for s in originals.samples} & {s.name for s in crops.samples}) == 376
    ratings = read_ratings("mebeauty", Path(REAL) / "mebeauty" / "ratings.csv", match_images=False)
    assert (len(ratings), ratings.notes.bad) == (48116, [])
    mean = {s.name: s.score for s in crops.samples}
    by_name = {
        ratings.images[i]: ratings.score[ratings.image == i].mean() for i in range(len(ratings.images))
    }
    assert max(abs(by_name[name] - mean[name]) for name in mean) < 1e-9


@pytest.mark.realdata
@pytest.mark.skipif(not REAL, reason="AESCLI_DATA names no data folder")
def test_real_sophoappeal():
    dataset = read_dataset("auto", Path(REAL) / "sophoappeal")
    assert (dataset.name, len(dataset), dataset.scale) == ("sophoappeal", 783, (1.0, 5.0))
    assert dataset.notes.clean
    assert not dataset.notes.notes  # every score is the mean of its votes
    assert all(sum(s.counts) == s.n_ratings and s.group["db"] for s in dataset.samples)


def test_lists_of_train_and_test_in_any_form(tmp_path):
    write(tmp_path / "train.csv", "picture;rating;light\na.jpg;2,5;1\nb.jpg;4;2\n")
    write(tmp_path / "test.csv", "Light,Picture,Rating\n3,c.jpg,9.5\n")
    dataset = read_dataset("auto", tmp_path, match_images=False)
    assert (dataset.name, dataset.scale) == (tmp_path.name, (1.0, 10.0))
    assert [(s.name, s.score, s.split) for s in dataset.samples] == [
        ("a.jpg", 2.5, "train"),
        ("b.jpg", 4, "train"),
        ("c.jpg", 9.5, "test"),
    ]
    assert [s.scores["light"] for s in dataset.samples] == [1, 2, 3]
    write(tmp_path / "test.csv", "picture;marks\nc.jpg;9,5\n")
    with pytest.raises(AesError, match=r"test\.csv has no column 'rating'"):
        read_dataset("auto", tmp_path, match_images=False)


def test_folds_as_pandas_writes_them_and_from_zero(tmp_path):
    path = write(tmp_path / "t.csv", "image,score,fold\na.jpg,1,1.0\nb.jpg,2,2.0\nc.jpg,3,\nd.jpg,4,x\n")
    assert [s.fold for s in read_dataset("csv", path, match_images=False).samples] == [1, 2, None, None]
    path = write(tmp_path / "u.csv", "image,score,fold\na.jpg,1,0\nb.jpg,2,1\nc.jpg,3,2\n")
    dataset = read_dataset("csv", path, match_images=False)
    assert [s.fold for s in dataset.samples] == [1, 2, 3]
    assert any("folds are numbered from 0: here they are 1 to 3" in note for note in dataset.notes.notes)


def test_a_decimal_comma_is_one_in_every_column(tmp_path):
    text = "image;score;std;count;p_1;p_2;p_3\na.jpg;1,5;0,25;8;0,5;0,25;0,25\n"
    (sample,) = read_dataset("csv", write(tmp_path / "t.csv", text), match_images=False).samples
    assert (sample.score, sample.std, sample.n_ratings, sample.counts) == (1.5, 0.25, 8, (0.5, 0.25, 0.25))


def test_one_name_that_is_not_utf_8_does_not_spoil_the_others(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("image,score\nZoë.jpg,1\nŁukasz.jpg,2\n".encode() + b"bad\xff.jpg,3\n")
    assert scores(read_dataset("csv", path, match_images=False)) == {
        "Zoë.jpg": 1,
        "Łukasz.jpg": 2,
        "bad\udcff.jpg": 3,
    }
    path.write_bytes("image,score\nZoë.jpg,1\nÉva.jpg,2\n".encode("cp1252"))
    assert scores(read_dataset("csv", path, match_images=False)) == {"Zoë.jpg": 1, "Éva.jpg": 2}


def test_sparse_columns_are_scores_and_odd_parts_are_named(tmp_path):
    text = "image,score,mood,note,split\na.jpg,1,,1,train\nb.jpg,2,,x,Test \nc.jpg,3,4,2,eval\n"
    dataset = read_dataset("csv", write(tmp_path / "t.csv", text), match_images=False)
    assert [s.scores for s in dataset.samples] == [{"score": 1}, {"score": 2}, {"score": 3, "mood": 4}]
    assert any(
        "parts other than train, val and test, which training takes: eval (1)" in n
        for n in dataset.notes.notes
    )
