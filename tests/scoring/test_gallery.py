"""The gallery's files, and (where there is a chromium) the page as a browser runs it."""

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aescli.data.finding import Found
from aescli.data.images import Decoded, load_image
from aescli.errors import AesError
from aescli.scoring import gallery as galleries
from aescli.scoring.gallery import Gallery
from aescli.scoring.prepare import Preparer
from aescli.scoring.rows import NO_FACE, ImageResult, Layout, Row, scored_row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = [
    "</script><script>document.title='owned'</script>.jpg",
    "<!--<script>.jpg",
    "<img src=x onerror=\"document.title='owned'\">.jpg",
    "a&amp;'\"`${1}.jpg",
    "new\nline\u2028.jpg",
    "bad\udcff bytes.jpg",
]


def picture(k: int = 0, size=(60, 40)) -> Decoded:
    return Decoded(np.full((size[1], size[0], 3), k % 256, np.uint8), 1.0, (2 * size[0], 2 * size[1]))


def scored(path: str, score: float, face=None) -> ImageResult:
    probabilities = [0.0] * 5
    probabilities[min(4, int(score) - 1)] = 1.0
    return ImageResult(path, [scored_row(path, 0, face, score, probabilities)])


def parts(path: Path) -> tuple[dict, list[dict], list[str]]:
    """(meta, rows, thumbnails) of a page, as its script reads them."""
    text = path.read_text()
    (meta,) = re.findall(r'<script type="application/json" id="meta">(.*?)</script>', text, re.S)
    (rows,) = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', text, re.S)
    thumbs = re.findall(r'<script type="application/json" class="thumbs">(.*?)</script>', text, re.S)
    return json.loads(meta), json.loads(rows), [data for block in thumbs for data in json.loads(block)]


def fill(page: Gallery, scores: dict[str, float]) -> None:
    for k, (path, score) in enumerate(scores.items()):
        page.see(path, picture(k))
        page.add(scored(path, score))


def test_rows_are_sorted_with_their_own_thumbnails(tmp_path):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    names = {f"{k}.jpg": 1 + (7 * k % 20) / 5 for k in range(20)}
    fill(page, names)
    page.add(ImageResult("broken.jpg", [Row("broken.jpg", error="the file is empty")]))
    assert page.finish() == [tmp_path / "g.html"]
    assert os.listdir(tmp_path) == ["g.html"]
    _, rows, thumbs = parts(tmp_path / "g.html")
    assert [row["score"] for row in rows[:20]] == sorted(names.values(), reverse=True)
    for row, data in zip(rows[:20], thumbs, strict=False):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (row["width"], row["height"]) == image.size == (60, 40)
        assert abs(image.getpixel((5, 5))[0] - int(row["cells"][0].split(".")[0])) <= 2
        assert row["class"] == min(5, int(row["score"]))
    assert (rows[20]["error"], rows[20]["score"], thumbs[20]) == ("the file is empty", None, "")


def test_faces_are_shares_of_the_picture_and_share_its_thumbnail(tmp_path):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    page.see("two.jpg", picture())  # the original has 120 × 80 pixels
    rows = [
        scored_row("two.jpg", k, box, 3, []) for k, box in enumerate([(12, 8, 60, 40), (60, 40, 120, 80)])
    ]
    page.add(ImageResult("two.jpg", rows))
    page.finish()
    _, tiles, thumbs = parts(tmp_path / "g.html")
    assert [t["box"] for t in tiles] == [[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5]]
    assert thumbs[0] == thumbs[1] != ""


def test_the_preparer_shows_every_picture_that_it_decodes(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    shown = []
    options = type("P", (), {"size": 32, "fit": "pad", "faces": True, "eye_mouth": 0.36, "eye_y": 0.39})
    prepare = Preparer(options, "none", see=lambda path, decoded: shown.append((path, decoded.size)))
    assert [prepare(Found(str(tmp_path / n))).error == "" for n in ("a.png", "b.png")] == [True, False]
    assert shown == [(str(tmp_path / "a.png"), (64, 48))]

    def full(path, decoded):
        raise AesError("no space left")

    with pytest.raises(AesError, match="no space left"):
        Preparer(options, "none", see=full)(Found(str(tmp_path / "a.png")))


def test_pictures_of_an_earlier_run_are_decoded_again(tmp_path):
    Image.new("RGB", (600, 300), "blue").save(tmp_path / "a.png")
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    path = str(tmp_path / "a.png")
    page.add(scored(path, 3))
    page.add(ImageResult(path, [Row(path, error=NO_FACE)]))
    page.add(scored(str(tmp_path / "gone.png"), 2))
    page.finish(workers=2)
    _, rows, thumbs = parts(tmp_path / "g.html")
    assert [(r["width"], bool(t)) for r, t in zip(rows, thumbs, strict=True)] == [
        (224, True),
        (0, False),
        (224, True),
    ]


def test_memory_holds_no_thumbnails(tmp_path):
    import tracemalloc

    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    noise = Decoded(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8), 1.0, (224, 224))
    tracemalloc.start()
    for k in range(300):
        page.see(str(k), noise)
        page.add(scored(str(k), 3))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page._end > 300 * 10_000
    assert kept < 300_000


def test_threads_may_show_pictures_at_once(tmp_path):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    work = [
        threading.Thread(target=lambda n=n: [page.see(f"{k}.jpg", picture(k)) for k in range(n, 200, 4)])
        for n in range(4)
    ]
    [t.start() for t in work]
    [t.join() for t in work]
    for k in range(200):
        page.add(scored(f"{k}.jpg", 3))
    page.finish()
    _, rows, thumbs = parts(tmp_path / "g.html")
    for row, data in zip(rows, thumbs, strict=True):
        value = Image.open(io.BytesIO(base64.b64decode(data))).getpixel((5, 5))[0]
        assert abs(value - int(row["cells"][0][:-4])) <= 2


def test_many_rows_become_pages_and_no_file_of_others_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(galleries, "PER_PAGE", 10)
    (tmp_path / "g-2.html").write_text("mine")
    for _ in range(2):  # the second run replaces the first one's pages
        page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
        fill(page, {f"{k}.jpg": 1 + k / 10 for k in range(25)})
        written = page.finish()
        assert [p.name for p in written] == ["g.html", "g-2_1.html", "g-3.html"]
    assert (tmp_path / "g-2.html").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["g-2.html", "g-2_1.html", "g-3.html", "g.html"]
    scores = [[row["score"] for row in parts(p)[1]] for p in written]
    assert [len(s) for s in scores] == [10, 10, 5]
    assert [s for page in scores for s in page] == sorted((1 + k / 10 for k in range(25)), reverse=True)
    meta = parts(written[1])[0]
    assert (meta["page"], [p["file"] for p in meta["pages"]]) == (1, ["g.html", "g-2_1.html", "g-3.html"])


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    before = f"{galleries._MARK} before"
    (tmp_path / "g.html").write_text(before)
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    fill(page, {"a.jpg": 3})
    monkeypatch.setattr(galleries.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(AesError, match=r"cannot write the gallery .*: No space left"):
        page.finish()
    assert (tmp_path / "g.html").read_text() == before
    assert os.listdir(tmp_path) == ["g.html"]


def test_what_cannot_be_written_is_said_before_the_run(tmp_path):
    with pytest.raises(AesError, match="is a folder"):
        Gallery(str(tmp_path), Layout(), "m")
    with pytest.raises(AesError, match="cannot write the gallery"):
        Gallery(str(tmp_path / "no" / "g.html"), Layout(), "m")
    (tmp_path / "g.html").write_text("x")
    with pytest.raises(AesError, match="--no-clobber"):
        Gallery(str(tmp_path / "g.html"), Layout(), "m", no_clobber=True)


def test_the_page_of_somebody_else_stays(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>my site</title>")
    with pytest.raises(AesError, match="exists and is no gallery of aes"):
        Gallery(str(tmp_path / "index.html"), Layout(), "m")
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    fill(page, {"a.jpg": 3})
    (tmp_path / "g.html").write_text("written while the run worked")
    with pytest.raises(AesError, match="exists and is no gallery of aes"):
        page.finish()
    assert (tmp_path / "g.html").read_text() == "written while the run worked"
    assert sorted(os.listdir(tmp_path)) == ["g.html", "index.html"]


def test_a_page_with_the_longest_name(tmp_path):
    name = "g" * 250 + ".html"
    page = Gallery(str(tmp_path / name), Layout(), "m")
    fill(page, {"a.jpg": 3})
    page.finish()
    assert os.listdir(tmp_path) == [name]


def test_names_cannot_leave_their_place_and_links_stay_with_the_folder(tmp_path):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "</title><script>alert(1)</script>")
    fill(
        page,
        {str(tmp_path / "in" / name): 3 for name in HOSTILE} | {"/elsewhere/j:a.jpg": 2, "s3://b/x.jpg": 1},
    )
    page.finish()
    text = (tmp_path / "g.html").read_text()
    assert text.count("<script>") == 1
    assert "<!--" not in text
    assert "<img" not in text
    _, rows, _ = parts(tmp_path / "g.html")
    assert [r["cells"][0] for r in rows[:6]] == [str(tmp_path / "in" / name) for name in HOSTILE]
    assert rows[0]["link"].startswith("./in/%3C/script%3E%3Cscript%3E")
    assert rows[5]["link"] == "./in/bad%FF%20bytes.jpg"
    assert rows[6]["link"] == "file:///elsewhere/j%3Aa.jpg"
    assert rows[7]["link"] is None


# -- in a browser --------------------

browser_only = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def browse(path: Path, script: str, *, size=(1200, 800)):
    """What `script` (statements that set `result`) finds in the running page, as JSON. The page's own policy stays;
    the test's script is added to it by its hash."""
    # The emptied body keeps the dump small, and chromium's dump does not survive names that are no Unicode.
    ending = "document.body.replaceChildren(); document.body.dataset.result = JSON.stringify(result);"
    script = f"{{ let result; {script}; {ending} }}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = path.read_text().replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    probe = path.with_name(path.stem + ".probe.html")
    probe.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [
        f"--window-size={size[0]},{size[1]}",
        "--virtual-time-budget=3000",
        f"--user-data-dir={path}.profile",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    (found,) = re.findall(r'data-result="(.*?)"', done.stdout) or pytest.fail(done.stdout[-2000:])
    return json.loads(html.unescape(found))


KEY = """
const key = (name, node) => (node || document.activeElement).dispatchEvent(
    new KeyboardEvent('keydown', {key: name, bubbles: true, cancelable: true}));
const chosenPath = () => document.querySelector('.tile[aria-selected=true]').title;
const set = (id, value, kind) => { $(id).value = value; $(id).dispatchEvent(new Event(kind || 'input')); };
"""


@pytest.fixture(scope="module")
def page_of_60(tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "g.html"
    page = Gallery(str(path), Layout(), "m · fbp")
    fill(page, {f"in/{k:02d}.jpg": 1 + (k * 7 % 60) / 15 for k in range(60)})
    page.add(ImageResult("in/bad.jpg", [Row("in/bad.jpg", error="the file is <b>empty</b>")]))
    page.finish()
    return path


@browser_only
def test_sorting_and_filtering(page_of_60):
    found = browse(
        page_of_60,
        KEY
        + """
        result = {count: [], first: []};
        const note = () => {
            result.count.push($('count').textContent); result.first.push(view.length && rows[view[0]].score); };
        note();
        set('sort', 'worst first', 'change'); note();
        set('low', '4'); note();
        set('high', '4.2'); note();
        $('reset').click(); note();
        [...$('classes').querySelectorAll('button')][1].click(); note();
        result.classes = [...new Set(view.map(i => rows[i].class))];
        $('reset').click(); set('errors', 'only', 'change'); note();
        set('errors', 'none', 'change'); note();
        $('reset').click(); set('search', 'IN/0'); note();
        set('search', 'nowhere'); result.empty = !$('empty').hidden;
        set('search', ''); set('sort', 'path', 'change'); result.path = pathOf(view[0]);
        set('sort', 'input order', 'change'); result.input = [pathOf(view[0]), pathOf(view[60])];
        """,
    )
    high, low = 1 + 59 / 15, 1.0
    inside = sum(4 <= round(1 + k / 15, 4) <= 4.2 for k in range(60))
    assert found["count"] == [
        "61 rows",
        "61 rows",
        "15 of 61 rows",
        f"{inside} of 61 rows",
        "61 rows",
        "15 of 61 rows",
        "1 of 61 rows",
        "60 of 61 rows",
        "10 of 61 rows",
    ]
    assert found["first"][:3] == [round(high, 4), low, 4.0]
    assert found["classes"] == [2]
    assert found["empty"] is True
    assert (found["path"], found["input"]) == ("in/00.jpg", ["in/00.jpg", "in/bad.jpg"])


@browser_only
def test_the_keyboard_walks_opens_and_copies(page_of_60):
    found = browse(
        page_of_60,
        KEY
        + """
        result = {};
        const copied = [];
        Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { copied.push(t); }}});
        set('sort', 'path', 'change');
        $('grid').focus();
        key('Home'); key('ArrowRight'); key('ArrowRight'); result.right = chosenPath();
        key('ArrowDown'); result.down = [chosenPath(), columns]; key('ArrowUp');
        key('c');
        key('Enter'); result.open = $('viewer').open;
        result.facts = $('facts').textContent;
        key('ArrowRight', $('viewer')); result.next = $('facts').textContent.includes('in/03.jpg');
        key('End', $('viewer')); result.end = $('facts').textContent;
        result.markup = document.querySelectorAll('.well b, td b').length;
        toast('Copied'); result.above = $('viewer').contains($('toast'));
        $('close').click();
        toast('Copied'); result.below = $('viewer').contains($('toast'));
        key('Home', $('grid')); result.home = chosenPath();
        set('search', 'in/1'); $('copyall').click();
        $('search').focus(); key('c'); result.copied = copied;
        key('Escape'); result.focus = document.activeElement.id;
        """,
    )
    assert found["right"] == "in/02.jpg"
    assert found["down"] == [f"in/{2 + found['down'][1]:02d}.jpg", found["down"][1]]
    assert found["open"]
    assert "in/02.jpg" in found["facts"]
    assert found["next"]
    assert "the file is <b>empty</b>" in found["end"]
    assert found["markup"] == 0
    assert (found["above"], found["below"]) == (True, False)  # an open dialog covers all else
    assert found["home"] == "in/00.jpg"
    assert found["copied"] == ["in/02.jpg", "\n".join(f"in/{k}.jpg" for k in range(10, 20))]
    assert found["focus"] == "grid"


@browser_only
def test_hostile_names_are_shown_as_text(tmp_path):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "<script>document.title='owned'</script>")
    fill(page, {f"in/{name}": 3 for name in HOSTILE})
    page.finish()
    found = browse(
        tmp_path / "g.html",
        """
        show();
        result = {names: [...document.querySelectorAll('.tile')].map(n => n.title), title: document.title,
                  heading: $('title').textContent, foreign: document.querySelectorAll('[onerror]').length};
        """,
    )
    assert found["title"] == found["heading"] == "<script>document.title='owned'</script>"
    assert found["names"][:5] == [f"in/{name}" for name in HOSTILE[:5]]
    assert found["foreign"] == 0


@browser_only
@pytest.mark.parametrize("size", [(500, 800), (1400, 900)])
def test_the_page_fits_and_five_thousand_rows_stay_light(tmp_path, size):
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    fill(page, {f"folder/{k:04d}.jpg": 1 + k / 1250 for k in range(5000)})
    assert page.finish() == [tmp_path / "g.html"]
    found = browse(
        tmp_path / "g.html",
        """
        result = {rows: rows.length, first: tiles.size, parsed: cache.size};
        select(Infinity); result.last = document.querySelector('.tile[aria-selected=true]').title;
        result.tiles = document.querySelectorAll('.tile').length;
        result.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        const start = performance.now();
        $('sort').value = 'worst first'; apply(); result.ms = performance.now() - start;
        result.images = document.querySelectorAll('.tile img').length;
        """,
        size=size,
    )
    assert found["rows"] == 5000
    assert found["last"] == "folder/0000.jpg"
    assert 4 < found["first"] < 120
    assert found["parsed"] <= 2
    assert 4 < found["tiles"] < 120
    assert found["images"] > 4
    assert found["overflow"] <= 0
    assert found["ms"] < 2000


def test_the_real_thumbnail_of_a_photo(tmp_path):
    photo = Path(__file__).parents[1] / "photos" / "coffee.jpg"
    page = Gallery(str(tmp_path / "g.html"), Layout(), "m")
    page.see("c.jpg", load_image(photo, 224))
    page.add(scored("c.jpg", 3))
    page.finish()
    _, (row,), (data,) = parts(tmp_path / "g.html")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    whole = Image.open(photo).convert("RGB").resize(image.size, Image.Resampling.BOX)
    assert row["width"] == 224
    difference = np.asarray(image, np.float64) - np.asarray(whole, np.float64)
    assert np.abs(difference).mean() < 6
