"""Individual ratings: three formats as one table; every row that is left out is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written import picture, write

from aescli.data.datasets import read_dataset
from aescli.data.datasets.ratings import RATING_KINDS, UserCharacters, read_ratings
from aescli.data.datasets.scored import ATTRIBUTES
from aescli.errors import AesError, UsageError


def listed(table) -> list[tuple[str, str, float]]:
    return [
        (table.users[u], table.images[i], s)
        for u, i, s in zip(table.user, table.image, table.score, strict=True)
    ]


# ---------------------------------------------------------------- PARA

HEADER = (
    "sessionId,imageName,userId,aestheticScore,qualityScore,compositionScore,colorScore,dofScore,contentScore,"
    "lightScore,isObjectEmphasis,imgEmotion,difficultyOfJudgment,contentPreference,willingnessToShare,semantic\n"
)
USERS = (
    "userId,age,gender,EducationalLevel,artExperience,photographyExperience,"
    "personality-E,personality-A,personality-N,personality-O,personality-C\n"
    "A1,18-21,female,university,proficient,beginner,6,7,4,8,5\n"
    "B2,22-25,male,junior_college,beginner,,x,7,,8,6.5\n"
    "Z9,22-25,male,university,expert,expert,1,2,3,4,5\n"
)


def rating(session: str, image: str, user: str, score: str, quality: str = "3") -> str:
    return f"{session},{image},{user},{score},{quality},2,2.5,3,3.5,4,1,joy,0,4.5,5,portrait\n"


def para(folder: Path, rows: str, encoding: str = "utf-8") -> Path:
    write(folder / "annotation/PARA-Images.csv", HEADER + rows, encoding)
    write(folder / "annotation/PARA-UserInfo.csv", USERS)
    for name in ("session1/iaa_pub1_.jpg", "session1/iaa_pub2_.jpg", "session2/iaa_pub1_.jpg"):
        picture(folder / "imgs" / name)
    return folder


@pytest.mark.parametrize("kind", ["auto", "para"])
@pytest.mark.parametrize("data", ["", "annotation", "annotation/PARA-Images.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_para(tmp_path, kind, data, encoding):
    rows = rating("session1", "iaa_pub1_.jpg", "A1", "3.5") + rating("session1", "iaa_pub1_.jpg", "B2", "4")
    para(tmp_path, rows + rating("session2", "iaa_pub1_.jpg", "A1", "1.0", ""), encoding)
    table = read_ratings(kind, tmp_path / data)
    assert (table.name, table.scale, len(table)) == ("para", (1.0, 5.0), 3)
    assert listed(table) == [
        ("A1", "session1/iaa_pub1_.jpg", 3.5), ("B2", "session1/iaa_pub1_.jpg", 4.0),
        ("A1", "session2/iaa_pub1_.jpg", 1.0),
    ]  # fmt: skip
    assert table.paths == [tmp_path / "imgs/session1/iaa_pub1_.jpg", tmp_path / "imgs/session2/iaa_pub1_.jpg"]
    assert list(table.attributes) == list(ATTRIBUTES)
    np.testing.assert_array_equal(table.attributes["aesthetic"], table.score)
    np.testing.assert_array_equal(table.attributes["quality"], [3, 3, np.nan])
    first = {name: float(column[0]) for name, column in table.attributes.items()}
    assert [first[n] for n in ("composition", "light", "content", "contentPreference")] == [2, 4, 3.5, 4.5]
    assert table.counts() == {"A1": 2, "B2": 1}
    assert table.notes.unlabelled == ["session1/iaa_pub2_.jpg"]
    assert "1 ratings have no usable 'quality'" in table.notes.notes


def test_para_users(tmp_path):
    rows = "".join(rating("session1", "iaa_pub1_.jpg", user, "3") for user in ("A1", "B2", "C3"))
    table = read_ratings("para", para(tmp_path, rows))
    assert table.characters["A1"] == UserCharacters(
        experience={"art": "proficient", "photo": "beginner"},
        traits={
            "openness": 8,
            "conscientiousness": 5,
            "extroversion": 6,
            "agreeableness": 7,
            "neuroticism": 4,
        },
        characters={"age": "18-21", "gender": "female", "education": "university"},
    )
    assert table.characters["B2"].experience == {"art": "beginner"}
    assert table.characters["B2"].traits == {"openness": 8, "conscientiousness": 6.5, "agreeableness": 7}
    assert set(table.characters) == {"A1", "B2"}
    assert [(p.line, p.name) for p in table.notes.bad] == [(3, "B2")]
    assert "1 users are not described in PARA-UserInfo.csv" in table.notes.notes


def test_ratings_that_cannot_be_used_are_named(tmp_path):
    first, second, third = "iaa_pub1_.jpg", "iaa_pub2_.jpg", "gone.jpg"
    rows = (
        rating("session1", first, "A1", "3")
        + rating("session1", first, "B2", "5.5")  # line 3: out of range
        + rating("session1", first, "B2", "-")  # line 4
        + rating("session1", first, "", "3")  # line 5: nobody
        + rating("session1", "", "B2", "3")  # line 6: nothing
        + "session1,iaa_pub1_.jpg,B2\n\n"  # line 7: cut off
        + rating("session1", first, "A1", "4")  # line 9: the same person again
        + rating("session1", third, "A1", "4")  # line 10: no such image
        + rating("session1", third, "C3", "4")  # line 11
        + rating("session1", second, "B2", "2")
    )
    table = read_ratings("para", para(tmp_path, rows), users=tmp_path / "annotation/PARA-UserInfo.csv")
    assert listed(table) == [("A1", f"session1/{first}", 3.0), ("B2", f"session1/{second}", 2.0)]
    report = table.notes
    assert sorted(p.line for p in report.bad if p.source.endswith("Images.csv")) == [3, 4, 5, 6, 7]
    assert [(p.line, p.reason) for p in report.duplicates] == [(9, "A1 has rated it in line 2 already")]
    assert [(p.line, p.name) for p in report.missing] == [(10, "session1/gone.jpg")]
    assert (report.rows, report.usable, report.score_range) == (10, 2, (2.0, 3.0))
    assert "2 ratings are of 1 images that were not found" in report.notes
    # Who rated nothing that is left is no user.
    assert (table.users, table.user.tolist(), table.image.tolist()) == (["A1", "B2"], [0, 1], [0, 1])


def test_the_mean_of_the_ratings_is_a_data_set(tmp_path):
    rows = "".join(
        rating("session1", "iaa_pub1_.jpg", user, score)
        for user, score in (("A1", "3"), ("B2", "4.5"), ("C3", "3"))
    )
    para(tmp_path, rows)
    dataset = read_dataset("auto", tmp_path)
    assert dataset.name == "para"
    sample = dataset.samples[0]
    given_scores = [3.0, 4.5, 3.0]
    assert (sample.score, sample.std) == (
        pytest.approx(np.mean(given_scores)),
        pytest.approx(np.std(given_scores)),
    )
    assert (sample.n_ratings, sample.counts) == (3, (0, 0, 0, 0, 2, 0, 0, 1, 0))
    assert sample.scores["dof"] == 3.0
    assert list(sample.scores) == list(ATTRIBUTES)


# ---------------------------------------------------------------- FLICKR-AES

FLICKR = "worker, imagePair, score\nA1, farm1_262_f.jpg,4\nA1, farm2_9_f.jpg,2\nB2, farm1_262_f.jpg,5\nB2,farm3.jpg,6\n"


def test_flickr_aes(tmp_path):
    write(tmp_path / "FLICKR-AES_image_labeled_by_each_worker.csv", FLICKR)
    picture(tmp_path / "40K" / "farm1_262_f.jpg")
    picture(tmp_path / "40K" / "farm2_9_f.jpg")
    table = read_ratings("auto", tmp_path)
    assert (table.name, table.scale) == ("flickr-aes", (1.0, 5.0))
    assert listed(table) == [
        ("A1", "farm1_262_f.jpg", 4),
        ("A1", "farm2_9_f.jpg", 2),
        ("B2", "farm1_262_f.jpg", 5),
    ]
    assert [p.line for p in table.notes.bad] == [5]
    assert (table.attributes, table.characters) == ({}, {})
    dataset = read_dataset("auto", tmp_path)
    assert (dataset.name, dataset.scale) == ("flickr-aes", (1.0, 5.0))
    assert [(s.name, s.score, s.n_ratings, s.counts) for s in dataset.samples] == [
        ("farm1_262_f.jpg", 4.5, 2, (0, 0, 0, 1, 1)), ("farm2_9_f.jpg", 2.0, 1, (0, 1, 0, 0, 0)),
    ]  # fmt: skip


def test_one_users_ratings_are_a_data_set(tmp_path):
    path = write(tmp_path / "ratings by worker.csv", FLICKR)
    table = read_ratings("auto", path, match_images=False)
    one = table.of_user("A1")
    assert [(s.name, s.score, s.user) for s in one.samples] == [
        ("farm1_262_f.jpg", 4, "A1"),
        ("farm2_9_f.jpg", 2, "A1"),
    ]
    assert table.rows_of("B2").tolist() == [2]
    with pytest.raises(AesError, match="no ratings by 'nobody'"):
        table.of_user("nobody")


# ---------------------------------------------------------------- MEBeauty

LABELS = """file,crop,original,split,mean,std,count,sex,ethnicity
f/13.jpg,crops/f/13.jpg,,train,6.5,1.5,2,female,asian
m/13.jpg,crops/m/13.jpg,originals/m/13.jpg,val,3.5,1.2,1,male,asian
m/10.jpg,,,train,7,1.8,1,male,indian
"""


@pytest.mark.parametrize("labels", [True, False])
def test_mebeauty(tmp_path, labels):
    if labels:
        write(tmp_path / "labels.csv", LABELS)
    write(
        tmp_path / "ratings.csv",
        "file,rater,score\nf/13.jpg,R1,7.0\nf/13.jpg,R2,11\nf/13.jpg,R1,6\nm/13.jpg,R1,x\nm/10.jpg,R2,7\nm/13.jpg,R2,3\n",
    )
    for name in ("crops/f/13.jpg", "crops/m/13.jpg", "originals/m/13.jpg"):
        picture(tmp_path / name)
    table = read_ratings("auto", tmp_path)
    assert (table.name, table.scale) == ("mebeauty", (1.0, 10.0))
    assert listed(table) == [("R1", "f/13.jpg", 7.0), ("R2", "m/13.jpg", 3.0)]
    assert table.paths == [tmp_path / "crops/f/13.jpg", tmp_path / "crops/m/13.jpg"]
    assert [p.line for p in table.notes.bad] == [3, 5]
    assert [p.line for p in table.notes.duplicates] == [4]
    assert [p.name for p in table.notes.missing] == ["m/10.jpg"]


# ---------------------------------------------------------------- all of them


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz"), st.sampled_from([1, 2, 3, 4, 5])),
        max_size=25,
    )
)
def test_agrees_with_counting_by_hand(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("r") / "r.csv"
    path.write_text("worker,imagePair,score\n" + "".join(f"{u},{i}.jpg,{s}\n" for u, i, s in rows))
    first: dict[tuple[str, str], int] = {}
    for user, image, score in rows:
        first.setdefault((user, f"{image}.jpg"), score)
    if not first:
        with pytest.raises(AesError, match="holds no labels"):
            read_ratings("auto", path, match_images=False)
        return
    table = read_ratings("auto", path, match_images=False)
    assert {(u, i): s for u, i, s in listed(table)} == first
    assert len(table.notes.duplicates) == len(rows) - len(first)
    means: dict[str, list[int]] = {}
    for (_, image), score in first.items():
        means.setdefault(image, []).append(score)
    for sample in read_dataset("auto", path, match_images=False).samples:
        votes = means.pop(sample.name)
        assert sample.score == pytest.approx(np.mean(votes))
        assert sample.std == pytest.approx(np.std(votes), abs=1e-12)
        assert sample.counts == tuple(votes.count(k) for k in range(1, 6))
    assert not means


def test_wrong_arguments(tmp_path):
    path = write(tmp_path / "t.csv", "image,score\na.jpg,3\n")
    with pytest.raises(UsageError, match=f"choose from auto, {', '.join(RATING_KINDS)}"):
        read_ratings("ava", path)
    with pytest.raises(AesError, match="does not exist"):
        read_ratings("auto", tmp_path / "none.csv")
    with pytest.raises(AesError, match=r"holds no ratings by users \(it has: image, score"):
        read_ratings("auto", path)
    with pytest.raises(AesError, match="has no column 'worker'"):
        read_ratings("flickr-aes", path)
    with pytest.raises(AesError, match=r"does not hold ratings by users \(PARA-Images\.csv"):
        read_ratings("para", tmp_path)
    empty = write(tmp_path / "e.csv", "worker,imagePair,score\nA,a.jpg,3\n")
    with pytest.raises(AesError, match="none of the 1 labels"):
        read_ratings("auto", empty)
