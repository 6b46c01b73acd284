import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aescli.data.profiles import read_name, read_profile
from aescli.data.rated import read_ratings_sheet
from aescli.errors import AesError

GOOD = """
user: alice
experience: {art: competent, photo: expert}
traits: {openness: 7, neuroticism: 2.5}
characters: {favourite film: Stalker, age: 31}
scale: [1, 5]
ratings:
  - {image: a.jpg, score: 4}
  - {image: sub/b.jpg, score: 2.5}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "c d.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def read(folder, text, images=None):
    path = folder / "alice.yaml"
    path.write_text(text, encoding="utf-8")
    return read_profile(path, images)


def test_everything_a_profile_can_say(folder):
    profile = read(folder, GOOD)
    assert (profile.user, profile.scale) == ("alice", (1.0, 5.0))
    assert profile.experience == {"art": "competent", "photo": "expert"}
    assert profile.traits == {"openness": 7.0, "neuroticism": 2.5}
    assert profile.characters == {"favourite film": "Stalker", "age": "31"}
    assert [(r.image, r.score) for r in profile.ratings] == [("a.jpg", 4.0), ("sub/b.jpg", 2.5)]
    assert all(r.path.is_file() for r in profile.ratings)
    assert (folder / "alice.yaml").read_text() == GOOD


def test_little_is_enough(folder):
    profile = read(folder, "user: 17\nscale: [0, 10]\n")
    assert (profile.user, profile.ratings, profile.traits) == ("17", (), {})


def test_images_are_looked_for_beside_the_profile_first_and_then_in_the_folder_given(
    folder, tmp_path_factory
):
    other = tmp_path_factory.mktemp("photos")
    for name in ("a.jpg", "far.jpg"):
        Image.new("RGB", (4, 4)).save(other / name)
    text = "user: a\nscale: [1, 5]\nratings: [{image: a.jpg, score: 1}, {image: far.jpg, score: 2}]"
    assert [r.path.parent for r in read(folder, text, other).ratings] == [folder, other]
    with pytest.raises(
        AesError, match=r"entry 2: far.jpg: image not found in .*name the folder with --images"
    ):
        read(folder, text)


@pytest.mark.parametrize(
    "sheet",
    ["image,score\na.jpg,4\n c d.jpg , 2\nsub/b.jpg,\n", "file;rating\na.jpg;4,0\nc d.jpg;2,0\nsub/b.jpg;\n"],
)
def test_ratings_from_tables_empty_scores_left_out(folder, sheet):
    (folder / "r.csv").write_text(sheet)
    for ratings in ("r.csv", "[r.csv]"):
        profile = read(folder, f"user: a\nscale: [1, 5]\nratings: {ratings}")
        assert [(r.image, r.score) for r in profile.ratings] == [("a.jpg", 4.0), ("c d.jpg", 2.0)]
    both = read(folder, "user: a\nscale: [1, 5]\nratings: [r.csv, {image: sub/b.jpg, score: 3}]")
    assert len(both.ratings) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("openness", "opennes"), r"unknown trait 'traits.opennes'; did you mean 'openness'\?"),
        (("openness: 7", "openness: high"), "traits.openness: 'high' is not a number"),
        (("photo:", "music:"), "unknown kind of experience 'experience.music'; known here: art, photo"),
        (("expert", "expret"), r"experience.photo: 'expret' is no level; did you mean 'expert'\?"),
        (("scale:", "skale:"), r"unknown field 'skale'; did you mean 'scale'\?"),
        (("scale: [1, 5]", ""), "scale: missing; give the lowest and highest rating"),
        (("[1, 5]", "[5, 1]"), "scale: the lowest rating comes first, and 5 is not below 1"),
        (("[1, 5]", "5"), r"scale: must be two numbers such as \[1, 5\]"),
        (("score: 4", "score: 6"), r"entry 1: a.jpg: score 6 lies outside the scale 1 to 5"),
        (("score: 4", "score: good"), "entry 1: a.jpg: 'good' is not a number"),
        (("score: 4", "score: true"), "entry 1: a.jpg: 'true' is not a number"),
        (("score: 4", "stars: 4"), "unknown field"),
        (("sub/b.jpg", "./a.jpg"), r"entry 2: ./a.jpg: already rated in .*entry 1; keep one of the two"),
        (("a.jpg", "x.jpg"), "entry 1: x.jpg: image not found in"),
        (("user: alice", "user: "), "user: a name is needed"),
        (("user: alice", "user: [alice"), r"alice.yaml:\d+: not valid YAML"),
        (("{image: a.jpg, score: 4}", "none.csv"), "none.csv does not exist"),
        (("{image: a.jpg, score: 4}", "{score: 4}"), "entry 1: names no image"),
        (("characters: {favourite film: Stalker, age: 31}", "characters: tall"), "characters: must be a mapping"),
        (("age: 31", "age: [31]"), "characters.age: must be a short text"),
        (("score: 2.5}", "score: 2.5}\nratings: [r.csv]"), r"yaml:10: ratings is given twice; write ratings: \[a.csv"),
        (("openness: 7", "openness: 7, openness: 8"), r"yaml:4: openness is given twice; keep one of the two"),
        (("[1, 5]", "'19'"), r"scale: must be two numbers such as \[1, 5\], got '19'"),
        (("[1, 5]", "{1: 5, 2: 7}"), r"scale: must be two numbers such as \[1, 5\], got {'1'"),
        (("[1, 5]", "[1, 1e300]"), "scale: 1 to 1e[+]300 is no scale that people rate on"),
        (("[1, 5]", "[1, .inf]"), "scale: must be two numbers"),
        (("user: alice", "user: !!int alice"), "a value cannot be read"),
        (("user: alice", "user: !!timestamp 2024-13-45"), "a value cannot be read"),
        (("user: alice", "user: [alice, bob]"), "user: a name is needed"),
        (("user: alice", 'user: "a\\0b"'), "user: the name holds a control character"),
        (("user: alice", "user: " + "สุดา" * 50), "user: the name has 600 bytes"),
        (("user: alice", "user: " + "[" * 3000), "nested too deeply"),
        (("{image: a.jpg, score: 4}", "sub"), "sub is a folder; name a table, such as sub/ratings.csv"),
        (("{image: a.jpg, score: 4}", '""'), "entry 1: is empty; name a table"),
        (("{image: a.jpg, score: 4}", "book.xlsx"), "book.xlsx is a workbook; save it as CSV"),
        (("{image: a.jpg, score: 4}", "bare.csv"), "bare.csv: its first row must name the columns, image,score, and"),
        (("{image: a.jpg, score: 4}", "torn.csv"), "torn.csv:2: a.jpg: 3 cells .*; 2 such rows; put quotes around"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_the_remedy(folder, change, words):
    assert change[0] in GOOD
    (folder / "book.xlsx").write_bytes(b"PK")
    (folder / "bare.csv").write_text("a.jpg,4\nsub/b.jpg,3\n")
    (folder / "torn.csv").write_text("image,score\na.jpg,4,5\nsub/b.jpg,3,5\n")
    with pytest.raises(AesError, match=words) as error:
        read(folder, GOOD.replace(*change))
    assert re.search(r"alice.yaml|\.csv|\.xlsx", str(error.value))
    assert "\n" not in str(error.value)


def test_several_mistakes_are_told_at_once(folder):
    rows = "".join(f"  - {{image: no{i}.jpg, score: 3}}\n" for i in range(7))
    with pytest.raises(AesError, match=r"no0.*no1.*no2.*and 4 more") as error:
        read(folder, f"user: a\nscale: [1, 5]\nratings:\n{rows}  - {{image: a.jpg, score: 3}}\n")
    assert "no3" not in str(error.value)
    with pytest.raises(
        AesError, match=r"none of the 7 rated images was found in .*--images; the first: no0.jpg"
    ):
        read(folder, f"user: a\nscale: [1, 5]\nratings:\n{rows}")


def test_too_few_and_equal_ratings(folder):
    profile = read(folder, GOOD)
    profile.require_ratings(2)
    with pytest.raises(AesError, match="2 ratings, 10 needed: 8 missing; --suggest 8 --images DIR"):
        profile.require_ratings(10)
    equal = read(folder, GOOD.replace("2.5}", "4}").replace("neuroticism: 4", "neuroticism: 2"))
    with pytest.raises(AesError, match="all 2 ratings are 4, which says nothing"):
        equal.require_ratings(2)


@given(st.text(max_size=200))
def test_any_text_is_a_profile_or_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "p.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(AesError):  # anything else would be a traceback
        read_profile(path)


@pytest.mark.parametrize("name", ["no", "yes", "007", "2024-01-31", "1:30", "1_000", "null and void", "สุดา"])
def test_a_name_is_what_was_written(folder, name):
    assert read(folder, f"user: {name}\nscale: [1, 5]\n").user == name
    assert read_name(folder / "alice.yaml") == name


def test_space_in_a_name_is_one_space_and_an_empty_file_is_called_empty(folder):
    assert read(folder, 'user: "a  b\\n c"\nscale: [1, 5]\n').user == "a b c"
    with pytest.raises(AesError, match=r"alice.yaml is empty; a profile has at least user: alice and scale"):
        read(folder, "# nothing yet\n")


def test_a_table_that_nobody_filled_in_is_told_with_its_rows(folder):
    (folder / "r.csv").write_text("image,score\na.jpg,\nsub/b.jpg,\n")
    profile = read(folder, "user: a\nscale: [1, 5]\nratings: r.csv")
    with pytest.raises(
        AesError, match=r"2 missing; .*r.csv: none of its 2 rows has a score; fill it in, or put"
    ):
        profile.require_ratings(2)
    (folder / "r.csv").write_text("image,score\na.jpg,3\nsub/b.jpg,\n")
    profile = read(folder, "user: a\nscale: [1, 5]\nratings: r.csv")
    with pytest.raises(AesError, match=r"1 missing; .*r.csv: 1 of its 2 rows have no score yet"):
        profile.require_ratings(2)
    (folder / "r.csv").write_text("image,score\n")
    with pytest.raises(AesError, match=r"2 missing; --suggest 2"):
        read(folder, "user: a\nscale: [1, 5]\nratings: r.csv").require_ratings(2)


def test_a_decimal_comma_is_one_wherever_it_stands(folder):
    (folder / "r.csv").write_text('image,score\na.jpg,"3,5"\n')
    profile = read(
        folder,
        'user: a\nscale: [1, "5,5"]\nratings: [r.csv, {image: sub/b.jpg, score: "4,25"}]'.replace(
            '"5,5"', "5"
        ),
    )
    assert [rating.score for rating in profile.ratings] == [3.5, 4.25]


def test_photos_that_were_moved_are_found_by_the_end_of_their_path(folder, tmp_path_factory):
    new = tmp_path_factory.mktemp("new")
    for name in ("2024/x.jpg", "x.jpg", "y.jpg"):
        (new / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(new / name)
    rows = "[{image: ../old/2024/x.jpg, score: 1}, {image: /gone/for/good/y.jpg, score: 2}]"
    ratings = read(folder, f"user: a\nscale: [1, 5]\nratings: {rows}", new).ratings
    assert [rating.path for rating in ratings] == [new / "2024/x.jpg", new / "y.jpg"]  # the longest end first
    with pytest.raises(AesError, match="none of the 2 rated images was found"):
        read(folder, f"user: a\nscale: [1, 5]\nratings: {rows}")


def test_a_sheet_with_a_torn_row_is_refused(folder):
    (folder / "r.csv").write_text("image,score\na.jpg,4,oops\n")
    with pytest.raises(AesError, match=r"r.csv:2.*3 cells where the first row has 2"):
        read_ratings_sheet(folder / "r.csv")


@pytest.mark.parametrize(
    "spelt", ["C:\\Users\\me\\a\\Zoë.jpg", "a\\Zoë.jpg", "a/Zoe\u0308.jpg", "A/ZOË.JPG", "a/Zoë"]
)
def test_photos_are_found_however_another_system_spells_them(folder, tmp_path_factory, spelt):
    photos = tmp_path_factory.mktemp("photos")
    (photos / "a").mkdir()
    (photos / "a" / "Zoë.jpg").write_bytes(b"x")
    (folder / "t.csv").write_text(f"image,score\n{spelt},3\n", encoding="utf-8")
    (folder / "p.yaml").write_text("user: p\nscale: [1, 5]\nratings: t.csv\n")
    (rating,) = read_profile(folder / "p.yaml", photos).ratings
    assert rating.path == photos / "a" / "Zoë.jpg"
