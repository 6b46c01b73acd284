"""Readers of the photo benchmarks: small files in each official format, with what real files get wrong."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written import picture, write

from aescli.cli.eval import Layout
from aescli.data.datasets import KINDS, read_dataset
from aescli.data.datasets.parts import Part, find_parts, part_of
from aescli.data.datasets.scored import ATTRIBUTES
from aescli.errors import AesError, UsageError

VOTES = {
    "953619": [0, 1, 5, 17, 38, 36, 15, 6, 5, 1],
    "953958": [10, 7, 15, 26, 26, 21, 10, 8, 1, 2],
    "954184": [0, 0, 4, 8, 41, 56, 10, 3, 4, 0],
}


def mean(votes) -> float:
    return float(np.average(np.arange(1, len(votes) + 1), weights=votes))


def by_name(dataset) -> dict:
    return {sample.name: sample for sample in dataset.samples}


def spaced(votes) -> str:
    return " ".join(map(str, votes))


def ava_text(end: str = "\n") -> str:
    return end.join(f"{i} {x} {spaced(v)} 1 22 1396" for i, (x, v) in enumerate(VOTES.items(), 1)) + end


# ---------------------------------------------------------------- AVA


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
@pytest.mark.parametrize("where", ["image/{}.jpg", "images/a/{}.jpg", "images/{}.png"])
def test_ava_text(tmp_path, encoding, end, where):
    write(tmp_path / "AVA.txt", ava_text(end), encoding)
    for name in VOTES:
        picture(tmp_path / where.format(name))
    dataset = read_dataset("auto", tmp_path)
    assert (dataset.name, dataset.scale) == ("ava", (1.0, 10.0))
    assert dataset.notes.clean
    assert dataset.notes.rows == 3
    for image, votes in VOTES.items():
        sample = by_name(dataset)[f"{image}.jpg"]
        assert sample.path == tmp_path / where.format(image)
        assert sample.score == pytest.approx(mean(votes), rel=1e-14)
        steps = np.repeat(np.arange(1, 11), votes)
        assert sample.std == pytest.approx(steps.std(), rel=1e-12)
        assert (sample.counts, sample.n_ratings) == (tuple(votes), sum(votes))
        assert sample.group == {"tag_1": "1", "tag_2": "22", "challenge": "1396"}


def test_ava_text_broken_lines_are_named(tmp_path):
    lines = ava_text().splitlines()
    lines[1:1] = [
        "2 953 0 1 5",  # line 2: cut off
        "3 954000 0 1 x 17 38 36 15 6 5 1 0 0 9",  # line 3: no count
        "4 954001 0 0 0 0 0 0 0 0 0 0 0 0 9",  # line 4: nobody voted
        "5 954002 0 -1 5 17 38 36 15 6 5 1 0 0 9",  # line 5: negative
        "6 photo 0 1 5 17 38 36 15 6 5 1 0 0 9",  # line 6: no id
        "7 954003 0 nan 5 17 38 36 15 6 5 1 0 0 9",  # line 7
        lines[0],  # line 8: repeated
    ]
    write(tmp_path / "AVA.txt", "\n".join(lines))
    picture(tmp_path / "images" / "953619.jpg")
    picture(tmp_path / "images" / "1.jpg")
    dataset = read_dataset("auto", tmp_path)
    report = dataset.notes
    assert [s.name for s in dataset.samples] == ["953619.jpg"]
    assert [p.line for p in report.bad] == [2, 3, 4, 5, 6, 7]
    assert [(p.line, p.name) for p in report.duplicates] == [(8, "953619.jpg")]
    assert [p.name for p in report.missing] == ["953958.jpg", "954184.jpg"]
    assert report.unlabelled == ["1.jpg"]
    assert report.rows == 10 == report.usable + len(report.bad) + len(report.missing) + len(report.duplicates)


def test_ava_json(tmp_path):
    entries = [{"image_id": x, "label": v} for x, v in VOTES.items()]
    entries[0]["image_id"] = int(entries[0]["image_id"])
    entries[1]["image_id"] += ".jpg"
    entries += [
        {"image_id": "7"},
        {"image_id": "8", "label": [1, 2]},
        5,
        {"image_id": "9", "label": [[1]] * 10},
    ]
    write(tmp_path / "labels.json", json.dumps(entries), "utf-8-sig")
    dataset = read_dataset("auto", tmp_path, match_images=False)
    assert dataset.name == "ava"
    assert {s.name: s.score for s in dataset.samples} == {
        f"{x}.jpg": pytest.approx(mean(v)) for x, v in VOTES.items()
    }
    assert [p.name for p in dataset.notes.bad] == ["7", "8.jpg", "", "9.jpg"]
    assert dataset.notes.rows == 7


def test_ava_json_of_probabilities_has_no_number_of_ratings(tmp_path):
    p = [0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]
    path = write(tmp_path / "a.json", json.dumps([{"image_id": "1", "label": p}]))
    sample = read_dataset("auto", path, match_images=False).samples[0]
    assert (sample.n_ratings, sample.score) == (None, pytest.approx(5.5))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ('{"a": 1}', "is not a list"), ("[]", "holds no labels")]
)
def test_a_json_that_is_none_is_a_clear_error(tmp_path, text, message):
    with pytest.raises(AesError, match=message):
        read_dataset("ava", write(tmp_path / "a.json", text), match_images=False)


def test_official_lists_of_train_and_test_are_splits(tmp_path):
    names = list(VOTES)
    for part, members in (("train", names[:2]), ("test", [names[2], names[0]])):
        entries = [{"image_id": x, "label": VOTES[x]} for x in members]
        write(tmp_path / f"ava_labels_{part}.json", json.dumps(entries))
    for name in names:
        picture(tmp_path / "images" / f"{name}.jpg")
    dataset = read_dataset("auto", tmp_path)
    assert [s.split for s in dataset.samples] == ["train", "train", "test"]
    # The image that stands in both lists stays where it was read first, and is named.
    assert [p.name for p in dataset.notes.duplicates] == [f"{names[0]}.jpg"]
    assert "ava_labels_train.json (train), ava_labels_test.json (test)" in dataset.notes.notes[0]


@given(
    st.lists(st.lists(st.integers(0, 400), min_size=10, max_size=10), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_ava_scores_are_the_votes_means(tmp_path_factory, table, rng):
    path = tmp_path_factory.mktemp("ava") / "AVA.txt"
    gap = rng.choice([" ", "  ", "\t"])
    path.write_text(
        "".join(f"{i}{gap}{i}{gap}{gap.join(map(str, v))} 0 0 1\n" for i, v in enumerate(table, 1))
    )
    voted = {f"{i}.jpg": v for i, v in enumerate(table, 1) if sum(v)}
    if not voted:
        with pytest.raises(AesError, match="nobody has voted"):
            read_dataset("ava", path, match_images=False)
        return
    dataset = read_dataset("auto", path, match_images=False)
    assert {s.name: s.score for s in dataset.samples} == {n: pytest.approx(mean(v)) for n, v in voted.items()}
    assert len(dataset.notes.bad) == len(table) - len(voted)


# ---------------------------------------------------------------- comments


def test_ava_captions_join_the_comments_of_an_image(tmp_path):
    a, b, c = (spaced(v) for v in VOTES.values())
    rows = [
        f'953619,{a},"Nice, but ""soft"".\nI like it."',
        f"953958,{b},dull",
        f"953619,{a},Great light",
        f"953619,{a},Great light",  # the same comment again
        f"953619,{b},wrong votes",  # line 7: votes that contradict
        f"954184,{c},",  # line 8: no comment
        f"954184,{c}",  # line 9: cells missing
    ]
    path = write(tmp_path / "captions.csv", "index,label,comment\r\n" + "\r\n".join(rows), "utf-8-sig")
    dataset = read_dataset("auto", path, match_images=False)
    assert dataset.name == "ava-captions"
    assert {s.name: s.comment for s in dataset.samples} == {
        "953619.jpg": 'Nice, but "soft".\nI like it. Great light',
        "953958.jpg": "dull",
        "954184.jpg": None,
    }
    report = dataset.notes
    assert [p.line for p in report.duplicates] == [6, 7]
    assert [p.line for p in report.bad] == [9]
    assert (report.rows, report.usable) == (7, 3)
    text = "\n".join(report.lines())
    assert "1 rows repeat an image with another comment" in text
    assert "1 images have no comment" in text


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_photonet(tmp_path, delimiter):
    rows = [
        ["index", "label", "score", "class"],
        ["11", "0 0 1 3 4 2 0", "4.7", "1"],
        ["12.0", "0,0,0,0,1,0,0", "6", "2"],
    ]
    path = write(tmp_path / "ph.csv", "\n".join(delimiter.join(row) for row in rows))
    picture(tmp_path / "images" / "11.jpg")
    picture(tmp_path / "images" / "12.jpg")
    dataset = read_dataset("auto", path)
    assert (dataset.name, dataset.scale) == ("photonet", (1.0, 7.0))
    first, second = dataset.samples
    assert (first.score, first.counts, first.group) == (
        pytest.approx(4.7),
        (0, 0, 1, 3, 4, 2, 0),
        {"class": "1"},
    )
    assert (second.name, second.score) == ("12.jpg", 5.0)
    # The stated mean of the second contradicts its votes; the votes count.
    assert any("1 scores differ from the mean of their votes" in note for note in dataset.notes.notes)


def test_photonet_captions(tmp_path):
    path = write(tmp_path / "c.csv", "index,label,comment,class\n3,[0 0 1 3 4 2 0],fine,1\n4,1 2 3,bad,0\n")
    dataset = read_dataset("auto", path, match_images=False)
    assert dataset.name == "photonet-captions"
    assert [(s.name, s.comment) for s in dataset.samples] == [("3.jpg", "fine")]
    assert "3 votes, but the scale has 7 steps" in dataset.notes.bad[0].reason


def test_a_quote_that_never_closes_is_explained(tmp_path):
    text = 'index,label,comment\n1,0 0 1 3 4 2 0,"open\n' + "x" * 200_000
    with pytest.raises(AesError, match=r"c\.csv:2: a quote opens here and never closes"):
        read_dataset("photonet-captions", write(tmp_path / "c.csv", text), match_images=False)


# ---------------------------------------------------------------- AADB, TAD66K


@pytest.mark.parametrize(("kind", "column", "high"), [("aadb", "name", 1.0), ("tad66k", "image", 10.0)])
def test_aadb_and_tad66k(tmp_path, kind, column, high):
    home = tmp_path / kind.upper()
    text = f"{column},score\na.jpg,{high / 2}\nb,{high}\nc.jpg,{high * 1.01}\nd.jpg,\n,{high}\n"
    write(home / "train.csv", text)
    write(home / "test.csv", f"{column},score\ne.jpg,0\n")
    for name in ("x/a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"):
        picture(home / "images" / name)
    dataset = read_dataset("auto", home)
    assert (dataset.name, dataset.scale) == (kind, (0.0, high))
    assert [(s.path.name, s.score, s.split) for s in dataset.samples] == [
        ("a.jpg", high / 2, "train"), ("b.jpg", high, "train"), ("e.jpg", 0.0, "test"),
    ]  # fmt: skip
    assert sorted(p.line for p in dataset.notes.bad) == [4, 5, 6]
    assert read_dataset("auto", home / "train.csv").name == kind


@pytest.mark.parametrize("inside", ["labels", "labels/merge"])
@pytest.mark.parametrize("data", ["", "labels"])
def test_tad66k_as_its_repository_lays_it_out(tmp_path, inside, data):
    home = tmp_path / "TAD66K"
    write(home / inside / "train.csv", "image,score\na.jpg,5\n")
    write(home / inside / "test.csv", "image,score\nb.jpg,6\n")
    for name in ("a.jpg", "b.jpg"):
        picture(home / "40K" / name)
    write(home / "README.txt", "The images are in 40K.\n")
    source = home / (inside if data else "")
    dataset = read_dataset("auto", source)
    assert dataset.name == "tad66k"
    assert [(s.path.name, s.split) for s in dataset.samples] == [("a.jpg", "train"), ("b.jpg", "test")]


@pytest.mark.parametrize("votes", [[1] * 8, [1] * 6, ["x"] * 7])
def test_one_bad_row_at_the_top_hides_no_votes(tmp_path, votes):
    text = f"index,label\n1,{spaced(votes)}\n2,0 0 1 3 4 2 0\n3,0 1 1 3 4 2 0\n"
    dataset = read_dataset("auto", write(tmp_path / "votes.csv", text), match_images=False)
    assert (dataset.name, len(dataset), [p.line for p in dataset.notes.bad]) == ("photonet", 2, [2])


def test_the_first_row_alone_does_not_decide_how_many_votes_there_are(tmp_path):
    rows = ["1," + spaced([1] * 7), *(f"{k}," + spaced([1] * 10) for k in range(2, 6))]
    text = "ID,label\n" + "\n".join(rows) + "\n"
    dataset = read_dataset("auto", write(tmp_path / "votes.csv", text), match_images=False)
    assert (dataset.name, len(dataset), [p.line for p in dataset.notes.bad]) == ("ava", 4, [2])


def test_image_and_score_alone_are_no_benchmark(tmp_path):
    path = write(tmp_path / "mine.csv", "image,score\na.jpg,3\n")
    # The three folders above count as well as the file's name.
    assert read_dataset("auto", path, match_images=False).scale == (1.0, 5.0)
    assert read_dataset("tad66k", path, match_images=False).scale == (0.0, 10.0)


# ---------------------------------------------------------------- PARA

COLUMNS = list(ATTRIBUTES.values())


def para_csv(rows: list[tuple[str, str, float]]) -> str:
    counts = ",".join(f"aestheticScore_{1 + k / 2:.1f}" for k in range(9))
    scores = ",".join(f"{column}_mean,{column}_std" for column in COLUMNS)
    lines = [f"imageName,sessionId,semantic,{counts},{scores}"]
    for image, session, score in rows:
        values = ",".join(f"{min(score + k / 10, 5.0):.2f},0.{k}" for k in range(9))
        lines.append(f"{image},{session},portrait,0,0,0,1,10,12,2,0,0,{values}")
    return "\n".join(lines) + "\n"


def para_folder(folder: Path) -> Path:
    write(
        folder / "annotation/PARA-GiaaTrain.csv",
        para_csv([("iaa_pub1_.jpg", "session1", 3.1), ("iaa_pub2_.jpg", "session1", 2.5)]),
    )
    write(folder / "annotation/PARA-GiaaTest.csv", para_csv([("iaa_pub71_.jpg", "session2", 4.0)]))
    write(folder / "annotation/PARA-UserInfo.csv", "userId,age\n")
    for name in ("session1/iaa_pub1_.jpg", "session1/iaa_pub2_.jpg", "session2/iaa_pub71_.jpg"):
        picture(folder / "imgs" / name)
    return folder


def test_para_without_its_score_is_refused_by_name(tmp_path):
    for file in (para_folder(tmp_path) / "annotation").glob("PARA-Giaa*.csv"):
        file.write_text(file.read_text().replace("aestheticScore_mean", "other"))
    with pytest.raises(AesError, match=r"PARA-GiaaTrain\.csv.*no column aestheticScore_mean"):
        read_dataset("auto", tmp_path)


@pytest.mark.parametrize("data", ["", "annotation"])
def test_para(tmp_path, data):
    para_folder(tmp_path)
    dataset = read_dataset("auto", tmp_path / data)
    assert (dataset.name, dataset.scale) == ("para", (1.0, 5.0))
    assert dataset.notes.clean
    assert [s.split for s in dataset.samples] == ["train", "train", "test"]
    first = dataset.samples[0]
    assert first.path == tmp_path / "imgs/session1/iaa_pub1_.jpg"
    assert (first.name, first.score, first.std, first.n_ratings) == ("session1/iaa_pub1_.jpg", 3.1, 0.0, 25)
    assert list(first.scores) == [
        "aesthetic", "quality", "composition", "color", "dof", "light", "content", "contentPreference",
        "willingnessToShare",
    ]  # fmt: skip
    assert list(first.scores.values()) == pytest.approx([3.1 + k / 10 for k in range(9)])
    assert first.counts == (0, 0, 0, 1, 10, 12, 2, 0, 0)
    assert first.group == {"semantic": "portrait"}


def test_para_with_few_columns_and_bad_attributes(tmp_path):
    text = "sessionId,imageName,aestheticScore_mean,qualityScore_mean\ns1,a.jpg,3,4\ns1,b.jpg,3,9\ns2,a.jpg,5.5,1\n"
    path = write(tmp_path / "p.csv", text)
    dataset = read_dataset("auto", path, match_images=False)
    assert [(s.name, s.scores, s.counts) for s in dataset.samples] == [
        ("s1/a.jpg", {"aesthetic": 3.0, "quality": 4.0}, None), ("s1/b.jpg", {"aesthetic": 3.0}, None),
    ]  # fmt: skip
    text = "\n".join(dataset.notes.notes)
    assert "no scores for: composition, color" in text
    assert "1 rows of p.csv have no usable 'quality'" in text
    assert [p.line for p in dataset.notes.bad] == [4]


# ---------------------------------------------------------------- sophoappeal


def test_sophoappeal(tmp_path):
    text = "file,db,mos,n,count_1,count_2,count_3,count_4,count_5\na.png,500px,2.5,2,0,1,1,0,0\nb.png,x,4,2,0,1,1,0,0\n"
    write(tmp_path / "labels.csv", text)
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    dataset = read_dataset("auto", tmp_path)
    assert (dataset.name, dataset.scale) == ("sophoappeal", (1.0, 5.0))
    sample = dataset.samples[0]
    assert (sample.score, sample.counts, sample.n_ratings) == (2.5, (0, 1, 1, 0, 0), 2)
    assert (sample.std, sample.group) == (pytest.approx(0.5), {"db": "500px"})
    assert (dataset.stratum, dataset.strata) == ("db", ["500px", "x"])
    assert dataset.subset([1]).strata == ["x"]
    assert dataset.notes.notes == ["1 scores differ from the mean of their votes (first: b.png)"]


# ---------------------------------------------------------------- any table, and which one it is


def test_a_comment_column_of_any_table(tmp_path):
    path = write(tmp_path / "t.csv", "image,score,comment,said\na.jpg,3,fine,other\nb.jpg,4,,x\n")
    assert [s.comment for s in read_dataset("auto", path, match_images=False).samples] == ["fine", None]
    dataset = read_dataset("auto", path, match_images=False, comment_column="SAID")
    assert [s.comment for s in dataset.samples] == ["other", "x"]
    with pytest.raises(UsageError, match="fixed"):
        read_dataset("tad66k", path, match_images=False, comment_column="said")


def test_the_command_line_knows_every_layout():
    assert [layout.value for layout in Layout] == ["auto", *KINDS]


@pytest.mark.parametrize("kind", ["ava", "aadb", "tad66k", "para", "flickr-aes", "sophoappeal", "photonet"])
def test_a_file_of_another_layout_is_a_clear_error(tmp_path, kind):
    path = write(tmp_path / "t.csv", "foto,points\na.jpg,3\n")
    with pytest.raises(AesError, match=r"t\.csv has no column '\w+'.*it has: foto, points"):
        read_dataset(kind, path, match_images=False)


def test_folders_that_hold_too_much_are_asked_about(tmp_path):
    write(tmp_path / "a.csv", "image,score\na.jpg,3\n")
    write(tmp_path / "b.csv", "image,score\na.jpg,3\n")
    with pytest.raises(AesError, match=r"holds 2 tables \(a\.csv, b\.csv\)"):
        read_dataset("auto", tmp_path)
    with pytest.raises(AesError, match="holds no label file"):
        read_dataset("auto", picture(tmp_path / "e" / "x.jpg").parent)


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("PARA-GiaaTrain.csv", "train", "para-giaa-.csv"),
        ("PARA-GiaaTest.csv", "test", "para-giaa-.csv"),
        ("ava_labels_test.json", "test", "ava_labels_.json"),
        ("Validation.csv", "val", ".csv"),
        ("train-test.csv", None, "train-test.csv"),
        ("latest.csv", None, "latest.csv"),
        ("trained.csv", None, "trained.csv"),
    ],
)
def test_names_of_lists(name, split, rest):
    assert part_of(Path(name)) == (split, rest)


def test_lists_that_belong_together():
    files = [
        Path(n) for n in ("test.csv", "train.csv", "a_test.csv", "readme.txt", "b-val.csv", "b-train.csv")
    ]
    assert find_parts(files) == [
        [Part(Path("b-train.csv"), "train"), Part(Path("b-val.csv"), "val")],
        [Part(Path("train.csv"), "train"), Part(Path("test.csv"), "test")],
    ]
    assert find_parts([Path("train.csv"), Path("Training.csv"), Path("test.csv")]) == []


def test_random_bytes_end_in_labels_or_a_clear_error(tmp_path):
    rng = random.Random(0)
    base = [ava_text().encode(), para_csv([("a.jpg", "s", 3.0)]).encode(), b"index,label,comment\n1,0 0 1 3 4 2 0,x\n",
            json.dumps([{"image_id": "1", "label": [1] * 10}]).encode()]  # fmt: skip
    for _ in range(200):
        data = bytearray(rng.choice(base))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
        path = tmp_path / ("a.json" if data[:1] in (b"[", b"{") else "a.csv" if b"," in data else "a.txt")
        path.write_bytes(data)
        for kind in ("auto", "ava", "ava-captions", "para"):
            # An AesError explains the file; any other exception fails the test.
            with contextlib.suppress(AesError):
                dataset = read_dataset(kind, path, match_images=False)
                low, high = dataset.scale
                assert all(low <= s.score <= high for s in dataset.samples)


# ---------------------------------------------------------------- as the data sets were published


@pytest.mark.parametrize("data", [".", "imgListFiles_label"])
def test_aadb_as_published(tmp_path, data):
    labels = tmp_path / "imgListFiles_label"
    lists = {"Train": ("farm1_a.jpg 0.550000", "farm1_b.jpg  0.2"), "Validation": ("farm2_c.jpg 0.9",)}
    for part, lines in {**lists, "TestNew": ("farm3_d.jpg 0.05 ",)}.items():
        write(labels / f"imgList{part}Regression_score.txt", "\n".join(lines) + "\n")
        write(labels / f"imgList{part}Regression_Light.txt", "farm1_a.jpg -0.4\n")
    for where in ("datasetImages_originalSize/farm1_a", "datasetImages_originalSize/farm1_b"):
        picture(tmp_path / f"{where}.jpg")
    picture(tmp_path / "datasetImages_originalSize" / "farm2_c.jpg")
    picture(tmp_path / "AADB_newtest_originalSize" / "farm3_d.jpg")
    dataset = read_dataset("auto", tmp_path / data)
    assert (dataset.name, dataset.scale) == ("aadb", (0.0, 1.0))
    assert dataset.notes.clean
    assert [(s.name, s.score, s.split) for s in dataset.samples] == [
        ("farm1_a.jpg", 0.55, "train"),
        ("farm1_b.jpg", 0.2, "train"),
        ("farm2_c.jpg", 0.9, "val"),
        ("farm3_d.jpg", 0.05, "test"),
    ]
    alone = read_dataset("auto", labels / "imgListTrainRegression_score.txt")
    assert (alone.name, len(alone)) == ("aadb", 2)
    # The smaller copies that the data set comes with too, and the test list that TestNew replaces.
    for name in ("farm1_a", "farm1_b", "farm2_c"):
        picture(tmp_path / "datasetImages_warp256" / f"{name}.jpg")
    write(labels / "imgListTestRegression_score.txt", "farm1_a.jpg 0.5\n")
    again = read_dataset("auto", tmp_path / data)
    assert [(s.path, s.split) for s in again.samples] == [(s.path, s.split) for s in dataset.samples]
    assert {p.name for p in again.notes.files} == {
        f"imgList{part}Regression_score.txt" for part in ("Train", "Validation", "TestNew")
    }
    with pytest.raises(AesError, match="has one column; it needs an image and its score"):
        read_dataset("aadb", write(tmp_path / "one.txt", "a.jpg\nb.jpg\n"), match_images=False)


@pytest.mark.parametrize("named_by", ["id", "index"])
def test_photonet_as_published(tmp_path, named_by):
    write(
        tmp_path / "photonet_dataset.txt",
        "1 5566127 10 5.1000 1.1 0 0 1 2 3 3 1\n2 5571243 12 9.9 0.8 0 0 0 2 4 4 2\n3 77 4 4\n",
    )
    for index, image in ((1, 5566127), (2, 5571243)):
        picture(tmp_path / "images" / f"{index if named_by == 'index' else image}.jpg")
    dataset = read_dataset("auto", tmp_path)
    assert (dataset.name, dataset.scale) == ("photonet", (1.0, 7.0))
    assert [s.counts for s in dataset.samples] == [(0, 0, 1, 2, 3, 3, 1), (0, 0, 0, 2, 4, 4, 2)]
    assert [s.score for s in dataset.samples] == [pytest.approx(5.1), pytest.approx(5.5)]
    assert [p.reason for p in dataset.notes.bad] == ["4 numbers, not 12"]
    assert any("1 scores differ from the mean of their votes" in note for note in dataset.notes.notes)


def test_photonets_indices_and_ids_are_not_mixed(tmp_path):
    """An index may be another photo's id: only one of the two names the files."""
    path = write(
        tmp_path / "photonet_dataset.txt",
        "1 555 10 7 0 0 0 0 0 0 0 10\n2 1 10 1 0 10 0 0 0 0 0 0\n3 777 10 4 0 0 0 0 10 0 0 0\n",
    )
    for name in ("1", "777"):
        picture(tmp_path / "images" / f"{name}.jpg")
    assert {s.name: s.score for s in read_dataset("auto", path).samples} == {"1.jpg": 1, "777.jpg": 4}
    halves = write(tmp_path / "h.txt", " ".join(["0.5"] * 12) + "\n")
    with pytest.raises(AesError):
        read_dataset("auto", halves, match_images=False)


def test_ava_captions_as_published(tmp_path):
    sentences = [{"raw": "Great light!", "clean": "great light"}, {"raw": "Well done.", "clean": "well done"}]
    entries = [
        {"filename": "953619.jpg", "sentences": sentences, "split": "train"},
        {"filename": "953958.jpg", "sentences": sentences[1:], "split": "test"},
        {"filename": "1.jpg", "sentences": sentences},
        {"filename": "953958.jpg", "sentences": sentences[:1], "split": "test"},
    ]
    path = write(
        tmp_path / "CLEAN_AVA_FULL_COMMENTS.json", json.dumps({"images": entries, "dataset": "AVA"}, indent=1)
    )
    with pytest.raises(AesError, match=r"has captions and no votes; put AVA\.txt beside it"):
        read_dataset("auto", path, match_images=False)
    write(tmp_path / "AVA.txt", ava_text())
    for kind, data in (("auto", path), ("ava-captions", tmp_path)):
        dataset = read_dataset(kind, data, match_images=False)
        assert dataset.name == "ava-captions"
        assert {s.name: (s.comment, s.split) for s in dataset.samples} == {
            "953619.jpg": ("great light well done", "train"),
            "953958.jpg": ("well done great light", "test"),
        }
        assert dataset.samples[0].counts == tuple(VOTES["953619"])
        assert [(p.name, p.reason) for p in dataset.notes.bad] == [("1.jpg", "not in AVA.txt")]
    assert read_dataset("auto", tmp_path, match_images=False).name == "ava"
    # Without splits of its own, AVA's; names without a suffix; two files of captions are asked about.
    bare = [{"filename": name, "sentences": sentences} for name in ("953619", "953958")]
    path.write_text(json.dumps({"images": bare}))
    write(tmp_path / "aesthetics_image_lists" / "generic_test.jpgl", "953958\n")
    splits = {s.name: s.split for s in read_dataset("auto", path, match_images=False).samples}
    assert splits == {"953619.jpg": "train", "953958.jpg": "test"}
    write(tmp_path / "MORE.json", json.dumps({"images": bare}))
    with pytest.raises(AesError, match=r"holds 2 files of captions \(.*\); name one"):
        read_dataset("ava-captions", tmp_path, match_images=False)


def test_a_list_of_images_and_scores_between_blanks(tmp_path):
    path = write(tmp_path / "means.txt", " a.jpg 0.61 \n b.jpg  0.25\n\n c.png\t0.5\nd.jpg\n")
    dataset = read_dataset("auto", path, match_images=False)
    assert (dataset.name, dataset.scale) == ("means", (0.0, 1.0))
    assert [(s.name, s.score) for s in dataset.samples] == [("a.jpg", 0.61), ("b.jpg", 0.25), ("c.png", 0.5)]
    assert len(dataset.notes.bad) == 1


def test_avas_own_test_list_beside_it(tmp_path):
    write(tmp_path / "AVA.txt", ava_text())
    write(tmp_path / "aesthetics_image_lists" / "generic_test.jpgl", "953958\n\n1\n")
    splits = {s.name: s.split for s in read_dataset("auto", tmp_path, match_images=False).samples}
    assert splits == {"953619.jpg": "train", "953958.jpg": "test", "954184.jpg": "train"}
