"""Reports in a real browser: contents, folding, sorting, small windows, accessibility, silence."""

import json
from importlib.resources import files

import anomaly_run
import pytest
import synthetic_run
from browser import CHROMIUM, Browser

from lenshpc.report.write import compose, write
from lenshpc.run.results import gather
from lenshpc.statistics import scores as judging
from lenshpc.tasks.anomaly import judge as anomaly_judge

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

MAX_BYTES = 2_000_000
# Where an element lies in the window, and whether any of it can be seen.
SEEN = "(b => b.bottom > 0 && b.top < innerHeight)({}.getBoundingClientRect())"
FIRST = "document.querySelector('table')"
AXE = "axe.run({resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the report of ten members that brightness beats, and that of two classes of lenses."""
    places = [tmp_path_factory.mktemp(name) for name in ("lens", "strange")]
    beaten = synthetic_run.make_run(places[0], folds=5, num_test=120, separation=-0.2)
    strange = anomaly_run.make_run(places[1], models=("conv_ae",))
    with pytest.MonkeyPatch.context() as patch:
        for module in (judging, anomaly_judge):
            patch.setattr(module, "NUM_RESAMPLES", 100)
        return {
            name: write(
                compose(gather(run.paths, run.plan, {}, allow_partial=False)), run.paths.report
            )
            for name, run in {"lens": beaten, "strange": strange}.items()
        }


def read_column(browser, at=0):
    rows = f"[...{FIRST}.tBodies[0].rows]"
    return browser.run(f"{rows}.map(row => row.cells[{at}].textContent.trim())")


def test_page_of_ten_members_is_small_and_says_at_once_that_a_baseline_is_better(browser, pages):
    assert pages["lens"].stat().st_size < MAX_BYTES
    browser.resize(1400)
    browser.open(pages["lens"])
    verdict = browser.run("document.querySelector('.verdict p').textContent")
    assert verdict.startswith("Red. A baseline is better: the ensemble has a test AUC of ")
    told = json.loads(pages["lens"].with_name("report.json").read_text())["verdict"]
    assert verdict == f"Red. {told['sentence']}"


@pytest.mark.parametrize("width", [1400, 400])
def test_contents_stay_in_view_and_lead_to_every_section(browser, pages, width):
    browser.resize(width)
    browser.open(pages["strange"])
    links = browser.run("[...document.querySelectorAll('.contents a')].map(one => one.hash)")
    titles = browser.run("[...document.querySelectorAll('h2')].map(one => one.textContent)")
    assert len(links) == 1 + len(titles) > 8
    for link in links[1:]:
        heading = f"document.querySelector('{link} h2')"
        browser.run(f"{heading}.closest('details').open = false")
        browser.run(f"document.querySelector('.contents a[href=\"{link}\"]').click()")
        browser.ask(
            "Runtime.evaluate",
            expression="new Promise(done => setTimeout(done, 50))",
            awaitPromise=True,
        )
        assert browser.run(SEEN.format(heading))
        assert browser.run(f"{heading}.closest('details').open")
        assert browser.run(SEEN.format("document.querySelector('.contents a')"))


def test_sections_fold_and_are_whole_on_paper(browser, pages):
    browser.resize(1400)
    browser.open(pages["lens"])
    count = "document.querySelectorAll('main > section > details[open]').length"
    total = browser.run(count)
    browser.click("main > section > details > summary")
    assert browser.run(count) == total - 1
    browser.click("#fold")
    assert browser.run(count) == 0
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run(count) == 0
    browser.click("#fold")
    assert browser.run(count) == total


def test_tables_sort_by_click_and_by_keys_and_come_back_to_their_order(browser, pages):
    browser.resize(1400)
    browser.open(pages["lens"])
    written = read_column(browser)
    values = [float(text.partition(" ")[0]) for text in read_column(browser, 1)]
    rising = [name for _, name in sorted(zip(values, written, strict=True), key=lambda one: one[0])]
    sort = "document.querySelector('th:nth-child(2)').ariaSort"
    browser.run(f"{FIRST}.scrollIntoView({{block: 'center'}})")
    assert (browser.run(sort), len(set(values))) == ("none", len(values))
    browser.click("th:nth-child(2) button")
    assert (browser.run(sort), read_column(browser)) == ("ascending", rising)
    browser.press("Enter")
    assert (browser.run(sort), read_column(browser)) == ("descending", rising[::-1])
    browser.press("Enter")
    assert (browser.run(sort), read_column(browser)) == ("none", written)
    browser.click("th button")
    assert read_column(browser) == sorted(written)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", 1234),
        ("0.98 [0.97, 0.99]", 0.98),
        ("-0.0124 [-0.0235, -0.0035]", -0.0124),
        ("−3", -3),
        ("< 0.001", 0.001),
        ("1e-05", 1e-5),
        ("+1.35 dB", 1.35),
        ("21 %", 21),
        ("45 s", 45),
        ("3 min 12 s", 192),
        ("1 h 05 min", 3900),
        ("–", None),
        ("resnet18", None),
    ],
)
def test_cells_are_read_as_the_numbers_that_they_begin_with(browser, pages, text, number):
    if browser.run("typeof readNumber") != "function":
        browser.open(pages["lens"])
    found = browser.run(f"(x => isNaN(x) ? null : x)(readNumber({json.dumps(text)}))")
    assert found == (number if number is None else pytest.approx(number))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["lens", "strange"])
def test_page_fits_a_narrow_window_and_axe_finds_no_serious_fault(browser, pages, name, dark):
    for width in (400, 1400):
        browser.resize(width, dark=dark)
        browser.open(pages[name])
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        browser.run((files("axe_core_python") / "axe.min.js").read_text("utf-8"))
        found = browser.ask(
            "Runtime.evaluate", expression=AXE, awaitPromise=True, returnByValue=True
        )
        faults = json.loads(found["result"]["value"])
        serious = [one for one in faults if one["impact"] in {"serious", "critical"}]
        assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(17, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_paper_is_white_even_where_the_screen_is_dark(browser, pages):
    browser.resize(1400, dark=True)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.ask("Emulation.setEmulatedMedia", media="print", features=dark)
    browser.open(pages["lens"])
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "getComputedStyle(document.querySelector('.contents')).display"
    assert browser.run(hidden) == "none"
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])


def test_pages_ask_for_nothing_and_break_no_rule(browser, pages):
    """Last: over all that the pages before did."""
    browser.open(pages["strange"])
    said = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    assert [one["params"] for one in browser.events if one["method"] in said] == []
    asked = [one for one in browser.events if one["method"] == "Network.requestWillBeSent"]
    schemes = {one["params"]["request"]["url"].partition(":")[0] for one in asked}
    assert schemes <= {"file", "data"}
