"""The page of a report in a real browser: it opens without a network, draws its charts, sorts its tables."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bokeh.palettes import Cividis256
from run_directories import make_plan, planned, record, solved_run, write_run

import moeplace
from moeplace.base.style import PALETTE
from moeplace.library import instance_files
from moeplace.report.collect import collect
from moeplace.report.writing import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
METHODS = ["cpsat", "greedy", "popular"]
EVIL = (
    '</title></script><script>document.title="taken over"</script><img src=x onerror="document.title=\'taken over\'">'
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_window_size(1280, 1600)
    driver.get("about:blank")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of real solves: two sets, with and without positions."""
    folder = tmp_path_factory.mktemp("page")
    paths = [*instance_files("tiny")[:3], instance_files("small")[2], instance_files("small")[3]]
    run = solved_run(folder / "run", paths, METHODS, [0], time_limit=60.0)
    write_report(collect([run]), folder / "out")
    return folder / "out" / "index.html"


def open_page(browser: Any, page: Path) -> list[str]:
    """Open a page, wait until it is ready, and return what it asked for; any error on the console fails."""
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what was before
    browser.get(page.as_uri())
    deadline = time.monotonic() + 240
    while browser.execute_script("return document.body.dataset.ready") != "yes":
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.05)
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 100));")
    wrong = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert wrong == []
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


COLORS = """
// The colours of each figure with how many pixels have them. Bokeh draws on canvases inside shadow roots.
const canvases = (root) => [...root.querySelectorAll("*")].flatMap((element) => [
  ...(element.tagName === "CANVAS" && element.width > 50 ? [element] : []),
  ...(element.shadowRoot ? canvases(element.shadowRoot) : []),
]);
return [...document.querySelectorAll("figure")].map((figure) => {
  const colors = {};
  for (const canvas of canvases(figure)) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
      const color = "#" + [0, 1, 2].map((k) => data[i + k].toString(16).padStart(2, "0")).join("");
      if (data[i + 3] === 255) colors[color] = (colors[color] || 0) + 1;
    }
  }
  return [figure.querySelector("figcaption").textContent, colors];
});
"""


def test_opens_without_a_network_and_draws_every_chart(browser: Any, page: Path) -> None:
    requests = open_page(browser, page)
    assert requests[0] == page.as_uri()
    assert all(url.startswith("data:") for url in requests[1:]), requests
    drawn = browser.execute_script(COLORS)
    assert len(drawn) == 2 * 3 + 1 + 3  # three charts a set, one of sizes, three of the placement view
    # Not only axes: the colours of what is shown are there.
    lines = [color.lower() for color in PALETTE[: len(METHODS)]]
    for caption, colors in drawn[:6]:
        assert all(colors.get(color, 0) > 15 for color in lines), caption
    assert sum(drawn[6][1].get(color, 0) for color in lines) > 20  # marks may hide one another
    (_, stations), (_, cells), (_, latency) = drawn[7:]
    assert sum(stations.get(color.lower(), 0) for color in Cividis256) > 100
    assert sum(cells.get(color, 0) for color in ("#9db4cc", "#6d8fb5", "#436a99", "#26487a", "#122b57")) > 1000
    assert latency.get(PALETTE[0].lower(), 0) > 100


def column(browser: Any, table: str, index: int) -> list[str]:
    script = (
        "return [...document.querySelector(arguments[0]).tBodies[0].rows].map(r => r.cells[arguments[1]].textContent)"
    )
    return [text.strip() for text in browser.execute_script(script, table, index)]


def click_header(browser: Any, table: str, index: int) -> str:
    header = browser.find_elements("css selector", f"{table} thead tr:last-child th")[index]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", header)
    header.find_element("tag name", "button").click()
    return str(header.get_attribute("aria-sort"))


def test_tables_sort_on_click(browser: Any, page: Path) -> None:
    open_page(browser, page)
    assert column(browser, "table.summary", 0) == METHODS
    assert click_header(browser, "table.summary", 0) == "ascending"
    assert column(browser, "table.summary", 0) == sorted(METHODS)
    assert click_header(browser, "table.summary", 0) == "descending"
    assert column(browser, "table.summary", 0) == sorted(METHODS, reverse=True)
    # By value, not by text.
    assert click_header(browser, "table.summary", 6) == "ascending"
    gaps = [float(text.removesuffix(" %")) for text in column(browser, "table.summary", 6)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 0
    assert gaps[-1] > 0
    marked = browser.execute_script(
        "return document.querySelectorAll('table.summary')[0].querySelectorAll('[aria-sort]').length"
    )
    assert marked == 1


def test_what_is_not_known_sorts_last_either_way(browser: Any, tmp_path: Path) -> None:
    plan = make_plan(["lost", "near", "far"])
    path = instance_files("tiny")[0]
    instance = planned(path, moeplace.load(path))
    assert instance.best_known is not None
    best = instance.best_known.latency_ns
    records = [
        record(instance, plan, "lost", status="crashed", wall_s=None, message=EVIL),
        record(instance, plan, "near", latency_ns=best + 1),
        record(instance, plan, "far", latency_ns=best * 2),
    ]
    write_report(collect([write_run(tmp_path / "run", plan, [instance], records)]), tmp_path / "out", title=EVIL)
    open_page(browser, tmp_path / "out" / "index.html")
    click_header(browser, "table.summary", 6)
    assert column(browser, "table.summary", 0) == ["near", "far", "lost"]
    click_header(browser, "table.summary", 6)
    assert column(browser, "table.summary", 0) == ["far", "near", "lost"]
    assert browser.title == EVIL  # as text


def test_methods_can_be_hidden(browser: Any, page: Path) -> None:
    open_page(browser, page)
    shown = """
        const glyphs = JSON.parse(document.getElementById("page-data").textContent).glyphs;
        return glyphs.map((names) => names.filter((name) =>
          Bokeh.documents.some((doc) => (doc.get_model_by_name(name) || {}).visible)).length);
    """
    before = browser.execute_script(shown)
    assert min(before) > 0
    box = browser.find_elements("css selector", "nav.methods input")[1]
    box.click()
    assert browser.execute_script(shown) == [before[0], 0, before[2]]
    box.click()
    assert browser.execute_script(shown) == before


SOURCE = """
const model = Bokeh.documents.map((doc) => doc.get_model_by_name(arguments[0])).find((found) => found !== null);
return Object.fromEntries(Object.entries(model.data).map(([key, values]) => [key, Array.from(values)]));
"""


def choose(browser: Any, name: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    select = browser.find_element("id", f"choose-{name}")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", select)
    Select(select).select_by_visible_text(text)


def test_placement_view_shows_the_chosen_solution(browser: Any, page: Path) -> None:
    open_page(browser, page)
    path = instance_files("small")[2]
    instance = moeplace.load(path)
    choose(browser, "instance", f"small: {instance.name}")
    choose(browser, "method", "popular")
    placement = moeplace.solve(instance, "popular", time_limit=5.0).placement_on(instance)
    evaluation = moeplace.Evaluation(instance, placement)
    cells = browser.execute_script(SOURCE, "view-cells")
    assert cells["copies"] == placement.cached.sum(axis=0).tolist()
    users = browser.execute_script(SOURCE, "view-users")
    assert users["name"] == list(evaluation.user_latency_ns)
    assert users["after"] == pytest.approx([ns / 1e6 for ns in evaluation.user_latency_ns.values()], abs=1e-6)
    assert users["x"] == [demand.position_m[0] for demand in instance.demands]  # type: ignore[index]
    stations = column(browser, "#stations", 0)
    assert stations == [server.name for server in instance.servers]
    assert column(browser, "#stations", 4) == [str(n) for n in placement.cached.sum(axis=1).tolist()]
    # One station alone.
    choose(browser, "station", stations[1])
    caption = browser.find_element("id", "cache-caption").text
    assert caption == f"What {stations[1]} caches: {int(placement.cached[1].sum())} of {instance.n_items} experts"
    # Another instance, without positions.
    tiny = moeplace.load(instance_files("tiny")[0])
    choose(browser, "instance", f"tiny: {tiny.name}")
    assert "no positions are known" in browser.find_element("id", "map-caption").text
    assert column(browser, "#stations", 0) == [server.name for server in tiny.servers]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_hangs_over_the_edge(browser: Any, page: Path, width: int) -> None:
    browser.set_window_size(width, 1400)
    open_page(browser, page)
    inner, content = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert content <= inner
    cut = (
        "return [...document.querySelectorAll('.scroll:has(table.summary)')].map((e) => e.scrollWidth - e.clientWidth)"
    )
    assert max(browser.execute_script(cut)) <= 0
    browser.set_window_size(1280, 1600)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of more methods than there are rows on a phone, with long names, failures included."""
    folder = tmp_path_factory.mktemp("crowded")
    methods = [f"module:method_{i}[kicks={i}]" for i in range(20)]
    plan = make_plan(methods)
    path = instance_files("tiny")[0]
    instance = planned(path, moeplace.load(path))
    assert instance.best_known is not None
    best = instance.best_known.latency_ns
    records = [record(instance, plan, m, latency_ns=best * (i + 1)) for i, m in enumerate(methods[:-1])]
    records.append(record(instance, plan, methods[-1], status="crashed", wall_s=None, message="x" * 300))
    write_report(collect([write_run(folder / "run", plan, [instance], records)]), folder / "out")
    return folder / "out" / "index.html"


def emulate(browser: Any, media: str = "", scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


PRINTED = """
const colors = (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = new Set();
  for (let i = 0; i < data.length; i += 4) found.add(data.slice(i, i + 3).join());
  return found.size;
};
return [...document.querySelectorAll("figure")].map((f) => [...f.querySelectorAll("canvas.printed")].map(colors));
"""
PAPER_PX = int((297 - 2 * 12) / 25.4 * 96)  # A4 across, without the margins


def test_what_is_printed_is_whole(browser: Any, page: Path, crowded: Path) -> None:
    try:
        for each in (page, crowded):
            open_page(browser, each)
            for details in browser.find_elements("css selector", "details"):
                browser.execute_script("arguments[0].open = true", details)
            emulate(browser, "print", "dark")
            browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
            browser.set_window_size(PAPER_PX, 1200)
            drawn = browser.execute_script(PRINTED)
            assert len(drawn) >= 4
            assert all(len(colors) == 1 and colors[0] > 3 for colors in drawn), drawn  # one picture, not empty
            shown = "return [...document.querySelectorAll('figure > div > *')].filter((e) => e.offsetHeight > 0).length"
            assert browser.execute_script(shown) == 0
            width, content = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
            assert content <= width
            assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == WHITE
            browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
            emulate(browser)
            assert browser.execute_script(PRINTED) == [[]] * len(drawn)
            assert browser.execute_script(shown) >= len(drawn)
            browser.set_window_size(1280, 1600)
    finally:
        emulate(browser)
        browser.set_window_size(1280, 1600)


WHITE = "rgb(255, 255, 255)"


def test_the_paper_is_a_landscape(browser: Any, page: Path) -> None:
    open_page(browser, page)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    boxes = re.findall(rb"/MediaBox\s*\[([\d. ]+)\]", base64.b64decode(printed))
    assert boxes
    for box in boxes:
        left, bottom, right, top = map(float, box.split())
        assert (right - left) / (top - bottom) == pytest.approx(297 / 210, abs=0.01)


def test_dark_where_the_reader_likes_it_dark(browser: Any, page: Path) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    filters = "return [...document.querySelectorAll('figure > div > *')].map((e) => getComputedStyle(e).filter)"
    try:
        open_page(browser, page)
        assert browser.execute_script(background) == WHITE
        assert set(browser.execute_script(filters)) == {"none"}
        emulate(browser, scheme="dark")
        red, green, blue = map(int, re.findall(r"\d+", browser.execute_script(background)))
        assert max(red, green, blue) < 40
        assert all("invert" in each for each in browser.execute_script(filters))
        # Text of every kind stands out from what it stands on.
        low = browser.execute_script(
            """
            const luminance = (rgb) => rgb.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
              .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const paper = luminance(getComputedStyle(document.body).backgroundColor);
            return [...document.querySelectorAll("h1, h2, td, th, dt, dd, figcaption, summary, label, .facts")]
              .filter((e) => e.offsetHeight && (luminance(getComputedStyle(e).color) + 0.05) / (paper + 0.05) < 4.5)
              .map((e) => e.tagName);
            """
        )
        assert low == []
    finally:
        emulate(browser)


@pytest.mark.parametrize("width", [1280, 800])
def test_many_methods_hang_over_no_edge(browser: Any, crowded: Path, width: int) -> None:
    test_nothing_hangs_over_the_edge(browser, crowded, width)
