import csv
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, Browser

from aescli.data.images import ImageError
from aescli.data.profiles import read_profile
from aescli.personalization.sheet import rating_levels, write_page, write_sheet

NAMES = ["red.jpg", 'odd, "quoted" </script><b>.png', "größe/blue.png", "last.jpg"]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "größe").mkdir()
    found = []
    for i, name in enumerate(NAMES):
        file = tmp_path / f"{i}.png"
        Image.new("RGB", (900 + i, 600), (60 * i, 0, 0)).save(file)
        found.append((name, file))
    return found


@pytest.mark.parametrize(
    ("scale", "levels"),
    [
        ((1.0, 5.0), [1, 2, 3, 4, 5]),
        ((-2.0, 2.0), [-2, -1, 0, 1, 2]),
        ((0.0, 1.0), [0, 1]),
        ((0.0, 100.0), list(range(0, 101, 10))),
        ((0.5, 1.5), [0.5 + i / 10 for i in range(11)]),
    ],
)
def test_levels_span_the_scale(scale, levels):
    assert rating_levels(scale) == pytest.approx(levels)


def test_an_empty_sheet_is_a_profile_without_ratings(tmp_path):
    write_sheet(tmp_path / "s.csv", NAMES)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"image": name, "score": ""} for name in NAMES]
    (tmp_path / "p.yaml").write_text("user: a\nscale: [1, 5]\nratings: s.csv\n")
    assert read_profile(tmp_path / "p.yaml").ratings == ()


def test_the_page_needs_nothing_but_itself(tmp_path, photos):
    page = tmp_path / "page.html"
    write_page(page, "<Alice>", (1.0, 5.0), photos, "a.csv")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 4
    assert "http://" not in text
    assert "https://" not in text
    assert "<title>Rate photos – &lt;Alice&gt;</title>" in text
    assert text.count("</script>") == 2  # a file name ends no script
    assert len(text) < 100_000


def test_an_unreadable_photo_is_named(tmp_path):
    (tmp_path / "x.jpg").write_text("no photo")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        write_page(tmp_path / "page.html", "a", (1.0, 5.0), [("x.jpg", tmp_path / "x.jpg")], "a.csv")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, for a page that people click on")
def test_a_person_rates_by_mouse_and_keyboard_and_gets_the_table(tmp_path, photos):
    page = tmp_path / "page.html"
    write_page(page, "alice", (1.0, 10.0), photos, "alice-ratings.csv")
    button = "document.querySelectorAll('#photos li')[{}].querySelectorAll('button')[{}]"
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert browser.js("document.querySelectorAll('#photos img').length") == 4
        browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        assert browser.js("document.getElementById('save').disabled")

        browser.click(button.format(0, 6))
        assert browser.js(button.format(0, 6) + ".getAttribute('aria-pressed')") == "true"
        browser.click(button.format(0, 3))  # another mind
        browser.click(button.format(3, 1))
        browser.click(button.format(3, 1))  # a second click takes it back
        assert browser.js("document.getElementById('count').textContent") == "1 of 4 rated"

        browser.js("document.querySelectorAll('#photos li')[0].focus()")
        browser.press("ArrowRight")
        browser.press("0")  # ten, and on to the next photo
        browser.press("3")
        browser.press("5")
        browser.press("Backspace")  # the last photo stays the focused one
        assert browser.js("document.getElementById('count').textContent") == "3 of 4 rated"

        browser.open(page)  # opened again: nothing is lost
        assert browser.js("document.getElementById('count').textContent") == "3 of 4 rated"
        browser.click("document.getElementById('save')")
        table = browser.downloaded("alice-ratings.csv").read_text(encoding="utf-8")

        colours = []
        for scheme in ("light", "dark"):
            browser.send(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            colours.append(
                browser.js("getComputedStyle(document.querySelector('#photos li')).backgroundColor")
            )
        assert colours == ["rgb(246, 246, 246)", "rgb(34, 34, 34)"]
        schemes = {address.split(":")[0] for address in browser.requests}
        assert schemes <= {"file", "data", "blob"}

    assert list(csv.reader(table.splitlines())) == [
        ["image", "score"], [NAMES[0], "4"], [NAMES[1], "10"], [NAMES[2], "3"],
    ]  # fmt: skip
