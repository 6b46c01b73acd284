import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aescli.data import finding
from aescli.data.finding import Found, find_images, known_suffixes, printable
from aescli.errors import AesError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def paths(*inputs, **options) -> list[str]:
    items = list(find_images(inputs, **options))
    assert all(item.error is None for item in items)
    return [item.path for item in items]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_searched_in_one_order_and_named_as_given(here):
    touch(here, "p/b.jpg", "p/a/z.png", "p/a/y.JPG", "p/c.txt", "p/B.jpeg", "p/é.webp", "p/10.tif", "p/9.tif")
    expected = ["10.tif", "9.tif", "B.jpeg", "a/y.JPG", "a/z.png", "b.jpg", "é.webp"]
    assert paths("p") == [f"p/{name}" for name in expected]
    assert paths("p/") == [f"p/{name}" for name in expected]
    assert paths("./p") == [f"./p/{name}" for name in expected]
    assert paths(here / "p") == [f"{here}/p/{name}" for name in expected]
    assert paths(".")[0] == "./p/10.tif"
    assert paths("p/a", "p/c.txt", "p/a") == ["p/a/y.JPG", "p/a/z.png", "p/c.txt", "p/a/y.JPG", "p/a/z.png"]


def test_what_systems_leave_in_folders_is_left_out(here):
    touch(here, "p/.hidden.jpg", "p/._a.jpg", "p/__MACOSX/a.jpg", "p/.thumbs/a.jpg", "p/a.jpg")
    assert paths("p") == ["p/a.jpg"]
    assert paths("p/.hidden.jpg", "p/.thumbs") == ["p/.hidden.jpg", "p/.thumbs/a.jpg"]  # asked for by name


def test_an_empty_folder_gives_nothing(here):
    (here / "p").mkdir()
    assert paths("p") == []


def test_suffixes():
    known = known_suffixes()
    assert {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".jp2",
        ".heic",
    } <= known
    assert not {".pdf", ".eps", ".mpg", ".h5", ".wmf", ".txt", ""} & known


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p/*.jpg", ["p/a.jpg", "p/b.jpg"]),
        ("p/?.jpg", ["p/a.jpg", "p/b.jpg"]),
        ("p/[b-z].jpg", ["p/b.jpg"]),
        ("p/*", ["p/a.jpg", "p/b.jpg", "p/q/c.jpg", "p/q/r/d.png"]),
        ("p/**", ["p/a.jpg", "p/b.jpg", "p/q/c.jpg", "p/q/r/d.png"]),
        ("**/*.jpg", ["p/a.jpg", "p/b.jpg", "p/q/c.jpg"]),
        ("p/*/*.jpg", ["p/q/c.jpg"]),
        ("*/q/r", ["p/q/r/d.png"]),
        ("p/*.txt", ["p/notes.txt"]),
        ("p/.h*", ["p/.h.jpg"]),
        ("./p/a*.jpg", ["./p/a.jpg"]),
    ],
)
def test_patterns(pattern, expected, here):
    touch(here, "p/a.jpg", "p/b.jpg", "p/notes.txt", "p/.h.jpg", "p/q/c.jpg", "p/q/r/d.png")
    assert paths(pattern) == expected
    assert paths(f"{here}/{pattern.removeprefix('./')}") == [
        f"{here}/{e.removeprefix('./')}" for e in expected
    ]


def test_a_file_whose_name_looks_like_a_pattern(here):
    touch(here, "[1].jpg", "1.jpg")
    assert paths("[1].jpg") == ["[1].jpg"]
    (here / "[1].jpg").unlink()
    assert paths("[1].jpg") == ["1.jpg"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("nowhere.jpg", "no such file or folder"),
        ("@nowhere.txt", "no such list"),
        ("", "empty path"),
        ("nul\0.jpg", "no such file"),
        ("new\nline", r"new\\nline: no such file"),
    ],
)
def test_what_does_not_exist_is_said_at_once(argument, says, here):
    touch(here, "a.jpg")
    with pytest.raises(AesError, match=says) as caught:
        find_images(["a.jpg", argument])  # not even iterated
    assert str(caught.value).isprintable()


def test_no_arguments_and_patterns_without_a_match(here):
    with pytest.raises(AesError, match="no images given"):
        find_images([])
    with pytest.raises(AesError, match="no file matches"):
        list(find_images(["*.jpg"]))


def stdin(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_lists(end, here, monkeypatch):
    touch(here, "a.jpg", "é b.png", "notes.txt", "p/c.jpg")
    lines = ["a.jpg", "é b.png", "", "notes.txt", "p"]
    expected = ["a.jpg", "é b.png", "notes.txt", "p/c.jpg"]
    for data in (end.join(lines), end.join(lines) + end, "\ufeff" + end.join(lines)):
        (here / "list.txt").write_bytes(data.encode())
        assert paths("@list.txt") == expected
        stdin(monkeypatch, data.encode())
        assert paths("-") == expected


def test_a_list_of_names_with_newlines(here):
    touch(here, "new\nline.jpg", "[x].jpg")
    (here / "list").write_bytes(b"new\nline.jpg\0[x].jpg")
    assert paths("@list") == ["new\nline.jpg", "[x].jpg"]


def test_a_bad_entry_of_a_list_does_not_end_it(here):
    touch(here, "a.jpg")
    (here / "list").write_bytes(b"gone.jpg\n" + b"z" * 5000 + b"\na.jpg\n")
    items = list(find_images(["@list"]))
    assert items[0] == Found("gone.jpg", "the file does not exist; correct the list of paths")
    assert items[1].path == "z" * 5000  # what the system does not even look up is for the decoder to report
    assert items[2] == Found("a.jpg")
    (here / "list2").write_bytes(b"a.jpg\n" + b"a.jpg\n" * 20_000 + b"x\0y\n")
    items = list(find_images(["@list2"]))
    assert len(items) == 20_002
    assert "NUL" in items[-1].error


def test_a_list_is_read_as_it_arrives(here, monkeypatch):
    """A slow producer (`find … | aes score -`): its first path comes out before its last goes in."""
    touch(here, "a.jpg", "b.jpg")
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(reading, "rb")))
    os.write(writing, b"a.jpg\n")
    stream = find_images(["-"])
    assert next(stream).path == "a.jpg"
    os.write(writing, b"b.jpg")
    os.close(writing)
    assert next(stream).path == "b.jpg"
    assert next(stream, None) is None


def test_files_named_like_lists(here):
    touch(here, "@a.jpg", "-")
    assert paths("./@a.jpg", "./-") == ["./@a.jpg", "./-"]


def test_symbolic_links(here):
    touch(here, "p/a.jpg", "q/b.jpg")
    (here / "p/loop").symlink_to(".")
    (here / "p/up").symlink_to("..")
    (here / "p/q").symlink_to("../q")
    (here / "q/p").symlink_to("../p")
    (here / "p/self.jpg").symlink_to("self.jpg")
    (here / "p/gone.jpg").symlink_to("nowhere")
    # each folder once, however many links lead to it; links that lead nowhere are for the decoder to report
    assert paths("p") == ["p/a.jpg", "p/gone.jpg", "p/q/b.jpg", "p/self.jpg"]
    found = paths("**/*.jpg")
    assert len(found) == len(set(found))
    assert {"p/a.jpg", "q/b.jpg"} <= set(found)


def test_an_unreadable_folder_is_named(here, monkeypatch):
    """Root may read everything, so the system's answer is played."""
    touch(here, "p/a.jpg", "p/locked/b.jpg", "p/z.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(finding.os, "scandir", refuse)
    items = list(find_images(["p"]))
    assert [i.path for i in items] == ["p/a.jpg", "p/locked", "p/z.jpg"]
    assert "Permission denied" in items[1].error
    assert items[1].error.isprintable()
    (item,) = find_images(["p/locked"])
    assert "Permission denied" in item.error


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_locked_by_the_system(here):
    touch(here, "p/a.jpg")
    (here / "p").chmod(0)
    try:
        (item,) = find_images(["p"])
    finally:
        (here / "p").chmod(0o755)
    assert "cannot be read" in item.error


@pytest.fixture
def deep(here):
    """Nested folders d/d/d/…, taken away again one by one: Python's own clean-up recurses and would fail."""
    yield here
    while os.path.isdir("d/d"):
        os.rename("d/d", "e")
        for name in os.listdir("d"):
            os.unlink(f"d/{name}")
        os.rmdir("d")
        os.rename("e", "d")


def deepen(levels: int) -> None:
    """d → d/d/…/d."""
    for _ in range(levels):
        os.rename("d", "e")
        os.mkdir("d")
        os.rename("e", "d/d")


def test_a_folder_deeper_than_python_recurses_or_the_system_names(deep):
    touch(deep, "d/deep.jpg")
    deepen(1499)
    assert paths("d") == ["d/" * 1500 + "deep.jpg"]
    deepen(600)
    (item,) = find_images(["d"])
    assert item.error is None or "cannot be read" in item.error
    assert item.error is not None or item.path.endswith("deep.jpg")


def test_the_stream_holds_no_list(here):
    touch(here, *(f"p/{folder}/{n}.jpg" for folder in range(5) for n in range(3)))
    stream = find_images(["p"])
    assert next(stream).path == "p/0/0.jpg"
    touch(here, "p/4/new.jpg")  # a folder is read when its turn comes
    assert "p/4/new.jpg" in [f.path for f in stream]


NAME = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda n: len(n.encode()) < 200 and not n.startswith("."))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAME, max_size=8))
def test_any_name_is_found_by_folder_and_by_list(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    names = {n for n in names if n != "__MACOSX"}
    for name in names:
        (folder / f"{name}.jpg").write_bytes(b"x")
    expected = sorted((f"{folder}/{n}.jpg" for n in names), key=os.fsencode)
    assert paths(folder) == expected
    (folder / "list.txt").write_bytes(b"\0".join(map(os.fsencode, expected)) + b"\0")
    assert paths(f"@{folder}/list.txt") == expected


@given(st.text())
def test_printable_is_one_line_and_keeps_what_can_be_shown(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_printable_shows_undecodable_bytes():
    assert printable(os.fsdecode(b"a\xffb") if sys.platform != "win32" else "a\udcffb") == "a\\udcffb"


def test_lists_in_utf_16(here, monkeypatch):
    touch(here, "é.jpg", "b.jpg")
    for encoding in ("utf-16", "utf-16-le"):
        text = "\ufeff" * (encoding != "utf-16") + "é.jpg\r\nb.jpg\r\n"
        (here / "list.txt").write_bytes(text.encode(encoding))
        assert paths("@list.txt") == ["é.jpg", "b.jpg"]
    (here / "list.txt").write_bytes("./b.jpg\n".encode("utf-16-le"))
    with pytest.raises(AesError, match="UTF-16 without its mark; save it as UTF-8"):
        paths("@list.txt")
    (here / "list.txt").write_bytes("\ufeffb.jpg\n".encode("utf-16-le")[:-1])
    with pytest.raises(AesError, match="damaged UTF-16"):
        paths("@list.txt")


def test_stereo_pictures_are_found(here):
    touch(here, "p/a.mpo", "p/b.MPO")
    assert paths("p") == ["p/a.mpo", "p/b.MPO"]
