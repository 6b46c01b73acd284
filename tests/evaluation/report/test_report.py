"""The report of a made-up evaluation: what the folder holds, that the page stands alone, how a browser lays it out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")

from aescli.data.datasets import read_dataset
from aescli.errors import AesError
from aescli.evaluation.evaluate import evaluate
from aescli.evaluation.predictions import PredictedRow, PredictedRows, read_predictions
from aescli.evaluation.report import METRICS, PAGE, PREDICTIONS, write_report
from aescli.evaluation.report.gallery import extremes
from aescli.evaluation.report.style import PALETTE
from aescli.evaluation.utilisation import Utilisation

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome")
                 if (found := shutil.which(name))), None)  # fmt: skip
N = 60


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """60 small pictures in two groups with two rated attributes, predicted with noise; 40 of them are the test part."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, predicted = ["image,score,composition,place"], []
    for i in range(N):
        score = 1 + 4 * i / (N - 1)
        level = int(40 * score)
        Image.new("RGB", (50 + i % 3 * 20, 60), (level, 90, 250 - level)).save(root / "images" / f"<{i}>.png")
        rows.append(f"<{i}>.png,{score:.4f},{6 - score:.4f},{'north & south' if i % 2 else 'east'}")
        p = np.exp(-2 * np.abs(np.arange(1, 6) - score - rng.normal(0, 0.4)))
        probabilities = tuple((p / p.sum()).tolist())
        predicted.append(
            PredictedRow(f"<{i}>.png", score + rng.normal(0, 0.4), int(p.argmax()), probabilities)
        )
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    dataset = read_dataset("csv", root / "labels.csv", root / "images",
                           score_columns=["score", "composition"], scale=(1, 5))  # fmt: skip
    return evaluate(
        PredictedRows("a <model> & co", predicted, (1.0, 5.0)),
        dataset,
        keep=range(0, 40),
        train=range(40, N),
        against=PredictedRows(
            "the other", [PredictedRow(r.path, 3 + 0.1 * r.score) for r in predicted], (1.0, 5.0)
        ),
        group_by="place",
        resamples=100,
    )


USE = {"regression": Utilisation(40, np.array([0.7, 0.2, 0.1]), np.array([1.0, 0.6, 0.4]))}


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    write_report(result, out / "first", utilisation=USE)
    write_report(result, out / "report", utilisation=USE, repeats=[out / "first", out / "first" / METRICS])
    return out / "report"


FIGURES = ["attributes", "categories", "confusion", "experts", "groups", "labels", "prediction_truth", "repeats",
           "score_distributions"]  # fmt: skip


def test_every_figure_is_there_as_png_and_svg(folder):
    assert sorted(path.stem for path in folder.glob("*.png")) == FIGURES
    assert sorted(path.stem for path in folder.glob("*.svg")) == FIGURES
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) >= 250
        assert pixels.std() > 5, "something is drawn"
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_figures_say_what_was_measured(result, folder):
    def words(name: str) -> str:
        return " ".join(ET.parse(folder / f"{name}.svg").getroot().itertext())

    data = result.main.data
    rmse = np.sqrt(((data.pred - data.true) ** 2).mean())
    assert f"test, n = 40, RMSE {rmse:.3f}" in words("prediction_truth")
    assert "train, n = 20" in words("prediction_truth")
    right = [int(((data.true_class == k) & (data.pred_class == k)).sum()) for k in range(4)]
    found = re.findall(r"\b\d+\b", words("confusion"))
    assert all(str(n) in found for n in right)
    assert "north & south (20)" in words("groups")
    assert "3 folds or repeats" in words("repeats")
    assert "composition" in words("attributes")


def test_metrics_and_predictions_can_be_read_again(result, folder):
    document = json.loads((folder / METRICS).read_text())
    assert document["subsets"] == result.to_dict()["subsets"]
    assert document["train_test_gap"]["MAE"]["value"] == result.gap["MAE"].value
    assert document["comparison"]["differences"]["SRCC"]["p"] == result.comparison.differences["SRCC"].p
    assert document["experts"]["regression"]["probability"] == [0.7, 0.2, 0.1]
    assert document["repeats"]["MAE"] == [result.main.metrics["MAE"].value] * 3
    again = evaluate(
        read_predictions(folder / PREDICTIONS),
        result.dataset,
        keep=range(0, 40),
        train=range(40, N),
        resamples=0,
    )
    for name, estimate in result.main.metrics.items():
        assert again.main.metrics[name].value == pytest.approx(estimate.value, abs=1e-12, nan_ok=True)
    assert again.train.metrics["RMSE"].value == pytest.approx(result.train.metrics["RMSE"].value, abs=1e-12)


def test_the_page_needs_nothing_but_itself(folder):
    html = (folder / PAGE).read_text()
    assert "<script" not in html
    outside = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html))
    assert all(target.startswith(("data:", "#")) for target in outside), outside
    assert set(re.findall(r"https?://[^\s\"'<>]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    targets = {t[1:] for t in outside if t.startswith("#")}
    assert targets <= set(ids), "every reference inside the figures is kept"


def test_names_from_outside_are_text_and_not_markup(folder):
    html = (folder / PAGE).read_text()
    assert "a &lt;model&gt; &amp; co" in html
    assert "<model>" not in html
    assert "&lt;39&gt;.png" in html
    assert "north &amp; south" in html


def test_the_figures_follow_the_theme(folder):
    html = (folder / PAGE).read_text()
    figures = html[html.index('<div class="figures">') :]
    for colour, value in PALETTE.items():
        assert value not in figures, colour
    assert figures.count("var(--ink)") > 50
    dark = html[html.index("prefers-color-scheme: dark") :]
    assert all(f"--{name}:" in dark[: dark.index("* {")] for name in PALETTE)
    assert PALETTE["ink"] in (folder / "confusion.svg").read_text(), "the files themselves keep plain colours"


def test_a_second_report_in_the_same_folder_leaves_no_older_figure(result, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    write_report(result, tmp_path / "again")
    assert not (tmp_path / "again" / "repeats.png").exists()
    assert not (tmp_path / "again" / "experts.svg").exists()
    assert 'id="repeats"' not in (tmp_path / "again" / PAGE).read_text()


def test_the_same_evaluation_gives_the_same_files(result, tmp_path):
    for name in ("a", "b"):
        write_report(result, tmp_path / name, utilisation=USE)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_page_says_how_it_was_made_and_greys_what_few_images_say(result, folder):
    html = (folder / PAGE).read_text()
    assert "Labels: labels.csv; chosen images; 100 resamples, seed 0; aescli " in html
    assert result.provenance == json.loads((folder / METRICS).read_text())["provenance"]
    few = sum(category.n < 10 for category in result.categories)
    assert 0 < few < len(result.categories)
    assert html.count('<tr class="faint">') == few
    assert not re.search(r"<td>[^<]*-\d", html), "minus signs, not hyphens"


def test_extremes_are_the_extremes():
    pred = np.array([3.0, 1.0, 5.0, 2.0, 4.0])
    true = np.array([3.0, 4.0, 5.0, 2.5, 4.0])
    assert extremes(pred, true, 2) == {
        "highest scores": [2, 4],
        "lowest scores": [1, 3],
        "largest errors": [1, 3],
    }


def test_a_repeat_that_is_none_is_refused(result, tmp_path):
    (tmp_path / "metrics.json").write_text("[]")
    for wrong in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AesError, match=r"holds no metrics\.json"):
            write_report(result, tmp_path / "out", repeats=[wrong])


def test_without_matplotlib_the_extra_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(AesError, match=r"pip install 'aescli\[report\]'"):
        write_report(result, tmp_path / "out")


# ---------------------------------------------------------------- in a browser

MEASURE = """
const frame = document.querySelector("iframe"), view = frame.contentWindow, page = frame.contentDocument;
const box = e => e.getBoundingClientRect(), found = {cut: [], overlap: [], faint: [], smallest: 99};
function light(rgb) {
  const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const paper = light(view.getComputedStyle(page.querySelector("section")).backgroundColor);
for (const svg of page.querySelectorAll("figure svg")) {
  const outer = box(svg), texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
  const boxes = texts.map(box), name = svg.closest("figure").id;
  texts.forEach((t, i) => {
    const b = boxes[i], label = name + ": " + t.textContent;
    if (b.left < outer.left - 1 || b.right > outer.right + 1 || b.top < outer.top - 1 || b.bottom > outer.bottom + 1)
      found.cut.push(label);
    for (let j = 0; j < i; j++) {
      const w = Math.min(b.right, boxes[j].right) - Math.max(b.left, boxes[j].left);
      const h = Math.min(b.bottom, boxes[j].bottom) - Math.max(b.top, boxes[j].top);
      if (w > 2 && h > 0.35 * Math.min(b.height, boxes[j].height) && !/rotate\\((?!-?0[ )]|-?90)/.test(t.outerHTML))
        found.overlap.push(label + " / " + texts[j].textContent);
    }
    found.smallest = Math.min(found.smallest, parseFloat(view.getComputedStyle(t).fontSize) * t.getScreenCTM().a
      || found.smallest);
    const ink = light(view.getComputedStyle(t).fill);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) found.faint.push(label + " " + contrast.toFixed(1));
  });
}
const root = page.documentElement;
found.overflow = root.scrollWidth - root.clientWidth;
found.figures = page.querySelectorAll("figure svg").length;
found.pictures = [...page.images].filter(i => i.complete && i.naturalWidth > 0).length;
found.background = view.getComputedStyle(page.body).backgroundColor;
found.columns = new Set([...page.querySelectorAll(".figures > figure")].map(f => Math.round(box(f).left))).size;
document.body.innerHTML = "<pre>" + JSON.stringify(found).replace(/[<&]/g, c => "&#" + c.charCodeAt() + ";") + "</pre>";
"""


def laid_out(page: Path, tmp_path: Path, width: int, dark: bool) -> dict:
    """What the browser makes of the page in a window of `width` CSS pixels."""
    html = page.read_text().replace('loading="lazy"', "")
    quoted = html.replace("&", "&amp;").replace('"', "&quot;")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body><iframe style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{quoted}"></iframe><script>window.onload = () => {{ {MEASURE} }};</script></body>'
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         f"--window-size={max(width, 600) + 40},1000", "--virtual-time-budget=5000", "--dump-dom",
         wrapper.as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    match = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    text = match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_every_label_whole_and_readable(folder, tmp_path, width, dark):
    found = laid_out(folder / PAGE, tmp_path, width, dark)
    assert found["figures"] == len(FIGURES)
    assert found["pictures"] == 18
    assert found["overflow"] <= 0, "the page itself never scrolls sideways"
    assert found["cut"] == []
    assert found["overlap"] == []
    assert found["faint"] == []
    assert found["smallest"] >= 6.5, "CSS pixels"
    assert found["columns"] == (1 if width == 360 else 2)
    assert found["background"] == ("rgb(17, 21, 27)" if dark else "rgb(245, 247, 250)")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_and_constant_predictions_make_a_report_too(tmp_path, count):
    names = [f"{'a long name of a group ' * 3}{i}" for i in range(count)]
    rows = "".join(f"{i}.jpg,{1 + i % 5},{name}\n" for i, name in enumerate(names))
    (tmp_path / "labels.csv").write_text("image,score,where\n" + rows)
    dataset = read_dataset("csv", tmp_path / "labels.csv", match_images=False, scale=(1, 5))
    constant = PredictedRows("constant", [PredictedRow(f"{i}.jpg", 3.0) for i in range(count)], (1.0, 5.0))
    result = evaluate(constant, dataset, group_by="where", resamples=20)
    page = write_report(result, tmp_path / "out", repeats=[])
    why = "there is one image only" if count == 1 else "all predictions are equal"
    assert f"not defined, because {why}" in page.read_text()
    write_report(result, tmp_path / "again", repeats=[tmp_path / "out"])
    assert (
        "nan"
        not in page.read_text().replace("-nan", "").lower().split("<body>")[1].split('class="figures"')[0]
    )
    assert (tmp_path / "again" / "repeats.png").is_file()


def test_a_report_is_written_whole_or_not_at_all(result, folder, tmp_path, monkeypatch):
    out = tmp_path / "report"
    shutil.copytree(folder, out)
    assert (out / "experts.png").is_file()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("aescli.evaluation.report.page.render", lambda *parts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(result, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    write_report(result, out)
    assert not (out / "experts.png").exists(), "figures of an earlier report do not stay"
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(AesError, match=r"holds thesis\.tex, which is of no report"):
        write_report(result, out)
    assert (out / "thesis.tex").exists()
