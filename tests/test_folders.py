"""Folders and files that appear whole or not at all, also when a rename fails or is interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aescli.errors import AesError
from aescli.folders import whole_folder, write_whole


def fill(folder, text):
    with whole_folder(folder) as staging:
        (staging / "a").write_text(text)


def test_a_folder_takes_the_place_of_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    fill(tmp_path / "f", "one")
    fill(tmp_path / "f", "two")
    assert (tmp_path / "f" / "a").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_a_failed_or_interrupted_rename_leaves_the_old_folder_or_the_new_one(
    tmp_path, monkeypatch, failure, after, which
):
    fill(tmp_path / "f", "one")
    rename, calls = Path.rename, []

    def stopped(path, target):
        calls.append(path)
        if len(calls) != which + 1:
            return rename(path, target)
        if after:
            rename(path, target)
        raise failure

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(type(failure)):
        fill(tmp_path / "f", "two")
    assert (tmp_path / "f" / "a").read_text() == ("two" if after and which else "one")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_block_that_fails_leaves_the_old_folder(tmp_path):
    fill(tmp_path / "f", "one")
    with pytest.raises(TypeError):
        fill(tmp_path / "f", None)
    assert (tmp_path / "f" / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_files_appear_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    write_whole({first: "1\r\n", second: "2\n"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1\r\n", b"2\n")
    with pytest.raises(AesError, match=r"b.csv cannot be written: No such file or directory; check the path"):
        write_whole({first: "4", tmp_path / "none" / "b.csv": "5"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1\r\n", b"2\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_links_are_followed_pipes_written_into_and_half_characters_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_text("old")
    (tmp_path / "link").symlink_to("real/old")
    write_whole({tmp_path / "link": "new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "old").read_text() == "new"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link", "old", "real"]
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_whole({tmp_path / "pipe": "through"})
    assert reader.communicate(timeout=20)[0] == b"through"
    assert (tmp_path / "pipe").is_fifo()
    write_whole({tmp_path / "a.json": json.dumps({"name": "bad\udcff"}, ensure_ascii=False)})
    assert json.loads((tmp_path / "a.json").read_bytes().decode("ascii")) == {"name": "bad\udcff"}


def test_an_own_stream_goes_on_where_it_stands(tmp_path):
    (tmp_path / "log").write_text("before\n")
    code = "import pathlib, aescli.folders as f; f.write_whole({pathlib.Path('/dev/stdout'): 'x\\n'})"
    with (tmp_path / "log").open("a") as file:
        for _ in range(2):
            subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "log").read_text() == "before\nx\nx\n"
