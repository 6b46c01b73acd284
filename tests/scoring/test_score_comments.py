import pytest

from aescli.errors import AesError
from aescli.scoring.comments import Comments


def _table(tmp_path, text):
    path = tmp_path / "comments.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_comments_are_found_by_path_name_and_stem(tmp_path):
    comments = Comments(
        _table(tmp_path, 'image,comment\na/1.jpg,"one, two"\n2.jpg,zwei\n3,drei\n2.jpg,deux\n4.jpg,\n')
    )
    assert comments("photos/a/1.jpg") == "one, two"
    assert comments("2.jpg") == "zwei deux"
    assert comments("elsewhere/3.png") == "drei"
    assert comments("4.jpg") is None
    assert comments("5.jpg") is None
    assert len(comments) == 3


def test_names_that_two_images_share_belong_to_the_one_whose_folder_fits(tmp_path):
    comments = Comments(_table(tmp_path, "image;caption\na/1.jpg;first\nb/1.jpg;second\n"))
    assert (comments("x/a/1.jpg"), comments("x/b/1.jpg"), comments("x/c/1.jpg")) == ("first", "second", None)


def test_a_comment_on_one_photo_is_not_read_for_its_namesake_elsewhere(tmp_path):
    comments = Comments(_table(tmp_path, "image,comment\na/x.jpg,about a\n/old/place/c/x.jpg,about c\n"))
    assert comments("photos/b/x.jpg") is None
    assert comments("photos/a/x.jpg") == "about a"
    assert comments("c/x.jpg") == "about c"  # the table may start higher
    assert comments.shared == []


def test_a_comment_follows_its_photo_to_another_place_or_format(tmp_path):
    comments = Comments(
        _table(tmp_path, "image,comment\nx.png,one\na/y.png,two\n/home/me/photos/z.jpg,three\n")
    )
    assert [comments(p) for p in ("a/x.jpg", "p/a/y.jpg", "../photos/z.jpg", "p/b/y.jpg")] == [
        "one", "two", "three", None,
    ]  # fmt: skip


def test_a_row_without_folders_that_means_two_photos_is_named(tmp_path):
    comments = Comments(_table(tmp_path, "image,comment\nx.jpg,about x\nother/cat.jpg,other\ncat,this\n"))
    assert [comments(p) for p in ("a/x.jpg", "b/x.jpg", "ph/cat.jpg")] == ["about x", "about x", "this"]
    (sentence,) = comments.shared
    assert "'x.jpg' was read for several images (a/x.jpg, b/x.jpg)" in sentence
    assert comments.unused == ["other/cat.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,comment\n1.jpg,a,b\n", "not one comment .*3 cells where the first row has 2"),
        ("image,words\n1.jpg,fine\n", "no column comment; it has: image, words"),
        ("image,comment\n1.jpg,\n", "not one comment"),
        ("", "is empty"),
    ],
)
def test_a_useless_table_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(AesError, match=message):
        Comments(_table(tmp_path, text))
    with pytest.raises(AesError, match="no such file"):
        Comments(tmp_path / "absent.csv")


def test_broken_rows_are_named(tmp_path):
    comments = Comments(_table(tmp_path, "image,comment\n1.jpg,fine\n2.jpg,too,many\n"))
    assert len(comments) == 1
    assert "3 cells where the first row has 2" in comments.problems[0]


def test_a_long_discussion_is_read(tmp_path):
    text = "sharp " * 40_000
    assert len(Comments(_table(tmp_path, f"image,comment\n1.jpg,{text}\n"))("1.jpg")) == len(text) - 1


def test_an_open_quote_swallows_nothing_in_silence(tmp_path):
    with pytest.raises(AesError, match=r"comments\.csv:3: a quote opens here and never closes"):
        Comments(_table(tmp_path, 'image,comment\n1.jpg,"one ""big"" word"\n2.jpg,"open\n3.jpg,lost\n'))


def test_the_lists_that_captions_are_trained_on_name_images_by_index(tmp_path):
    comments = Comments(_table(tmp_path, "index,label,comment\n953619,0 1 5,lovely\n953958,1 1 1,dull\n"))
    assert (comments("ava/953619.jpg"), comments("953958.jpg")) == ("lovely", "dull")
    with pytest.raises(
        AesError, match=r"names the images; it has: who, comment\. Name one of them image"
    ) as error:
        Comments(_table(tmp_path, "who,comment\nx,lovely\n"))
    assert "--image-column" not in str(error.value)


def test_other_comments_have_another_digest(tmp_path):
    first, again, other = (
        Comments(_table(tmp_path, text)).digest
        for text in ("image,comment\na,x\nb,y\n", "image;comment\nb;y\na;x\n", "image,comment\na,x\nb,z\n")
    )
    assert first == again != other


def test_comments_that_nobody_asked_for_are_known(tmp_path):
    comments = Comments(_table(tmp_path, "image,comment\n1.jpg,fine\nnot-there.jpg,good\n"))
    assert comments("photos/1.jpg") == "fine"
    assert comments.unused == ["not-there.jpg"]
