"""One self-contained HTML page for people to look at.

Everything is in the file: it asks for nothing from outside, and says so in a strict content security policy, in which
its one style sheet and its one script stand by their hashes. It can be read without scripts.
"""

from __future__ import annotations

import os

from medseq.report.blocks import (
    Block,
    Colours,
    Page,
    Panel,
    Picture,
    Players,
    Profiles,
    Section,
    Table,
    Text,
)

__all__ = [
    "Block",
    "Colours",
    "Page",
    "Panel",
    "Picture",
    "Players",
    "Profiles",
    "Section",
    "Table",
    "Text",
    "write_page",
]


def write_page(page: Page, path: str | os.PathLike[str]) -> None:
    """Write `page` as one HTML file of at most 5 MB, atomically.

    Long series are thinned in time and large images made smaller where they must be, and the page says so.
    Raises ResourceError when it cannot be written.
    """
    raise NotImplementedError
