import errno
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from aescli.data.finding import Found
from aescli.errors import AesError, UsageError
from aescli.scoring import collector as collectors
from aescli.scoring.collector import Collector
from aescli.scoring.picks import Picks
from aescli.scoring.rows import NO_FACE, ImageResult, Layout, Row, scored_row
from aescli.scoring.sidecar import Sidecars, stars


@pytest.fixture
def tree(tmp_path):
    """Three files of one name and other contents, two of the same content."""
    paths = []
    for k, content in enumerate(["a", "b", "a"]):
        (tmp_path / f"in{k}").mkdir()
        paths.append(tmp_path / f"in{k}" / "cat.jpg")
        paths[-1].write_text(content)
        os.utime(paths[-1], ns=(k, 10**18))
    return [str(p) for p in paths]


def listing(folder) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("link", [False, True])
def test_names_are_kept_apart_and_a_second_run_brings_nothing_new(tree, tmp_path, link):
    for _ in range(2):
        collector = Collector(str(tmp_path / "out"), link=link)
        places = [collector.bring(path) for path in tree]
        assert [p.name for p in places] == ["cat.jpg", "cat-2.jpg", "cat-3.jpg"]
        assert (collector.brought, collector.failed) == (3, 0)
        assert collector.bring(tree[1]) == places[1]
    assert listing(tmp_path / "out") == {"cat.jpg": "a", "cat-2.jpg": "b", "cat-3.jpg": "a"}
    for path, place in zip(tree, places, strict=True):
        assert place.is_symlink() == link
        assert not link or os.readlink(place) == path
        assert place.stat().st_mtime_ns == 10**18


@pytest.mark.parametrize("link", [False, True])
def test_nothing_there_is_overwritten(tree, tmp_path, link):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.jpg").write_text("mine")
    (out / "cat-2.jpg").symlink_to("nowhere")
    assert Collector(str(out), link=link).bring(tree[0]).name == "cat-3.jpg"
    assert (out / "cat.jpg").read_text() == "mine"
    assert os.readlink(out / "cat-2.jpg") == "nowhere"


def test_a_race_for_a_name_is_lost_without_harm(tree, tmp_path, monkeypatch):
    out = tmp_path / "out"
    collector = Collector(str(out))
    real = os.link

    def late(source, target):
        if target.name == "cat.jpg":
            target.write_text("theirs")
        real(source, target)

    monkeypatch.setattr(collectors.os, "link", late)
    assert collector.bring(tree[0]).name == "cat-2.jpg"
    assert listing(out) == {"cat.jpg": "theirs", "cat-2.jpg": "a"}


def test_file_systems_without_hard_links(tree, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(collectors.os, "link", none)
    collector = Collector(str(tmp_path / "out"))
    [collector.bring(path) for path in tree]
    assert listing(tmp_path / "out") == {"cat.jpg": "a", "cat-2.jpg": "b", "cat-3.jpg": "a"}


def test_one_lost_file_is_counted_and_a_full_disk_ends_the_run(tree, tmp_path, monkeypatch):
    collector = Collector(str(tmp_path / "out"))
    os.unlink(tree[0])
    assert collector.bring(tree[0]) is None
    assert collector.failed == 1
    assert "in0/cat.jpg: the file does not exist" in collector.first_error

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(collectors.shutil, "copyfileobj", full)
    with pytest.raises(AesError, match=r"--copy-to .*No space left on device"):
        collector.bring(tree[1])
    assert listing(tmp_path / "out") == {}


def test_earlier_picks_are_not_scored_again(tree, tmp_path):
    collector = Collector(str(tmp_path / "out"))
    collector.bring(tree[0])
    (tmp_path / "out2").mkdir()
    found = [Found(p) for p in (*tree, str(tmp_path / "out" / "cat.jpg"), str(tmp_path / "out2" / "x.jpg"))]
    found.append(Found("a\0b/c", "broken list"))
    assert [f.path for f in collector.without_own(found)] == [f.path for f in (*found[:3], *found[4:])]
    assert collector.passed_over == 1


def test_names_as_long_as_names_can_be(tmp_path):
    for name, rated in (("n" * 251 + ".jpg", False), ("n" * 247 + ".jpg", True)):
        (tmp_path / name).write_text(name[:4])
        picks = Picks(Layout(classes=0), copy_to=str(tmp_path / "out"), xmp=True)
        picks.take(ImageResult(str(tmp_path / name), [scored_row(str(tmp_path / name), 0, None, 3, [])]))
        assert (tmp_path / "out" / name).read_text() == name[:4]
        assert (tmp_path / "out" / f"{name}.xmp").exists() if rated else "too long" in picks.failure()
    assert len(os.listdir(tmp_path / "out")) == 3


def test_addresses_cannot_be_linked_to_or_rated_in_place(tmp_path):
    address = "memory://bucket/cat.jpg"
    collector = Collector(str(tmp_path / "out"), link=True)
    assert collector.bring(address) is None
    assert "memory://bucket/cat.jpg: an address cannot be linked to; use --copy-to" in collector.first_error
    sidecars = Sidecars((1, 5))
    sidecars.rate(address, 4)
    assert "nothing is written beside an address" in sidecars.first_error


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AesError, match="--copy-to"):
        Collector(str(tmp_path / "file"))


# -- sidecars --------------------


def test_stars_are_the_nearest_on_the_scale():
    assert [stars(s, (1, 5)) for s in (0, 1, 1.49, 1.5, 2.5, 3.49, 4.5, 5, 9)] == [1, 1, 1, 2, 3, 3, 5, 5, 5]
    assert [stars(s, (1, 10)) for s in (1, 3.25, 5.5, 7.75, 10)] == [1, 2, 3, 4, 5]
    assert [stars(s, (0, 1)) for s in (0.1, 0.5, 0.9)] == [1, 3, 5]


def rating(path) -> tuple[str, str]:
    text = path.read_text(encoding="utf-8")
    body = "\n".join(text.splitlines()[1:-1])  # without the packet's processing instructions
    node = ElementTree.fromstring(body).find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return node.get("{http://ns.adobe.com/xap/1.0/}Rating"), node.get("{urn:aescli:1}Score")


def test_a_sidecar_is_valid_xml_and_is_renewed(tmp_path):
    sidecars = Sidecars((1, 5))
    picture = tmp_path / "a<b>&.jpg"
    picture.write_text("picture")
    before = picture.stat()
    sidecars.rate(picture, 3.6)
    assert rating(tmp_path / "a<b>&.jpg.xmp") == ("4", "3.6000")
    sidecars.rate(picture, 1.2)
    assert rating(tmp_path / "a<b>&.jpg.xmp") == ("1", "1.2000")
    assert sorted(os.listdir(tmp_path)) == ["a<b>&.jpg", "a<b>&.jpg.xmp"]
    assert picture.stat() == before
    assert (sidecars.written, sidecars.kept, sidecars.failed) == (2, 0, 0)


def test_other_programs_sidecars_stay(tmp_path):
    theirs = '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="darktable"/>'
    (tmp_path / "a.jpg.xmp").write_text(theirs)
    (tmp_path / "b.jpg.xmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "c.jpg.xmp").mkdir()
    sidecars = Sidecars((1, 5))
    for name in "abc":
        sidecars.rate(tmp_path / f"{name}.jpg", 5)
    assert (sidecars.written, sidecars.kept) == (0, 3)
    assert sidecars.first_kept.endswith("a.jpg.xmp")
    assert (tmp_path / "a.jpg.xmp").read_text() == theirs


@pytest.mark.parametrize(
    ("old", "new"),
    [('Rating="4"', 'Rating="1"'), ("</x:xmpmeta>", "<!-- mine --></x:xmpmeta>"), ("\n", "\n\n")],
)
def test_a_sidecar_that_a_person_changed_stays(tmp_path, old, new):
    Sidecars((1, 5)).rate(tmp_path / "a.jpg", 4)
    path = tmp_path / "a.jpg.xmp"
    changed = path.read_text(encoding="utf-8").replace(old, new, 1)
    path.write_text(changed, encoding="utf-8")
    again = Sidecars((1, 5))
    again.rate(tmp_path / "a.jpg", 5)
    assert (again.written, again.kept, again.first_kept) == (0, 1, str(path))
    assert path.read_text(encoding="utf-8") == changed
    path.write_bytes(b'x:xmptk="aescli" \xff')
    again.rate(tmp_path / "a.jpg", 5)
    assert again.kept == 2


def test_a_sidecar_that_cannot_be_written_is_counted(tmp_path):
    sidecars = Sidecars((1, 5))
    sidecars.rate(tmp_path / "no" / "a.jpg", 5)
    sidecars.rate(tmp_path / ("x" * 253), 5)
    assert sidecars.failed == 2
    assert "no/a.jpg.xmp: No such file" in sidecars.first_error


# -- together --------------------


def results(paths) -> list[ImageResult]:
    out = [ImageResult(p, [scored_row(p, 0, None, 2 + k, [])]) for k, p in enumerate(paths)]
    faces = [scored_row(paths[0], k, None, s, []) for k, s in enumerate([1.5, 4.4])]
    return [*out, ImageResult("none.jpg", [Row("none.jpg", error=NO_FACE)]), ImageResult(paths[0], faces)]


def test_wanted_rows_decide_the_files_and_their_stars(tree, tmp_path):
    picks = Picks(Layout(classes=0), where="score >= 3", copy_to=str(tmp_path / "out"), xmp=True)
    everything = results(tree)
    assert [len(picks.rows(r)) for r in everything] == [0, 1, 1, 0, 1]
    for result in everything:
        picks.take(result)
    names = ["cat-2.jpg", "cat-2.jpg.xmp", "cat-3.jpg", "cat-3.jpg.xmp", "cat.jpg", "cat.jpg.xmp"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert rating(tmp_path / "out" / "cat-3.jpg.xmp")[0] == "4"  # the best face
    assert [os.listdir(os.path.dirname(p)) for p in tree] == [["cat.jpg"]] * 3
    assert picks.report()[0] == "3 images match 'score >= 3'"
    assert picks.failure() == ""


def test_without_a_condition_every_scored_file_is_taken(tree, tmp_path):
    picks = Picks(Layout(classes=0), link_to=str(tmp_path / "out"))
    for result in results(tree):
        picks.take(result)
    assert len(os.listdir(tmp_path / "out")) == 3
    assert picks.report() == [f"3 linked in {tmp_path / 'out'}"]
    beside = Picks(Layout(classes=0), xmp=True)
    for result in results(tree):
        beside.take(result)
    assert [sorted(os.listdir(os.path.dirname(p))) for p in tree] == [["cat.jpg", "cat.jpg.xmp"]] * 3


def test_files_without_a_face_can_be_picked(tree, tmp_path):
    picks = Picks(Layout(classes=0), where="error", copy_to=str(tmp_path / "out"), xmp=True)
    picks.take(ImageResult(tree[0], [Row(tree[0], error=NO_FACE)]))
    assert os.listdir(tmp_path / "out") == ["cat.jpg"]  # no score, no stars


def test_failures_are_said(tree, tmp_path):
    picks = Picks(Layout(classes=0), copy_to=str(tmp_path / "out"))
    picks.take(ImageResult("gone.jpg", [scored_row("gone.jpg", 0, None, 3, [])]))
    assert picks.failure().startswith("--copy-to: 1 file could not be brought; the first: gone.jpg: ")
    with pytest.raises(UsageError, match="exclude each other"):
        Picks(Layout(), copy_to="a", link_to="b")


def test_another_picture_of_the_same_name_size_and_time_is_another_picture(tmp_path):
    for folder, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bmp").write_bytes(content)
        os.utime(tmp_path / folder / "x.bmp", (1e9, 1e9))
    for _ in range(2):
        for folder in "ab":
            Collector(str(tmp_path / "out")).bring(str(tmp_path / folder / "x.bmp"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        "x.bmp": b"one",
        "x-2.bmp": b"two",
    }


def test_one_file_spelt_twice_is_brought_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").write_bytes(b"x")
    collector = Collector("out")
    assert collector.bring("x.jpg") == collector.bring("./x.jpg") == Path("out/x.jpg")
    assert len(list(Path("out").iterdir())) == 1
