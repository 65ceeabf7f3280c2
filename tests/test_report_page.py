"""The report in a browser: nothing is loaded, nothing complains, tables sort and filter, and text stays in its place."""

from __future__ import annotations

import chromium
import numpy as np
import pytest
from test_report import (
    activations,
    defend_metrics,
    examples,
    filter_metrics,
    filter_scores,
    goodnet_examples,
    history,
    train_metrics,
    write_run,
)
from test_report_bench import write_bench
from test_report_verdict import scan_metrics, triggers_of

from keras_backdoor.report import build_report

DESKTOP, PHONE = (1280, 900), (360, 780)
LONG = "patch(size=3,value=255,position=bottom-right)|blend(fraction=0.2)|noise(deviation=12)"

OVERFLOWING = """[...document.querySelectorAll("body *:not(svg *)")].filter((one) => {
  const box = one.getBoundingClientRect();
  const scrolled = one.closest(".wide") && !one.matches(".wide");
  return box.width && !scrolled && (box.right > innerWidth + 1 || box.left < -1 || one.scrollWidth > one.clientWidth + 1
    && getComputedStyle(one).display !== "inline" && getComputedStyle(one).overflowX === "visible" && one.clientWidth);
}).map((one) => one.outerHTML.slice(0, 120))"""
SQUEEZED = """[...document.querySelectorAll("p, td, th, dd, figcaption, h1, h2, h3, pre")].filter((one) =>
  one.getClientRects().length && one.innerText.length > 30 && one.getBoundingClientRect().width < 60
).map((one) => one.outerHTML.slice(0, 120))"""
ROWS = """[...document.querySelectorAll("table.sortable tbody tr")].filter((row) => row.offsetParent).map((row) =>
  [...row.cells].map((cell) => (cell.dataset.value ?? cell.textContent).trim()))"""
NETWORK, DEFENSE, SUCCESS = 0, 1, 4


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = chromium.find()
    if path is None:
        pytest.skip("needs a Chromium (apt-get install chromium)")
    running = chromium.Chromium(path, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a bench with two of its runs, and one of runs of every kind."""
    bench = write_bench(tmp_path_factory.mktemp("pages") / "bench")
    rng = np.random.default_rng(0)
    features = {
        "clean": rng.normal(size=(12, 4)),
        "triggered": rng.normal(3, size=(12, 4)),
        "labels": np.arange(12) % 3,
        "targets": np.zeros(12, int),
    }
    about = {"history": history(), "examples": examples(), "features": features}
    write_run(bench / "networks" / "mnist-patch-none-0-abc", "train", train_metrics(), **about)
    repaired = defend_metrics(model="networks/mnist-patch-none-0-abc/badnet.h5")
    write_run(bench / "runs" / "mnist-patch-fine-pruning-0-def", "defend", repaired, examples=goodnet_examples())
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs / "patch", "train", train_metrics(expect=[0.99, 0.98]), **about, reproduce=f"kbd train '{LONG}'")
    write_run(runs / "repair", "defend", defend_metrics(), activations=activations())
    write_run(runs / "strip", "defend", filter_metrics(), scores=filter_scores())
    write_run(runs / "scan", "defend", scan_metrics(), triggers=triggers_of())
    return {"bench": build_report(bench), "runs": build_report(runs)}


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["bench", "runs"])
def test_nothing_is_loaded_nothing_complains_and_text_stays_in_its_place(browser, pages, which, dark, size):
    browser.open(pages[which], *size, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [pages[which].resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == size[0]
    assert browser.run(OVERFLOWING) == [] and browser.run(SQUEEZED) == []
    ground, ink = (
        sum(map(int, browser.run(f"getComputedStyle(document.body).{what}.match(/\\d+/g)")[:3]))
        for what in ("backgroundColor", "color")
    )
    assert (ground < ink) is dark


def test_a_browser_would_notice(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><p style='width: 2000px'>wide</p><img src='file:///missing.png'><script>console.error(1); x.y</script>"
    )
    browser.open(page, *PHONE)
    assert len(browser.complaints()) >= 2 and len(browser.requests()) == 2
    assert browser.run(OVERFLOWING)


def test_a_heading_sorts_up_and_down_by_keyboard(browser, pages):
    browser.open(pages["bench"], *DESKTOP)
    rows = browser.run(ROWS)
    known = sorted(float(row[SUCCESS]) for row in rows if row[SUCCESS])
    assert len(known) == len(rows) - 1 and known != [float(row[SUCCESS]) for row in rows if row[SUCCESS]]
    browser.run(f"document.querySelectorAll('table.sortable th button')[{SUCCESS}].focus()")
    state = f"document.querySelectorAll('table.sortable th')[{SUCCESS}].getAttribute('aria-sort')"
    for key, code, order, direction in (("Enter", 13, 1, "ascending"), (" ", 32, -1, "descending")):
        browser.press(key, code)
        assert browser.run(state) == direction
        shown = [row[SUCCESS] for row in browser.run(ROWS)]
        assert [float(value) for value in shown[:-1]] == known[::order] and shown[
            -1
        ] == ""  # what is unknown comes last
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1
    browser.run(f"document.querySelectorAll('table.sortable th button')[{DEFENSE}].click()")
    names = [row[DEFENSE] for row in browser.run(ROWS)]
    assert names == sorted(names) and browser.run(state) is None


def test_words_and_choices_filter(browser, pages):
    browser.open(pages["bench"], *DESKTOP)
    total = len(browser.run(ROWS))

    def give(selector, value, event):
        browser.run(
            f"{{const one = document.querySelector({selector!r}); one.value = {value!r};"
            f"one.dispatchEvent(new Event('{event}'))}}"
        )
        return browser.run(ROWS)

    count = "document.querySelector('.tools output').textContent"
    assert browser.run(count) == f"{total} of {total} rows"
    found = give(".tools input", "  AAA   fine-PR", "input")
    assert [row[:2] for row in found] == [["mnist-aaa", "fine-pruning"]]
    assert browser.run(count) == f"1 of {total} rows"
    assert len(give(".tools input", "", "input")) == total
    found = give(".tools label:nth-of-type(2) select", "mnist-patch, innocent", "change")
    assert {row[NETWORK] for row in found} == {"mnist-patch, innocent"} and len(found) == 2
    assert give(".tools input", "no such thing", "input") == []


def test_a_phone_sorts_by_a_list(browser, pages):
    browser.open(pages["bench"], *PHONE)
    assert browser.run("document.querySelector('.narrow').offsetParent !== null")
    browser.run(
        "{const one = document.querySelector('.narrow select'); one.value = '4 descending';"
        "one.dispatchEvent(new Event('change'))}"
    )
    shown = [float(row[SUCCESS]) for row in browser.run(ROWS)[:-1]]
    assert shown == sorted(shown, reverse=True)
    browser.open(pages["bench"], *DESKTOP)
    assert browser.run("document.querySelector('.narrow').offsetParent === null")


def test_without_a_script_the_table_is_whole(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(pages["bench"], *DESKTOP)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len(browser.run(ROWS)) == 12 and browser.run("document.querySelectorAll('.tools').length") == 0


def test_on_paper_there_are_no_controls(browser, pages):
    browser.open(pages["bench"], *DESKTOP)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("document.querySelector('.tools').offsetParent === null")
    browser.call("Emulation.setEmulatedMedia", media="")


def test_a_script_that_got_into_a_page_does_not_run(browser, pages, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        pages["bench"].read_text(encoding="utf-8").replace("<h1>", "<script>document.title = 'x'</script><h1>", 1)
    )
    browser.open(page, *DESKTOP)
    assert browser.run("document.title") != "x" and browser.complaints()
