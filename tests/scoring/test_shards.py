import pytest
from hypothesis import given
from hypothesis import strategies as st

from aescli.data.finding import Found
from aescli.errors import UsageError
from aescli.scoring.shards import parse_shard, shard

paths = st.lists(st.text(max_size=8), unique=True, max_size=40)


@given(paths, st.integers(1, 9))
def test_every_image_is_in_exactly_one_part_and_keeps_its_order(names, n):
    images = [Found(name) for name in names]
    parts = [list(shard(images, k, n)) for k in range(1, n + 1)]
    assert sorted(f.path for part in parts for f in part) == sorted(names)
    for part in parts:
        assert part == [f for f in images if f in part]


@given(paths, st.data())
def test_other_files_do_not_move_an_image(names, data):
    fewer = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    whole = {f.path for f in shard([Found(n) for n in names], 2, 3)}
    assert {f.path for f in shard([Found(n) for n in fewer], 2, 3)} == whole & set(fewer)


def test_parts_are_of_about_one_size():
    images = [Found(f"photos/{k:05d}.jpg") for k in range(10_000)]
    sizes = [sum(1 for _ in shard(images, k, 10)) for k in range(1, 11)]
    assert min(sizes) > 880
    assert max(sizes) < 1120


def test_undecodable_names_have_a_part():
    assert len(list(shard([Found("bad\udcff.jpg")], 1, 1))) == 1


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/5", "1.0/3", " 1/3", "²/3"]
)
def test_what_is_no_part(text):
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


def test_a_part():
    assert parse_shard("3/10") == (3, 10)
