"""Pages of a report in a real browser: no complaint, no request, players that play, keys that work, scripts or not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM, Chromium, Tab

from medseq.report.images import coloured
from medseq.report.page import Page, Panel, Players, Profiles, Section, Table, Text, write_page
from medseq.report.plots import plot

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (Debian: apt-get install chromium)")

# Uneven, so that "real time" is more than a constant rate.
TIMES = np.array([0.0, 0.1, 0.2, 0.3, 0.6, 0.7])
PERIOD = 1.0
SIGNED = Panel("Signed", np.broadcast_to(20.0 * np.arange(6)[:, None, None] - 50, (6, 24, 32)), -60, 60, "diverging")
GREY = Panel("Grey", np.broadcast_to(40.0 * np.arange(6)[:, None, None], (6, 24, 32)), 0, 255)
STILL = Panel("Map", np.full((1, 24, 32), 0.5), 0, 1, "sequential")
# The clock of the page in the hands of the test: `tick(ms)` is the next frame of the screen.
CLOCK = """
let waiting = [];
window.requestAnimationFrame = (callback) => waiting.push(callback);
window.tick = (ms) => { const due = waiting; waiting = []; for (const callback of due) callback(ms); };
"""


def example() -> Page:
    blocks = [
        Players("Series", [GREY, SIGNED, STILL], TIMES, PERIOD, edges=("R", "L", "A", "P"), note="A note."),
        Profiles("Motion", [GREY, SIGNED], TIMES, 7),
        Players("Maps", [STILL, STILL], np.zeros(1)),
        Table("Figures", ["", "input", "result"], [["tSNR", "10.0", "12.5"]]),
        plot("Spectrum", "A line.", lambda axes: axes.plot([0, 1], [1, 2], label="power")),
        Text("Use", ["Only for research."]),
    ]
    return Page(
        "Example", "of a page", [Section("One", blocks), Section("Two", blocks[:1])], ["<b>moved</b>"], {"A": "b"}
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, Chromium(Path(profile)) as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_page(example(), file)
    return file


@pytest.fixture
def tab(browser: Chromium, path: Path) -> Iterator[Tab]:
    with browser.open(path, calm=True) as opened:
        opened.wait_for("[...document.images].every((image) => image.complete)")
        yield opened


def frame(tab: Tab) -> int:
    return int(tab.value("document.querySelector('.scrub').value"))


def colour(tab: Tab, panel: int) -> list[int]:
    """Of the middle of a panel, as the page paints it."""
    pixels = f"document.querySelectorAll('canvas')[{panel}].getContext('2d').getImageData(16, 12, 1, 1).data"
    return tab.value(f"[...{pixels}].slice(0, 3)")


def seek(tab: Tab, to: int) -> None:
    tab.value(f"scrub = document.querySelector('.scrub'); scrub.value = {to}; scrub.dispatchEvent(new Event('input'))")


@pytest.mark.parametrize(
    "looks", [{}, {"dark": True}, {"width": 360, "height": 740}, {"calm": True}, {"scripts": False}]
)
def test_no_complaint_and_no_request(browser: Chromium, path: Path, looks: dict):
    with browser.open(path, **looks) as tab:
        if looks.get("scripts", True):
            tab.wait_for("document.querySelectorAll('canvas').length === 8")
        assert tab.complaints() == [] and tab.requests() == []
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ('<p onclick="alert(1)">x</p>', "Content Security Policy"),
        ('<p style="color: red">x</p>', "Content Security Policy"),
        ("<script>1</script>", "Content Security Policy"),
        ('<img src="https://example.invalid/x.png" alt="">', "Content Security Policy"),
        ('<img src="data:image/png;base64,AAAA" alt="">', None),
    ],
)
def test_the_judge_sees_what_is_wrong(browser: Chromium, path: Path, tmp_path: Path, fault: str, told: str | None):
    bad = tmp_path / "bad.html"
    bad.write_text(path.read_text().replace("</main>", f"{fault}</main>"))
    with browser.open(bad, calm=True) as tab:
        tab.value("document.querySelector('p[onclick]')?.click()")
        if told:
            assert any(told in complaint for complaint in tab.complaints())
        else:  # a broken picture makes no noise: it has to be looked for
            assert tab.value("[...document.images].filter((image) => image.naturalWidth === 0).length") == 1


def test_the_judge_sees_requests_that_no_policy_stops(browser: Chromium, tmp_path: Path):
    bad = tmp_path / "open.html"
    bad.write_text('<!DOCTYPE html><img src="other.png"><script>throw new Error("broken")</script>')
    with browser.open(bad) as tab:
        assert [url.rsplit("/", 1)[1] for url in tab.requests()] == ["other.png"]
        assert any("broken" in complaint for complaint in tab.complaints())


def test_every_picture_is_there(tab: Tab):
    assert tab.value("[...document.images].filter((image) => image.naturalWidth === 0).length") == 0


@pytest.mark.parametrize("to", range(6))
def test_scrubbing_shows_each_frame_of_every_panel_in_its_colours(tab: Tab, to: int):
    seek(tab, to)
    for place, panel in enumerate((GREY, SIGNED, STILL)):
        expected = coloured(panel.frames[to if len(panel.frames) > 1 else 0, 0, 0], panel)
        assert np.abs(np.array(colour(tab, place)) - expected).max() <= 6
    assert tab.value("document.querySelector('.clock').textContent") == f"{TIMES[to]:.2f} s · {to + 1} of 6"
    left = tab.value("document.querySelector('.profiles .cursor').style.left")
    assert float(left.rstrip("%")) == pytest.approx(100 * TIMES[to] / PERIOD)


def test_it_plays_in_real_time_and_in_a_loop(browser: Chromium, path: Path):
    with browser.open(path, calm=True, before=CLOCK) as tab:
        tab.value("document.querySelector('.play').click(); tick(1000)")
        seen = {}
        for ms in (0, 50, 150, 350, 590, 620, 950, 1050, 1350):
            tab.value(f"tick({1000 + ms})")
            seen[ms] = frame(tab)
        expected = {ms: int(np.searchsorted(TIMES, ms / 1000 % PERIOD, side="right")) - 1 for ms in seen}
        assert seen == expected
        tab.value("speed = document.querySelector('.speed'); speed.value = '0.5'; tick(2950)")
        assert frame(tab) == int(np.searchsorted(TIMES, (1.35 + 0.3) % PERIOD, side="right")) - 1


def test_it_plays_by_itself_unless_motion_is_to_be_reduced(browser: Chromium, path: Path, tab: Tab):
    assert tab.value("document.querySelector('.play').textContent") == "Play"
    with browser.open(path) as moving:
        assert moving.value("document.querySelector('.play').textContent") == "Pause"
        moving.wait_for("document.querySelector('.scrub').value === '3'")
        moving.wait_for("document.querySelector('.scrub').value === '0'")
        assert moving.value("[...document.querySelectorAll('.play')].map((button) => button.textContent)")[1:] == [
            "Play"
        ]


def test_the_keyboard_does_it_all(tab: Tab):
    named = "document.activeElement.className || document.activeElement.tagName"
    order = []
    for _ in range(9):
        tab.press("Tab")
        order.append(tab.value(named))
        assert tab.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert order == ["A", "A", "players", "play", "scrub", "speed", "flicker", "side", "side"]
    tab.value("document.querySelector('.players').focus()")
    for key, shown in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 5),
        ("ArrowRight", 0),
        ("Home", 0),
    ):
        tab.press(key)
        assert frame(tab) == shown
    for says in ("Pause", "Play"):
        tab.press(" ")
        assert tab.value("document.querySelector('.play').getAttribute('aria-label')") == says
    tab.press("f")
    assert tab.value("document.querySelector('.flicker').getAttribute('aria-pressed')") == "true"
    tab.press("f")
    tab.value("document.querySelector('.play').focus()")
    tab.press(" ")
    assert tab.value("document.querySelector('.play').textContent") == "Pause"  # once, not twice


def test_two_panels_flicker_in_one_place(tab: Tab):
    seek(tab, 5)
    tab.value("document.querySelectorAll('.side')[0].value = '0'; document.querySelectorAll('.side')[1].value = '2'")
    tab.value("document.querySelector('.flicker').click()")
    title = "document.querySelector('.panel .name').textContent"
    for panel, name in ((STILL, "Map"), (GREY, "Grey")):
        tab.wait_for(f"{title} === '{name}'")
        expected = coloured(panel.frames[-1, 0, 0], panel)
        assert np.abs(np.array(colour(tab, 0)) - expected).max() <= 6
    tab.value("document.querySelector('.flicker').click()")
    assert tab.value(title) == "Grey"


def test_without_scripts_everything_can_be_read(browser: Chromium, path: Path):
    with browser.open(path, scripts=False) as tab:
        visible = "(each) => each.getBoundingClientRect().width > 50"
        assert tab.value(f"[...document.querySelectorAll('.still')].filter({visible}).length") == 8
        assert tab.value(f"[...document.querySelectorAll('.profiles img')].every({visible})")
        text = tab.value("document.body.innerText")
        for word in ("Not for diagnosis", "<b>moved</b>", "A note.", "12.5", "Only for research.", "How it was made"):
            assert word in text
        assert "Flicker" not in text and "Speed" not in text  # nothing that would do nothing


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_the_paper(browser: Chromium, path: Path, dark: bool):
    with browser.open(path, dark=dark, calm=True) as tab:
        for selector, behind in (
            ("p.note", "body"),
            ("h1", "body"),
            (".banner", ".banner"),
            (".warnings li", ".warnings ul"),
        ):
            ink = tab.value(f"getComputedStyle(document.querySelector('{selector}')).color")
            paper = tab.value(f"getComputedStyle(document.querySelector('{behind}')).backgroundColor")
            assert contrast(ink, paper) >= 4.5, (selector, ink, paper)


def contrast(ink: str, paper: str) -> float:
    """Of two `rgb(...)`, by WCAG 2.2."""

    def luminance(said: str) -> float:
        parts = np.array([float(word) for word in said.strip("rgb()").split(",")]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_headings_and_names_are_told_to_those_who_do_not_see(tab: Tab):
    levels = tab.value("[...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1 and all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False))
    tab.value("named = (each) => each.getAttribute('aria-label') || each.labels?.length || each.textContent.trim()")
    for what in ("button", "select", "input", "canvas", "figure[role]"):
        assert tab.value(f"[...document.querySelectorAll('{what}')].every(named)"), what
    assert tab.value("[...document.images].every((image) => image.hasAttribute('alt'))")
    assert tab.value("document.documentElement.lang") == "en"
