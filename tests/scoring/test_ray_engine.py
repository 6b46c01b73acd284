"""The Ray engine on a local cluster of two workers, beside the local engine."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fake_model
import numpy as np
import pytest
from PIL import Image

from aescli.cli import main
from aescli.data.finding import Found
from aescli.errors import AesError, UsageError
from aescli.scoring import ray_engine
from aescli.scoring.ray_engine import Job, check_options, run_on_ray
from aescli.scoring.rows import Layout
from aescli.scoring.where import Where

HAS_RAY = all(importlib.util.find_spec(n) for n in ("ray", "pyarrow"))
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs ray and pyarrow")


@pytest.fixture(scope="module")
def cluster():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        here = str(Path(fake_model.__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_raylet_start_wait_time_s", "180")  # a busy machine takes its time
        ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 grey pictures, among them two broken ones and a name that is not Unicode."""
    folder = tmp_path_factory.mktemp("in")
    for k in range(60):
        Image.new("L", (40, 40), 4 * k).save(folder / f"{k:02d}.png")
    (folder / "07.png").write_bytes(b"")
    (folder / "33.png").write_bytes(b"no picture")
    os.rename(folder / "44.png", os.fsencode(folder) + b"/44\xff.png")
    names = sorted(os.listdir(os.fsencode(folder)))
    return [Found(os.path.join(folder, os.fsdecode(n))) for n in names] + [Found("gone", "it cannot be read")]


def job(load=None, **changes) -> Job:
    options = {
        "layout": Layout(probabilities=True),
        "faces": "none",
        "keep": None,
        "batch_size": 4,
        "workers": 1,
    }
    return Job(load or functools.partial(fake_model.load_fake), **{**options, "device": "cpu", **changes})


def local(images, out: Path, task: Job) -> list[dict]:
    """The local engine's rows, read from its own Parquet file."""
    import pyarrow.parquet as pq

    from aescli.scoring.output import FileOutput
    from aescli.scoring.prepare import Preparer
    from aescli.scoring.run import run

    predictor = task.load(device="cpu")
    output = FileOutput(str(out), "parquet", task.layout, {}, keep=task.keep)
    run(
        images,
        Preparer(predictor.preprocessing, "none", text=task.text),
        predictor,
        output,
        batch_size=4,
        workers=2,
    )
    return pq.read_table(out).to_pylist()


def read(folder: Path) -> list[dict]:
    import pyarrow.parquet as pq

    rows = [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: (row["image_index"], row["face_index"] or 0))


@needs_ray
@pytest.mark.slow
def test_two_workers_give_the_local_engines_rows(cluster, images, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_PIECE", 8)
    task = job()
    summary = run_on_ray(images, str(tmp_path / "out"), task)
    assert (summary.ok, summary.failed, summary.no_face) == (58, 3, 0)
    rows = read(tmp_path / "out")
    assert [row.pop("image_index") for row in rows] == list(range(61))
    assert rows == local(images, tmp_path / "local.parquet", task)
    files = os.listdir(tmp_path / "out")
    assert len(files) > 2
    assert all(name.endswith(".parquet") for name in files)
    assert sorted(os.listdir(tmp_path)) == ["local.parquet", "out"]


class Mortal(fake_model.FakePredictor):
    """Kills its process at the first dark picture, once in all."""

    def __init__(self, marker: str):
        super().__init__()
        self.marker = marker

    def predict(self, images, texts=()):
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().predict(images, texts)
        os._exit(9)


def mortal(marker: str, device: str = "cpu") -> Mortal:
    return Mortal(marker)


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_no_row_is_lost_or_doubled(cluster, images, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_PIECE", 8)
    keep = Where("score > 2", Layout())
    marker = tmp_path / "killed"
    summary = run_on_ray(
        images, str(tmp_path / "out"), job(functools.partial(mortal, str(marker)), keep=keep)
    )
    assert marker.exists()
    rows = read(tmp_path / "out")
    for row in rows:
        del row["image_index"]
    expected = local(images, tmp_path / "local.parquet", job(keep=keep))
    assert 20 < len(expected) < 50
    assert rows == expected
    assert summary.ok == len(expected)


@needs_ray
@pytest.mark.slow
def test_the_command(cluster, images, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", fake_model.load_fake)
    folder = str(Path(images[0].path).parent)
    for _ in range(2):  # the second run replaces the first one's result
        with pytest.raises(SystemExit) as stop:
            main(["score", folder, "--faces", "none", "--engine", "ray", "-o", str(tmp_path / "out")])
        assert not stop.value.code
        assert "60 images: 58 scored, 2 failed" in capfd.readouterr().err
    scores = [row["score"] for row in read(tmp_path / "out")]
    assert np.isfinite([s for s in scores if s is not None]).all()
    assert os.listdir(tmp_path) == ["out"]


class Reader(fake_model.FakePredictor):
    """Scores the number of words."""

    reads_text = True

    def predict(self, images, texts=()):
        words = np.array([float(len(text.split())) for text in texts])
        return super().predict(images)._replace(scores=words)


def reader(device: str = "cpu") -> Reader:
    return Reader()


@needs_ray
@pytest.mark.slow
def test_comments_reach_the_workers(cluster, images, tmp_path, monkeypatch):
    from aescli.scoring.comments import Comments

    monkeypatch.setattr(ray_engine, "_PIECE", 8)
    table = tmp_path / "c.csv"
    lines = [f"{k:02d}.png,{'fine ' * (k % 5 + 1)}" for k in range(0, 60, 2)]
    table.write_text("image,comment\n" + "\n".join(lines) + "\n")
    task = job(reader, text=Comments(table))
    summary = run_on_ray(images, str(tmp_path / "out"), task)
    rows = read(tmp_path / "out")
    assert [row.pop("image_index") for row in rows] == list(range(61))
    assert rows == local(images, tmp_path / "local.parquet", task)
    assert summary.ok == 29  # every other one; 44 has another name
    assert {row["score"] for row in rows} == {None, 1.0, 2.0, 3.0, 4.0, 5.0}


@needs_ray
@pytest.mark.slow
def test_ray_says_nothing_on_the_terminal(images, tmp_path):
    folder = str(Path(images[0].path).parent)
    words = ["score", folder, "--faces", "none", "--engine", "ray", "-o", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(
        [sys.executable, fake_model.__file__, *words],
        capture_output=True,
        text=True,
        timeout=560,
        env={**os.environ, "RAY_raylet_start_wait_time_s": "180"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(read(tmp_path / "out")) == 60


@needs_ray
def test_a_cluster_that_is_not_there_is_said(images, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody\nanswers")))
    with pytest.raises(AesError, match="--engine ray: no cluster: answers; check RAY_ADDRESS"):
        run_on_ray(images, str(tmp_path / "out"), job())
    assert os.listdir(tmp_path) == []


@needs_ray
@pytest.mark.parametrize("names", [("a", "b"), ("path", "score", "image_index"), None])
def test_parquet_files_of_others_stay(images, tmp_path, names):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    out.mkdir()
    if names is None:
        (out / "x.parquet").write_bytes(b"no Parquet")
    else:
        pq.write_table(pa.table({name: [1, 2] for name in names}), out / "x.parquet")
    before = (out / "x.parquet").read_bytes()
    with pytest.raises(AesError, match="is no result of --engine ray"):
        run_on_ray(images, str(out), job())
    assert (os.listdir(tmp_path), (out / "x.parquet").read_bytes()) == (["out"], before)


@needs_ray
def test_what_lies_there_is_not_replaced(images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(AesError, match="is no result of --engine ray"):
        run_on_ray(images, str(tmp_path / "out"), job())
    (tmp_path / "out" / "mine.txt").rename(tmp_path / "out" / "part.parquet")
    with pytest.raises(AesError, match="exists; give another"):
        run_on_ray(images, str(tmp_path / "out"), job(), no_clobber=True)
    with pytest.raises(AesError, match="no images were found"):
        run_on_ray([], str(tmp_path / "none"), job())
    assert os.listdir(tmp_path) == ["out"]


@needs_ray
def test_an_actor_is_the_local_pipeline(images):
    import pyarrow as pa

    actor = ray_engine.Actor(job())
    paths = [os.fsencode(f.path) for f in images[:9]]
    piece = {"image_index": range(100, 109), "path": paths, "error": [None] * 9}
    table = actor(pa.table(piece)).to_pylist()
    assert [row["image_index"] for row in table] == list(range(100, 109))
    assert [row["error"] is None for row in table] == [k != 7 for k in range(9)]
    assert table[5]["score"] == round(1 + 4 * 20 / 255, 4)


def test_options_that_do_not_go_together():
    with pytest.raises(UsageError, match="needs --out FOLDER"):
        check_options(None, None, {})
    with pytest.raises(UsageError, match="writes Parquet, not csv"):
        check_options("x", "csv", {})
    with pytest.raises(UsageError, match="--gallery does not go with"):
        check_options("x", None, {"--top": None, "--gallery": "g.html"})
    check_options("x", "parquet", {"--resume": False})
