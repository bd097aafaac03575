"""The page in a real browser: what moves, what the keyboard does, that nothing is asked of the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyclestyle.reports.report import write_report

from .report_folder import translation_colour, whole_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("no chromium in PATH", allow_module_level=True)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(whole_run(tmp_path_factory.mktemp("browser") / "run"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM)
        yield running
        running.close()


class Visit:
    """The page in a window, and what it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str) -> None:
        size = {"width": width, "height": 800}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=width < 500)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def colour(self, selector: str) -> list[int]:
        """The colour in the middle of a picture, as the browser decodes it."""
        found: list[int] = self.page.eval_on_selector(
            selector,
            """image => { const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
            const to = canvas.getContext("2d");
            to.drawImage(image, image.naturalWidth / 2, image.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
            return [...to.getImageData(0, 0, 1, 1).data].slice(0, 3); }""",
        )
        return found


@pytest.fixture(params=[(1280, "light")])
def visit(request: pytest.FixtureRequest, browser: Any, page_file: Path) -> Iterator[Visit]:
    """Closes the window, and holds that it had nothing to say and asked for nothing but itself."""
    visit = Visit(browser, page_file, *request.param)
    yield visit
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [page_file.as_uri()]
    visit.context.close()


TRANSLATION = '.film[data-film="0"] .translation'


def assert_shows(visit: Visit, step: int) -> None:
    sync_api.expect(visit.page.locator("#step-words")).to_contain_text(f"step {step}")
    visit.page.eval_on_selector(TRANSLATION, "image => image.decode()")
    found, wanted = visit.colour(TRANSLATION), translation_colour(step, 0)
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 5, (step, found, wanted)


def test_the_slider_changes_the_pictures(visit: Visit) -> None:
    assert_shows(visit, 600)  # the newest, before anything is touched
    place = visit.page.locator("#step").bounding_box()
    visit.page.mouse.click(place["x"] + 2, place["y"] + place["height"] / 2)
    assert_shows(visit, 100)
    for _ in range(3):
        visit.page.keyboard.press("ArrowRight")
    assert_shows(visit, 400)
    assert visit.page.get_attribute("#step", "aria-valuetext") == "step 400, best"
    assert "KID 0.100" in visit.page.inner_text("#step-words")
    assert visit.page.get_attribute(TRANSLATION, "alt") == "photo_0.jpg as painting at step 400"
    assert "light kept 0.40" in visit.page.inner_text(".pair >> nth=0")


def test_arrow_keys_work_without_a_focus(visit: Visit) -> None:
    visit.page.keyboard.press("ArrowLeft")
    assert_shows(visit, 500)
    visit.page.focus("#handle")  # there the arrows mean another thing
    visit.page.keyboard.press("ArrowLeft")
    assert_shows(visit, 500)
    assert visit.page.get_attribute("#handle", "aria-valuenow") == "45"


def test_it_plays_from_the_start_to_the_end(visit: Visit) -> None:
    visit.page.clock.install(time=0)
    visit.page.clock.pause_at(1000)  # only `run_for` moves it
    visit.page.click("#play")
    assert visit.page.get_attribute("#play", "aria-label") == "Pause"
    assert_shows(visit, 100)
    for step in (200, 300, 400, 500, 600):
        visit.page.clock.run_for(700)
        assert_shows(visit, step)
    assert visit.page.get_attribute("#play", "aria-label") == "Play"
    visit.page.clock.run_for(5000)
    assert_shows(visit, 600)


def test_the_other_direction(visit: Visit) -> None:
    visit.page.keyboard.press("ArrowLeft")
    visit.page.click("text=painting → photo >> nth=0")
    assert visit.page.is_hidden('.film[data-film="0"]')
    assert visit.page.is_visible('.film[data-film="1"]')
    assert "step 500" in visit.page.inner_text("#step-words")  # the same step
    assert visit.page.inner_text("#wipe .right") == "as photo"
    assert visit.page.is_checked('input[name="wipe-direction"][value="1"]')


def test_the_wipe_follows_pointer_and_keys(visit: Visit) -> None:
    page = visit.page
    page.locator("#wipe").scroll_into_view_if_needed()
    place = page.locator("#wipe").bounding_box()

    def share() -> float:
        handle = page.locator("#handle").bounding_box()
        return (handle["x"] + handle["width"] / 2 - place["x"]) / place["width"]

    middle = place["y"] + place["height"] / 2
    assert share() == pytest.approx(0.5, abs=0.01)
    page.mouse.move(place["x"] + 0.5 * place["width"], middle)
    page.mouse.down()
    page.mouse.move(place["x"] + 0.25 * place["width"], middle, steps=4)
    assert share() == pytest.approx(0.25, abs=0.01)
    page.mouse.up()
    page.mouse.move(place["x"] + 0.9 * place["width"], middle)
    assert share() == pytest.approx(0.25, abs=0.01)  # let go
    page.keyboard.press("ArrowRight")
    assert share() == pytest.approx(0.30, abs=0.01)
    page.keyboard.press("End")
    assert page.get_attribute("#handle", "aria-valuenow") == "100"
    # Left of the handle the source is on top, right of it nothing.
    assert page.eval_on_selector("#wipe .before", "image => getComputedStyle(image).clipPath").startswith("inset(0")


def test_the_wipe_shows_the_best_the_newest_and_other_pictures(visit: Visit) -> None:
    page = visit.page
    assert page.inner_text("#wipe-words") == "step 400, best"
    page.click("#wipe-step label:has-text('newest')")
    assert page.inner_text("#wipe-words") == "step 600, newest"
    page.click("#thumbs button >> nth=2")
    page.eval_on_selector("#wipe .after", "image => image.decode()")
    found, wanted = visit.colour("#wipe .after"), translation_colour(600, 2)
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 5
    assert page.get_attribute("#thumbs button >> nth=2", "aria-pressed") == "true"


def test_charts_are_read_by_pointer_and_keys(visit: Visit) -> None:
    page = visit.page
    plots = page.locator(".plot >> visible=true")
    plots.first.scroll_into_view_if_needed()
    assert page.locator(".plot svg >> visible=true").count() == plots.count() >= 7
    place = plots.first.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.99, place["y"] + 50)
    legend = page.locator(".chart .legend").first
    assert "step 600" in legend.inner_text()
    assert "0.3" in legend.inner_text()
    assert "step 600" in page.locator(".chart .legend >> visible=true").nth(3).inner_text()  # all charts together
    plots.first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert "step 400" in legend.inner_text()
    assert plots.first.get_attribute("aria-valuetext").startswith("step 400: translated → painting 0.1;")
    page.keyboard.press("Escape")
    assert "step" not in legend.inner_text()


def test_alarms_and_the_best_are_marked_in_charts(visit: Visit) -> None:
    spans = visit.page.locator(".plot >> nth=0 >> rect.span")
    assert spans.count() == 1
    plot = visit.page.locator(".plot >> nth=0").bounding_box()
    span = spans.bounding_box()
    left, width = plot["x"] + 44, plot["width"] - 44 - 8
    assert span["x"] == pytest.approx(left + width * 100 / 600, abs=2)
    assert span["width"] == pytest.approx(width * 100 / 600, abs=2)
    assert visit.page.locator(".plot >> nth=0 >> line.best").count() == 1


def test_folded_charts_draw_when_they_open(visit: Visit) -> None:
    assert visit.page.locator("details .plot svg").count() == 0
    visit.page.click("details.group >> nth=0 >> summary")
    visit.page.wait_for_selector("details.group[open] .plot svg")


@pytest.mark.parametrize("visit", [(360, "light"), (360, "dark"), (1280, "dark")], indirect=True)
def test_nothing_scrolls_sideways(visit: Visit) -> None:
    for details in visit.page.query_selector_all("details"):
        details.evaluate("details => { details.open = true; }")
    width = visit.page.viewport_size["width"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = visit.page.evaluate(
        """width => [...document.querySelectorAll("body *:not(.hidden, .skip, pre *, svg *)")]
        .filter(each => each.getBoundingClientRect().right > width + 1 && each.getBoundingClientRect().width > 0)
        .map(each => each.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []


def brightness(visit: Visit) -> float:
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in colour.strip("rgb()").split(",")[:3]) / 3


@pytest.mark.parametrize("visit", [(1280, "light"), (1280, "dark")], indirect=True)
def test_light_and_dark_follow_the_system_and_the_button(visit: Visit) -> None:
    was_dark = brightness(visit) < 60
    assert was_dark == visit.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    visit.page.click("#theme")
    assert (brightness(visit) < 60) != was_dark
    visit.page.click("#theme")
    assert (brightness(visit) < 60) == was_dark


def test_every_control_has_a_name_and_can_be_reached(visit: Visit) -> None:
    page = visit.page
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, [role=slider]")].filter(each =>
        !(each.ariaLabel || each.textContent.trim().length > 1 || (each.labels && each.labels.length)))
        .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    without_alt = page.evaluate("[...document.images].filter(each => !each.hasAttribute('alt')).length")
    assert without_alt == 0
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"theme", "play", "step", "handle", "smooth"} <= reached


def test_without_scripts_the_newest_pictures_and_all_words_are_there(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.is_visible(TRANSLATION + " >> nth=0")
    assert page.is_hidden("#play")
    assert page.is_visible("noscript p")
    assert page.is_visible("table.scores >> nth=0")
    context.close()
