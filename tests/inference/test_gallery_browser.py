"""The gallery in a real browser: keys grade, grades are kept, and the saved file is read."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser

from lenshpc.inference.gallery import GalleryHeading, write_gallery

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

IDS = ["a.npy", '<script>document.title="broken"</script>,"b"', "=c.npy", "__proto__", "e.npy"]
SCORES = [0.1 + 0.2, 0.25, 0.2, 0.15, 0.05]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def write_page(folder, digest, num=5):
    """Write the gallery of `num` candidates; return its path."""
    frame = pd.DataFrame(
        {"id": IDS, "score": SCORES, "spread": [0.2, np.nan, 0.4, 0.1, 0.3], "decision": "lens"}
    )
    images = np.random.default_rng(0).normal(size=(5, 3, 24, 24))
    about = {"run": "demo", "source": "s", "num_images": 9, "threshold": 0.5, "prior": 0.001}
    path = folder / f"{digest}.html"
    write_gallery(path, frame[:num], images[:num], GalleryHeading(**about, digest=digest))
    return path


def read_selected(browser):
    return browser.run("document.querySelector('[aria-selected=true]').dataset.rank")


def read_shown(browser):
    """Return the ranks of the cards that are shown, in their order."""
    cards = "[...document.querySelectorAll('.card')].filter(one => one.checkVisibility())"
    return browser.run(f"{cards}.map(one => one.dataset.rank).join('')")


def test_keys_grade_and_the_saved_file_has_the_grades(browser, tmp_path):
    browser.open(write_page(tmp_path, "saved"))
    assert browser.run("document.getElementById('count').textContent") == "0/5 graded"
    browser.press("a", "B", "n", "ArrowRight", "c", "u", "ArrowLeft", "s")
    name, text = browser.download()
    assert name == "grades.csv"
    assert list(csv.reader(io.StringIO(text))) == [
        ["rank", "id", "score", "grade"],
        ["1", "a.npy", "0.30000000000000004", "A"],
        ["2", IDS[1], "0.25", "B"],
        ["3", "'=c.npy", "0.2", "no"],
    ]
    assert browser.run("document.getElementById('count').textContent") == "3/5 graded"
    assert read_selected(browser) == "4"  # where the undo went, and left from there
    assert browser.run("document.title") == "Candidates of demo"


def test_grades_outlive_the_page_and_do_not_mix(browser, tmp_path):
    first, second = write_page(tmp_path, "first"), write_page(tmp_path, "second")
    browser.open(first)
    browser.press("ArrowRight", "ArrowRight", "ArrowRight", "b")
    browser.open(second)
    assert browser.run("document.getElementById('count').textContent") == "0/5 graded"
    browser.open(first)
    browser.click("#save")
    assert browser.download()[1] == "rank,id,score,grade\n4,__proto__,0.15,B\n"


def test_cards_are_sorted_and_filtered(browser, tmp_path):
    browser.resize(1300)
    browser.open(write_page(tmp_path, "sorted"))
    # Its list is a window of the system's, which does not listen to the page's keys.
    browser.run(
        "(one => { one.focus(); one.value = 'spread';"
        " one.dispatchEvent(new Event('change', {bubbles: true})) })"
        "(document.getElementById('sort'))"
    )
    assert read_shown(browser) == "35142"  # of the spread; what has none is last
    browser.click("#direction")
    assert read_shown(browser) == "41532"
    browser.press("a", "c")
    browser.click("[data-filter=ungraded]")
    assert read_shown(browser) == "532"
    browser.press("n")  # and the next one takes its place
    assert (read_shown(browser), read_selected(browser)) == ("32", "3")
    browser.press("u")
    assert (read_shown(browser), read_selected(browser)) == ("532", "5")
    browser.click("[data-filter=C]")
    assert read_shown(browser) == "1"
    browser.click("[data-filter=no]")
    assert read_shown(browser) == ""
    browser.press("a", "ArrowDown", "ArrowRight")  # of nothing
    assert browser.run("document.getElementById('none').checkVisibility()") is True


def test_page_of_no_candidates_listens_in_vain(browser, tmp_path):
    browser.open(write_page(tmp_path, "empty", num=0))
    browser.press("a", "ArrowRight", "ArrowUp", "u", "s")
    assert browser.download()[1] == "rank,id,score,grade\n"
    assert browser.run("document.getElementById('count').textContent") == "0/0 graded"


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_a_narrow_window(browser, tmp_path, dark):
    browser.resize(400, dark=dark)
    browser.open(write_page(tmp_path, f"narrow-{dark}"))
    assert browser.run("document.documentElement.scrollWidth <= 400")
    browser.click(".stage [data-grade=A]")
    assert browser.run("document.getElementById('count').textContent") == "1/5 graded"
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_page_asks_for_nothing_and_breaks_no_rule(browser, tmp_path):
    """Last: over all that the pages before did."""
    browser.open(write_page(tmp_path, "quiet"))
    said = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    assert [one["params"] for one in browser.events if one["method"] in said] == []
    asked = [one for one in browser.events if one["method"] == "Network.requestWillBeSent"]
    schemes = {one["params"]["request"]["url"].partition(":")[0] for one in asked}
    assert schemes == {"file", "data"}
