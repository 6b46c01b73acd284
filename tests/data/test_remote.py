"""Pictures in a store elsewhere; fsspec's memory:// stands for it."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aescli.data import remote
from aescli.data.finding import find_images
from aescli.data.images import ImageError, load_image
from aescli.errors import AesError

fsspec = pytest.importorskip("fsspec")
sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (40, 40), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def store():
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    for name, value in [("b/2.png", 20), ("b/10.png", 100), ("b/sub/1.png", 10), ("b/.hidden/x.png", 1)]:
        store.pipe(f"/{name}", png(value))
    store.pipe("/b/notes.txt", b"no picture")
    store.pipe("/b/sub/broken.png", b"")
    yield store
    store.store.clear()


def found(*inputs) -> list[str]:
    return [f.path for f in find_images(inputs)]


def test_addresses_are_told_from_paths():
    assert all(map(remote.is_remote, ["s3://b/x.jpg", "gs://b", "memory://b/x", "https://h/x.jpg?y=1"]))
    assert not any(
        map(remote.is_remote, ["a/b.jpg", "/a//b", "C://x", "x:y", "s3:/b", "://x", "a b://c", ""])
    )


def test_folders_files_patterns_and_lists(store, tmp_path):
    folder = ["memory://b/10.png", "memory://b/2.png", "memory://b/sub/1.png", "memory://b/sub/broken.png"]
    assert [p.replace("memory:///", "memory://") for p in found("memory://b")] == folder
    assert found("memory://b/2.png") == ["memory://b/2.png"]
    assert found("memory://b/notes.txt") == ["memory://b/notes.txt"]  # named: tried all the same
    assert [os.path.basename(p) for p in found("memory://b/*.png")] == ["10.png", "2.png"]
    assert [os.path.basename(p) for p in found("memory://b/s*")] == ["1.png", "broken.png"]
    (tmp_path / "list.txt").write_text("memory://b/2.png\nmemory://b/gone.png\n")
    assert found(f"@{tmp_path / 'list.txt'}") == ["memory://b/2.png", "memory://b/gone.png"]


def test_what_is_not_there_is_said_at_once(store):
    with pytest.raises(AesError, match="memory://b/gone: no such file"):
        find_images(["memory://b/gone"])
    with pytest.raises(AesError, match="no file matches"):
        found("memory://b/*.tif")
    with pytest.raises(AesError, match="nosuchscheme:// paths cannot be read here"):
        find_images(["nosuchscheme://b"])


def test_pictures_are_fetched_and_failures_explained(store, monkeypatch):
    assert int(load_image("memory://b/2.png").pixels[0, 0, 0]) == 20
    with pytest.raises(ImageError, match="is empty"):
        load_image("memory://b/sub/broken.png")
    with pytest.raises(ImageError, match=r"cannot be fetched|does not exist"):
        load_image("memory://b/gone.png")
    monkeypatch.setattr(remote, "MOST_BYTES", 10)
    with pytest.raises(ImageError, match="such a file is not fetched"):
        load_image("memory://b/2.png")

    def offline(*_, **__):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(type(store), "cat_file", offline)
    with pytest.raises(ImageError, match="cannot be fetched: RuntimeError: no credentials"):
        load_image("memory://b/2.png")


def test_a_changed_file_is_recognised(store, tmp_path):
    before = remote.status("memory://b/2.png")
    assert remote.status("memory://b/2.png") == before
    assert before[0] == len(png(20))
    store.pipe("/b/2.png", png(21))
    assert remote.status("memory://b/2.png") != before
    with pytest.raises(FileNotFoundError):
        remote.status("memory://b/gone.png")
    (tmp_path / "x").write_text("abc")
    assert remote.status(str(tmp_path / "x")) == (3, (tmp_path / "x").stat().st_mtime_ns)


def test_without_fsspec_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    remote._store.cache_clear()
    with pytest.raises(AesError, match=r"pip install 'aescli\[remote\]'"):
        find_images(["s3://b/x"])
    remote._store.cache_clear()


def test_scoring_resuming_and_copying(store, tmp_path, monkeypatch, capfdbinary):
    import csv

    from fake_model import load_fake

    from aescli.cli import main
    from aescli.scoring.journal import Journal

    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", load_fake)
    out = tmp_path / "s.csv"

    def aes(*words):
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "score",
                    "memory://b",
                    "--faces",
                    "none",
                    "-o",
                    str(out),
                    "--batch-size",
                    "1",
                    *map(str, words),
                ]
            )
        return stop.value.code or 0, capfdbinary.readouterr().err.decode()

    discard, Journal.discard = Journal.discard, Journal.close
    try:
        best = tmp_path / "best"
        code, err = aes("--where", "score > 1.2", "--copy-to", best, "--gallery", tmp_path / "g.html")
    finally:
        Journal.discard = discard
    assert code == 0
    assert sorted(os.listdir(best)) == ["10.png", "2.png"]
    assert np.asarray(Image.open(best / "10.png"))[0, 0] == 100
    code, err = aes("--resume", "--copy-to", best)
    assert "3 of them in an earlier run" in err
    assert sorted(os.listdir(best)) == ["1.png", "10.png", "2.png"]
    scores = [row["score"] for row in csv.DictReader(out.open())]
    assert scores == [f"{1 + 4 * v / 255:.4f}" for v in (100, 20, 10)] + [""]
    assert aes("--link-to", tmp_path / "links")[0] == 2
