"""The report of an evaluation holds its figures in words, plots them for light and dark pages, survives odd ones."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from medseq.clip import Clip
from medseq.evaluate import Evaluation, evaluate_series
from medseq.report.blocks import Block, Page, Picture, Players, Profiles, Table
from medseq.report.comparisons import Dots, agreement, curves, dots
from medseq.report.evaluation import evaluation_page
from medseq.report.page import render
from medseq.statistics import bland_altman
from medseq.summary import summarise


def heart(noise: float = 0.0, seed: int = 0, slices: int = 1, frames: int = 6) -> Clip:
    rows, columns = torch.arange(24.0).view(-1, 1), torch.arange(28.0)
    distance = ((rows - 12) ** 2 + (columns - 14) ** 2).sqrt()
    radius = 6 + 2 * torch.cos(2 * torch.pi * torch.arange(frames) / frames).view(-1, 1, 1)
    data = (0.2 + 0.6 * torch.sigmoid(2 * (radius - distance))).expand(slices, 1, frames, 24, 28)
    data = (data + noise * torch.randn(data.shape, generator=torch.Generator().manual_seed(seed))).abs()
    return Clip(data, np.diag([-1.5, -1.5, 8, 1.0]), 0.1 * np.arange(frames), 0.1 * frames)


def page_of(found: Sequence[Evaluation]) -> Page:
    return evaluation_page("Evaluation", found, summarise([figure for one in found for figure in one.figures]))


def blocks(page: Page, kind: type[Block], section: str | None = None) -> list[Block]:
    chosen = [one for one in page.sections if section in (None, one.title)]
    return [block for one in chosen for block in one.blocks if isinstance(block, kind)]


def test_a_page_shows_figures_series_errors_and_profiles() -> None:
    around = torch.ones(1, 1, 1, 24, 28, dtype=torch.bool)
    found = evaluate_series({"ours": heart(0.05)}, heart(), case="one", ventricle=around)
    page = page_of([found])
    (whole,) = (table for table in blocks(page, Table) if table.title == "Region: whole")
    (psnr,) = (figure.value for figure in found.figures if (figure.metric, figure.region) == ("PSNR", "whole"))
    assert dict(whole.rows)["PSNR (dB)"] == f"{psnr:.3g}"
    (players,) = blocks(page, Players, "one")
    assert [panel.title for panel in players.panels] == ["reference", "ours", "ours - reference"]
    white = players.panels[0].high
    assert (players.panels[2].low, players.panels[2].high) == pytest.approx((-white / 5, white / 5))
    np.testing.assert_allclose(players.panels[2].frames, players.panels[1].frames - players.panels[0].frames, atol=1e-6)
    assert len(blocks(page, Profiles, "one")) == 1
    assert any("LV area" in picture.title for picture in blocks(page, Picture, "one"))
    text = render(page)
    assert "Research only" in text and f"{psnr:.3g}" in text


def test_many_cases_add_intervals_tests_and_agreement() -> None:
    results = [{"ours": heart(0.02, n), "theirs": heart(0.08, n)} for n in range(5)]
    cases = [evaluate_series(one, heart(0.001 * n), case=f"case {n}") for n, one in enumerate(results)]
    page = page_of(cases)
    titles = [section.title for section in page.sections]
    assert titles[:3] == ["Figures", "Methods compared", "Agreement with the reference"]
    assert titles[3:7] == [f"case {n}" for n in range(4)] and "case 4" not in titles
    assert all(" to " in row[1] for row in blocks(page, Table, "Figures")[0].rows)
    (table,) = (t for t in blocks(page, Table, "Methods compared") if t.title == "ours - theirs, region: whole")
    assert {row[0]: row[3] for row in table.rows}["NRMSE"] == f"{2 / 2**5:.2g}"


@pytest.mark.parametrize(
    ("result", "reference"),
    [
        (heart(), heart()),
        (heart(0.05), None),
        (heart(0.05, slices=3), heart(slices=3)),
        (heart(frames=1), heart(frames=1)),
    ],
    ids=["no error", "no reference", "slices", "one frame"],
)
def test_odd_cases_have_a_page_too(result: Clip, reference: Clip | None) -> None:
    assert "</html>" in render(page_of([evaluate_series({"ours": result}, reference, case="odd")]))


PICTURES = {
    "dots": lambda: dots("a", [Dots("NRMSE", [("ours", [1.0, 2.0]), ("theirs", [3.0])], [(1.1, 1.9), None], 0.0)]),
    "curves": lambda: curves("a", "ml", [("reference", np.arange(3.0), np.array([5.0, 7, 6]))] * 2),
    "agreement": lambda: agreement("a", "ml", [5, 6, 8], [5, 5, 6], bland_altman([5, 6, 8], [5, 5, 6])),
}


@pytest.mark.parametrize("name", PICTURES)
def test_plots_are_drawings_that_say_in_words_what_they_show(name: str) -> None:
    picture = PICTURES[name]()
    for data in (picture.data, picture.dark):
        assert ET.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
    assert picture.data != picture.dark and picture.data == PICTURES[name]().data
    said = {"dots": "NRMSE: ours 1.5, theirs 3", "curves": "reference 5 to 7", "agreement": "bias 1, 95 % interval"}
    assert said[name] in picture.alt
