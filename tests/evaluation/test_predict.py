"""A data set scored by a model: as `aes score` does it, comments and all."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from aescli.errors import UsageError
from aescli.evaluation.predict import score_with
from aescli.scoring.predictor import Prediction


class Reader:
    """A model whose score is the length of the comment."""

    task, scale, classes, digest, cuts = "miaa", (1.0, 10.0), 0, "reader", ()
    distribution, attributes, reads_text = False, (), True
    preprocessing = SimpleNamespace(size=32, fit="pad", faces=False, eye_mouth=0.36, eye_y=0.39)
    concurrency, batch_size = 2, 4

    def predict(self, images, texts=()):
        nothing = np.empty((len(images), 0))
        return Prediction(np.array([float(len(text)) for text in texts]), nothing, nothing, nothing)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("aescli.models.exported.model_folder", lambda spec: tmp_path / "model")
    comments = ["sharp", None, "", "a good one"]
    for i in range(4):
        Image.new("RGB", (40, 40), (60 * i, 90, 90)).save(tmp_path / f"{i}.png")
    samples = [SimpleNamespace(path=tmp_path / f"{i}.png", comment=c) for i, c in enumerate(comments)]
    return SimpleNamespace(samples=samples)


def test_a_model_that_reads_gets_each_pictures_comment(pictures):
    rows = score_with(Reader(), pictures, spec="reader").rows.rows
    assert [row.score for row in rows if not row.error] == [5.0, 10.0]
    assert sum("comment" in row.error for row in rows) == 2


def test_labels_without_any_comment_are_refused(pictures):
    for sample in pictures.samples:
        sample.comment = None
    with pytest.raises(UsageError, match="no picture of --data has one"):
        score_with(Reader(), pictures, spec="reader")


def test_a_prompt_is_no_comment(pictures):
    reader = Reader()
    reader.task = "piaa"
    rows = score_with(reader, pictures, spec="reader").rows
    assert [row.score for row in rows.rows] == [0.0] * 4


def test_a_photo_model_scores_whole_pictures(pictures, monkeypatch):
    monkeypatch.setattr("aescli.scoring.prepare.FaceDetector", lambda: pytest.fail("no face is looked for"))
    rows = score_with(Reader(), pictures, spec="reader", faces="auto").rows.rows
    assert sum(not row.error for row in rows) == 2
