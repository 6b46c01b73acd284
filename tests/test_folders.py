"""Folders and files that appear whole or not at all, also when a rename fails or is interrupted."""

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
    with pytest.raises(UnicodeEncodeError):
        write_whole({first: "3", second: "\udcff"})
    with pytest.raises(AesError, match=r"b.csv cannot be written: No such file or directory; check the path"):
        write_whole({first: "4", tmp_path / "none" / "b.csv": "5"})
    assert (first.read_bytes(), second.read_bytes()) == (b"1\r\n", b"2\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
