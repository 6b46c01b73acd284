import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aescli.scoring.journal import Journal, JournalError, journal_path
from aescli.scoring.rows import NO_FACE, ImageResult, Row, scored_row

OPTIONS = {"model": "m1", "--faces": "auto"}


def result(path: Path, *, error: str = "") -> ImageResult:
    stat = path.stat()
    row = Row(str(path), error=error) if error else scored_row(str(path), 0, (1, 2, 3, 4), 2.5, [0.5, 0.5])
    return ImageResult(str(path), [row], stat.st_size, stat.st_mtime_ns)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [
        folder / name for name in ("a.jpg", "b\n.jpg", os.fsdecode(b"c\xff.jpg"), "d.jpg", "e.jpg", "f.jpg")
    ]
    for k, path in enumerate(paths):
        path.write_bytes(b"x" * (k + 1))
    return paths


@pytest.fixture
def full(tmp_path, files):
    """A journal of three batches of two."""
    path = tmp_path / "out.csv.journal"
    journal = Journal.open(path, OPTIONS, resume=False)
    for start in (0, 2, 4):
        journal.append([result(p) for p in files[start : start + 2]])
    journal.close()
    return path


def known(path: Path, files: list[Path]) -> list[bool]:
    journal = Journal.open(path, OPTIONS, resume=True)
    try:
        return [journal.find(str(p)) is not None for p in files]
    finally:
        journal.close()


def test_finished_images_are_found_with_their_rows(full, files):
    journal = Journal.open(full, OPTIONS, resume=True)
    assert journal.known_count == 6
    for path in reversed(files):
        offset, found = journal.find(str(path))
        assert found == result(path) == journal.read(offset)
    assert journal.find("elsewhere.jpg") is None
    journal.close()


def test_every_possible_torn_end_is_recognised(full, files):
    """Cut at any byte, the journal is continued after the last batch that is whole."""
    data = full.read_bytes()
    ends = [0]
    for line in data.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    whole_batches = ends[1::2]  # header, then two lines per batch
    for cut in range(len(data) + 1):
        full.write_bytes(data[:cut])
        journal = Journal.open(full, OPTIONS, resume=True)
        count = journal.known_count
        journal.close()
        assert count == 2 * max(0, sum(end <= cut for end in whole_batches) - 1), cut
        assert full.read_bytes() == data[: max(whole_batches[count // 2], ends[1])], cut


@pytest.mark.parametrize("damage", [b"\0" * 4096, b"garbage", b"0" * 8 + b' {"path": "x"}\n'])
def test_a_tail_that_power_loss_left_is_cut_off(full, files, damage):
    data = full.read_bytes()
    full.write_bytes(data + damage)
    assert known(full, files) == [True] * 6
    assert full.read_bytes() == data


def test_a_flipped_byte_loses_only_what_follows(full, files):
    data = bytearray(full.read_bytes())
    at = data.index(b"d.jpg")
    data[at] ^= 1
    full.write_bytes(data)
    assert known(full, files) == [True, True, False, False, False, False]


def test_changed_files_are_scored_again(full, files):
    files[0].write_bytes(b"longer than before")
    stat = files[1].stat()
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    files[3].unlink()
    assert known(full, files) == [False, False, True, False, True, True]


def test_the_later_record_of_a_path_counts(full, files):
    files[0].write_bytes(b"changed")
    journal = Journal.open(full, OPTIONS, resume=True)
    assert journal.find(str(files[0])) is None
    journal.append([result(files[0])])
    journal.close()
    assert known(full, files) == [True] * 6


def test_failed_images_are_tried_again_and_faceless_ones_are_not(tmp_path, files):
    path = tmp_path / "j"
    journal = Journal.open(path, OPTIONS, resume=False)
    journal.append([result(files[0], error="permission denied"), result(files[1], error=NO_FACE)])
    journal.close()
    assert known(path, files)[:2] == [False, True]


def test_other_options_are_refused_and_named(full):
    before = full.read_bytes()
    with pytest.raises(JournalError, match=r"begun with --faces auto, this run has all;.*without --resume"):
        Journal.open(full, {**OPTIONS, "--faces": "all"}, resume=True)
    with pytest.raises(JournalError, match=r"begun with model m1, this run has m2"):
        Journal.open(full, {**OPTIONS, "model": "m2"}, resume=True)
    assert full.read_bytes() == before


def test_without_resume_it_starts_again(full, files):
    Journal.open(full, OPTIONS, resume=False).close()
    assert known(full, files) == [False] * 6


def test_a_second_run_is_kept_away_until_the_first_ends(full, tmp_path):
    first = Journal.open(full, OPTIONS, resume=True)
    with pytest.raises(JournalError, match=r"another run is writing .*out\.csv;"):
        Journal.open(full, OPTIONS, resume=True)
    first.close()
    Journal.open(full, OPTIONS, resume=True).discard()
    assert not full.exists()


def test_the_lock_of_a_killed_process_is_gone(full):
    code = f"""
        import os, signal
        from aescli.scoring.journal import Journal
        Journal.open(__import__("pathlib").Path({str(full)!r}), {json.dumps(OPTIONS)}, resume=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == -9
    Journal.open(full, OPTIONS, resume=True).close()


def test_a_full_disk_leaves_whole_lines(full, files, monkeypatch):
    journal = Journal.open(full, OPTIONS, resume=True)
    before = full.read_bytes()
    real = os.pwrite

    def short(descriptor, data, offset):
        if len(data) > 40:
            return real(descriptor, data[:40], offset)  # a part still fits
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(OSError, match="No space left"):
        journal.append([result(files[0]), result(files[1])][:1])
    journal.close()
    assert full.read_bytes() == before


def test_an_unused_journal_of_a_full_disk_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(JournalError, match="no space left on the device"):
        Journal.open(tmp_path / "j", OPTIONS, resume=False)
    assert not (tmp_path / "j").exists()


def test_path_of_the_journal():
    assert journal_path("x/scores.csv") == Path("x/scores.csv.journal")
