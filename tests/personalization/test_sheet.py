import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, Browser

from aescli.data.images import ImageError
from aescli.data.profiles import read_profile
from aescli.errors import AesError
from aescli.personalization.sheet import keys_in_words, page_of, rating_keys, rating_levels, write_sheet

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
        ((0.0, 10.0), list(range(11))),
        ((0.0, 1.0), [i / 10 for i in range(11)]),
        ((0.0, 100.0), list(range(0, 101, 10))),
        ((0.5, 5.0), [i / 2 for i in range(1, 11)]),
        ((0.5, 1.5), [0.5 + i / 10 for i in range(11)]),
        ((0.0, 3.7), [0.37 * i for i in range(11)]),
    ],
)
def test_levels_span_the_scale_in_round_steps(scale, levels):
    assert rating_levels(scale) == pytest.approx(levels)


@given(
    low=st.integers(-1000, 1000), width=st.integers(1, 100_000), unit=st.sampled_from([0.1, 0.5, 1.0, 10.0])
)
def test_any_scale_has_some_buttons_from_end_to_end(low, width, unit):
    levels = rating_levels((low * unit, (low + width) * unit))
    assert 3 <= len(levels) <= 21, levels
    assert levels[0] == pytest.approx(low * unit)
    assert levels[-1] == pytest.approx((low + width) * unit)
    assert np.ptp(np.diff(levels)) < 1e-5 * max(1, width * unit)
    assert set(rating_keys(levels).values()) <= set(levels)


@pytest.mark.parametrize(
    ("scale", "keys", "words"),
    [
        ((1.0, 5.0), {"1": 1, "5": 5}, "digits rate and go on"),
        ((2.0, 7.0), {"2": 2, "7": 7}, "digits rate and go on"),
        ((1.0, 10.0), {"1": 1, "0": 10}, "digits rate and go on (0 means 10)"),
        ((0.0, 10.0), {"0": 0, "9": 9}, "digits rate and go on"),
        ((0.0, 100.0), {"0": 0, "9": 90}, "digits rate and go on (1 means 10, 2 means 20, …, 9 means 90)"),
        ((0.0, 1.0), {"0": 0, "9": 0.9}, "digits rate and go on (1 means 0.1, 2 means 0.2, …, 9 means 0.9)"),
        ((0.5, 5.0), {"1": 0.5, "0": 5}, "digits rate and go on (1 means 0.5, 2 means 1, …, 0 means 5)"),
    ],
)
def test_what_the_digits_mean_is_said(scale, keys, words):
    levels = rating_levels(scale)
    found = rating_keys(levels)
    assert found == {**found, **keys}
    assert keys_in_words(levels) == words


def test_an_empty_sheet_is_a_profile_without_ratings(tmp_path, photos):
    write_sheet(tmp_path / "s.csv", tmp_path / "s.html", "a", (1.0, 5.0), photos)
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"image": name, "score": ""} for name in NAMES]
    (tmp_path / "p.yaml").write_text("user: a\nscale: [1, 5]\nratings: s.csv\n")
    assert read_profile(tmp_path / "p.yaml").ratings == ()


def test_the_page_needs_nothing_but_itself(photos):
    text = page_of("<Alice>", (1.0, 5.0), photos, "a.csv")
    assert text.count("data:image/jpeg;base64,") == 4
    assert "http://" not in text
    assert "https://" not in text
    assert "<title>Rate photos – &lt;Alice&gt;</title>" in text
    assert text.count("</script>") == 2  # a file name ends no script
    assert len(text) < 100_000


def test_a_name_that_looks_like_a_place_in_the_page_stays_a_name(photos):
    text = page_of("__DATA__", (0.5, 5.0), [("__USER__.jpg", photos[0][1])], "__KEYS__.csv")
    assert "<h1>Rate photos – __DATA__</h1>" in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert (data["user"], data["sheet"]) == ("__DATA__", "__KEYS__.csv")
    assert data["photos"][0]["image"] == "__USER__.jpg"


def test_an_unreadable_photo_is_named_and_nothing_is_written(tmp_path):
    (tmp_path / "x.jpg").write_text("no photo")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        write_sheet(tmp_path / "s.csv", tmp_path / "s.html", "a", (1.0, 5.0), [("x.jpg", tmp_path / "x.jpg")])
    assert [path.name for path in tmp_path.iterdir()] == ["x.jpg"]


def test_a_sheet_that_cannot_be_written_is_named(tmp_path, photos):
    with pytest.raises(AesError, match=r"s.html cannot be written: No such file or directory"):
        write_sheet(tmp_path / "none" / "s.csv", tmp_path / "none" / "s.html", "a", (1.0, 5.0), photos)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, for a page that people click on")
def test_a_person_rates_by_mouse_and_keyboard_and_gets_the_table(tmp_path, photos):
    page = tmp_path / "page.html"
    write_sheet(tmp_path / "alice-ratings.csv", page, "alice", (1.0, 10.0), photos)
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

        browser.press("8")
        browser.press("+")  # 9
        for _ in range(11):
            browser.press("+")
        assert browser.js(button.format(3, 9) + ".getAttribute('aria-pressed')") == "true"
        browser.press("-")
        assert browser.js(button.format(3, 8) + ".getAttribute('aria-pressed')") == "true"
        browser.press("Delete")

        for _ in range(50):  # opened again: nothing is lost; a busy browser takes a moment to store it
            browser.open(page)
            if (count := browser.js("document.getElementById('count').textContent")) == "3 of 4 rated":
                break
        assert count == "3 of 4 rated"
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


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, for a page that people click on")
def test_half_stars_by_keyboard(tmp_path, photos):
    write_sheet(tmp_path / "s.csv", tmp_path / "s.html", "alice", (0.5, 5.0), photos)
    with Browser(tmp_path) as browser:
        browser.open(tmp_path / "s.html")
        assert "1 means 0.5, 2 means 1, …, 0 means 5" in browser.js("document.body.innerText").replace(
            "\n", " "
        )
        browser.js("document.querySelectorAll('#photos li')[0].focus()")
        for key in ("1", "0", "+", "7"):  # + starts in the middle and stays
            browser.press(key)
        browser.click("document.getElementById('save')")
        rows = csv.reader(browser.downloaded("s.csv").read_text(encoding="utf-8").splitlines())
    assert [score for _, score in rows] == ["score", "0.5", "5", "3.5"]
