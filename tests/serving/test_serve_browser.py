"""The page in a real browser: it grows in place, keeps the focus, and breaks no rule of its own."""

import pytest
from browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

POINTS = "document.querySelector('polyline[data-member=\"0\"]').getAttribute('points')"
NUM_POINTS = f"{POINTS}.split(' ').length"
# The page asks every three seconds; here at once, and the answer is waited for.
UPDATE = "update()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # else no focus is told
    yield browser
    browser.close()


def go(browser, url):
    browser.ask("Page.navigate", url=url)
    browser.wait_for("Page.loadEventFired")


def update(browser):
    told = browser.ask("Runtime.evaluate", expression=UPDATE, awaitPromise=True)
    assert "exceptionDetails" not in told


def enter(browser, served, path=""):
    """Open the printed address, then follow a link of ours."""
    go(browser, served.serving.url)
    assert browser.run("location.href") == f"http://127.0.0.1:{served.port}/"
    if path:
        browser.run(f"document.querySelector('a[href=\"{path}\"]').click()")
        browser.wait_for("Page.loadEventFired")


def test_curves_grow_in_place_and_the_reader_is_not_disturbed(browser, served, run):
    paths = run.paths.member(run.plan.members[0].name)
    paths.done.unlink()
    lines = paths.metrics.read_text().splitlines(keepends=True)
    paths.metrics.write_text("".join(lines[:2]))
    enter(browser, served, f"/run/{run.paths.name}")
    assert browser.run(NUM_POINTS) == 2
    browser.run("document.querySelector('tr[data-member=\"0\"]').focus()")
    browser.run("document.querySelector('polyline[data-member=\"0\"]').was = 'here'")
    paths.metrics.write_text("".join(lines[:3]))
    update(browser)
    assert browser.run(NUM_POINTS) == 3
    assert browser.run("document.querySelector('polyline[data-member=\"0\"]').was") == "here"
    assert browser.run("document.activeElement.dataset.member") == "0"
    assert browser.run("document.querySelectorAll('polyline[data-on]').length") == 2
    assert browser.run("document.getElementById('alarm').hidden") is True


def test_new_run_comes_into_the_list(browser, served, run):
    enter(browser, served)
    rows = "[...document.querySelectorAll('tbody a')].map(one => one.textContent)"
    assert browser.run(rows) == [run.paths.name]
    other = run.paths.root.parent / "zz"
    other.mkdir()
    (other / "plan.json").write_text("{")
    update(browser)
    assert browser.run(rows) == ["zz", run.paths.name]


def test_times_are_the_readers(browser, served, run):
    run.paths.slurm.mkdir()
    line = '{"job_id":"8","scheduler":"local","site":"here","members":[],'
    run.paths.jobs.write_text(line + '"submitted":"2026-01-02T03:04:05+00:00"}\n')
    browser.ask("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    enter(browser, served)
    assert "12:04" in browser.run("document.querySelector('time').textContent")
    update(browser)
    assert "12:04" in browser.run("document.querySelector('time').textContent")


def test_report_of_a_stranger_runs_nothing(browser, served, run):
    run.paths.report.mkdir()
    (run.paths.report / "report.html").write_text(
        "<title>report</title><script>document.title = 'broken'</script>"
        "<img src=x onerror=\"document.title = 'broken'\">"
    )
    enter(browser, served, f"/run/{run.paths.name}")
    browser.run(
        f"document.querySelector('a[href=\"/file/{run.paths.name}/report/report.html\"]').click()"
    )
    browser.wait_for("Page.loadEventFired")
    assert browser.run("document.title") == "report"
    assert browser.run("self.origin") == "null"
    browser.events.clear()  # of what it tried


@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_a_narrow_window(browser, served, run, dark):
    browser.resize(400, dark=dark)
    enter(browser, served)
    assert browser.run("document.documentElement.scrollWidth <= 400")
    enter(browser, served, f"/run/{run.paths.name}")
    assert browser.run("document.documentElement.scrollWidth <= 400")
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(17, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_server_that_has_ended_is_told(browser, served):
    enter(browser, served)
    served.serving.server.shutdown()
    served.serving.server.server_close()
    update(browser)
    assert browser.run("document.getElementById('alarm').checkVisibility()") is True


def test_page_asks_nobody_else_and_breaks_no_rule(browser):
    """Last: over all that the pages before did, but for the server that had ended."""
    said = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    texts = [one["params"] for one in browser.events if one["method"] in said]
    texts = [one for one in texts if "ERR_CONNECTION_REFUSED" not in str(one)]
    assert texts == []
    asked = [one for one in browser.events if one["method"] == "Network.requestWillBeSent"]
    hosts = {one["params"]["request"]["url"].split("/")[2].partition(":")[0] for one in asked}
    assert hosts <= {"127.0.0.1", ""}
