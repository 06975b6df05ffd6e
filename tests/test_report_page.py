"""Pages of a report: one file that asks for nothing, hides nothing and can be read without scripts."""

from __future__ import annotations

import hashlib
import io
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseq.errors import ResourceError, UsageError
from medseq.report import images
from medseq.report.page import (
    Page,
    Panel,
    Picture,
    Players,
    Profiles,
    Section,
    Table,
    Text,
    figure,
    render,
    write_page,
)
from medseq.report.plots import plot

HOSTILE = "<script>alert('&\"x\"')</script><img src=http://evil.example onerror=alert(1)>"
TIMES = 0.05 * np.arange(6)


class Reader(HTMLParser):
    """Every start tag with its attributes, and the text inside each kind of tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.text[self._open] = self.text.get(self._open, "") + data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def steps(count: int = 6, height: int = 24, width: int = 32) -> np.ndarray:
    """Frame t is 10 t everywhere: what a player shows can be read from any pixel."""
    return np.broadcast_to(10.0 * np.arange(count)[:, None, None], (count, height, width)).copy()


def players(**options) -> Players:
    panels = [
        Panel("Grey", steps(), 0, 100, unit="a.u."),
        Panel("Signed", steps() - 25, -50, 50, "diverging"),
        Panel("Map", steps()[3:4], 0, 100, "sequential"),
    ]
    return Players("Series", panels, TIMES, **options)


def page(*blocks, **options) -> Page:
    return Page("A page", "of tests", [Section("One", blocks)], **options)


def test_everything_written_is_text():
    blocks = [
        Players(HOSTILE, [Panel(HOSTILE, steps(), 0, 1, caption=HOSTILE, unit=HOSTILE)], TIMES, note=HOSTILE),
        Profiles(HOSTILE, [Panel(HOSTILE, steps(), 0, 1)], TIMES, 3, note=HOSTILE),
        Picture(HOSTILE, b"<svg/>", HOSTILE, note=HOSTILE),
        Table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE),
        Text(HOSTILE, [HOSTILE]),
    ]
    hostile = Page(HOSTILE, HOSTILE, [Section(HOSTILE, blocks, HOSTILE)] * 2, [HOSTILE], {HOSTILE: HOSTILE})
    read = Reader(render(hostile))
    assert len(read.named("script")) == 1 and "alert(" not in read.text["script"]
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert HOSTILE in read.text["h1"] and HOSTILE in read.text["td"] and HOSTILE in read.text["li"]


def test_it_asks_for_nothing_and_its_policy_allows_nothing_else():
    html = render(page(players(), Profiles("Motion", [Panel("Grey", steps(), 0, 60)], TIMES, 3)))
    read = Reader(html)
    for tag, attributes in read.tags:
        assert "style" not in attributes, tag
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert not re.search(r"https?:|@import|url\(", read.text["style"] + read.text["script"])
    [policy] = [meta["content"] for meta in read.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "unsafe" not in policy
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        digest = b64encode(hashlib.sha256(read.text[tag].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_banner_and_the_warnings_come_first():
    html = render(page(Text("", ["the results"]), warnings=["the head moved"], provenance={"Input": "x.nii.gz"}))
    order = [html.index(text) for text in ("Not for diagnosis", "the head moved", "the results", "x.nii.gz")]
    assert order == sorted(order)


def sheet_of(html: str, place: int = 0) -> np.ndarray:
    sources = [tag["src"] for tag in Reader(html).named("img") if tag.get("class") == "sheet"]
    return np.asarray(Image.open(io.BytesIO(b64decode(sources[place].split(",")[1]))).convert("L"))


def test_a_sheet_holds_the_frames_in_reading_order_in_levels_of_their_scale():
    html = render(page(players()))
    [first, *_] = [tag for tag in Reader(html).named("figure") if "data-columns" in tag]
    columns, sheet = int(first["data-columns"]), sheet_of(html)
    for t in range(6):
        y, x = divmod(t, columns)
        cell = sheet[24 * y : 24 * (y + 1), 32 * x : 32 * (x + 1)]
        assert abs(cell.astype(float) - 255 * 10 * t / 100).max() <= 2  # lossy, in the range of video
    levels = sheet_of(html, 1)  # signed: zero is the middle, not black
    assert abs(float(levels[12, 16]) - 255 * 25 / 100) <= 2


def test_pixels_are_made_square():
    html = render(page(players(aspect=2.0)))
    [still, *_] = [tag for tag in Reader(html).named("img") if tag.get("class") == "still"]
    assert (still["width"], still["height"]) == ("32", "48")
    assert images.reels(players(aspect=0.5), 1e6).size == (64, 24)


def test_an_x_t_profile_is_true_to_uneven_times():
    bright = Panel("Ramp", steps(3), 0, 20)
    uneven = Profiles("Motion", [bright], np.array([0.0, 3.0, 4.0]), 5)
    picture = np.asarray(Image.open(io.BytesIO(b64decode(images.profile(bright, uneven).split(",")[1]))).convert("L"))
    shares = [np.mean(abs(picture[12].astype(float) - level) < 40) for level in (0, 127.5, 255)]
    # The frames last 3, 1 and (as the typical interval) 2 seconds.
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 3], atol=0.02)


def test_a_long_series_is_thinned_to_fit_and_says_so():
    noise = np.random.default_rng(0).uniform(0, 1, (40, 64, 64))
    block = Players("Noise", [Panel(name, noise, 0, 1) for name in "ab"], np.arange(40))
    wide, tight = render(page(block)), render(page(block), most_bytes=260_000)
    assert len(tight) <= 260_000 < len(wide)
    assert "One frame in" in tight and "One frame in" not in wide
    [shown] = [tag for tag in Reader(tight).named("figure") if "data-times" in tag]
    times = [float(word) for word in shown["data-times"].strip("[]").split(",")]
    assert len(times) < 40 and np.ptp(np.diff(times)) == 0 and float(shown["data-loop"]) == times[-1] + times[1]


def test_a_page_of_many_long_series_is_at_most_5_mb(tmp_path: Path):
    noise = np.random.default_rng(0).uniform(0, 1, (60, 160, 160))
    block = Players("Noise", [Panel(name, noise, 0, 1) for name in "abc"], np.arange(60))
    write_page(Page("Big", "", [Section(str(n), [block]) for n in range(2)]), tmp_path / "big.html")
    assert 1_000_000 < (tmp_path / "big.html").stat().st_size <= 5_000_000


def test_slow_series_play_faster_than_real_time():
    def speed(interval: float) -> str:
        block = Players("Series", [Panel("Grey", steps(), 0, 1)], interval * np.arange(6))
        return next(tag["data-speed"] for tag in Reader(render(page(block))).named("figure") if "data-speed" in tag)

    assert [float(speed(interval)) for interval in (0.03, 0.2, 1.2, 60.0)] == [1, 1, 8, 16]


def test_columns_of_numbers_are_set_flush_right():
    rows = [["Noise (1)", "12.3 mm", "+0.02"], ["tSNR", "–", "1.5e-05 ± 0.1"]]
    html = render(page(Table("Figures", ["what", "input", "result"], rows)))
    cells = [tag.get("class") for tag in Reader(html).named("td")]
    assert cells == [None, "number", "number"] * 2


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (4.5678, "4.57"), (812.3, "812"), (33607.2, "33607"), (2.5e7, "2.5e+07")]
)
def test_figures_are_read_at_a_glance(value: float, text: str):
    assert figure(value) == text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Panel("x", np.zeros((3, 4)), 0, 1),
        lambda: Panel("x", np.full((1, 3, 4), np.nan), 0, 1),
        lambda: Panel("x", steps(), 1, 1),
        lambda: Players("x", [], TIMES),
        lambda: Players("x", [Panel("a", steps(5), 0, 1)], TIMES),
        lambda: Players("x", [Panel("a", steps(), 0, 1), Panel("b", steps(6, 23), 0, 1)], TIMES),
        lambda: Players("x", [Panel("a", steps(), 0, 1)], TIMES, still=6),
        lambda: Profiles("x", [Panel("a", steps(1), 0, 1)], TIMES[:1], 0),
        lambda: Profiles("x", [Panel("a", steps(), 0, 1)], TIMES, 32),
        lambda: Table("x", ["a", "b"], [["1"]]),
    ],
)
def test_what_cannot_be_shown_is_refused(wrong):
    with pytest.raises(UsageError, match="^x:"):
        wrong()


def test_a_page_is_there_complete_or_not_at_all(tmp_path: Path):
    with pytest.raises(ResourceError, match=r"report\.html: cannot be written"):
        write_page(page(players()), tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []
    write_page(page(players()), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_plots_come_in_light_and_dark_and_are_the_same_every_time():
    made = [plot("Plot", "A line.", lambda axes: axes.plot([0, 1], [2, 3], label="line")) for _ in range(2)]
    assert made[0] == made[1] and made[0].dark is not None and made[0].data != made[0].dark
    assert b"dc:date" not in made[0].data and b"matplotlib.org" not in render(page(made[0])).encode()
