"""`run.json` as a table for people: how a result was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST_LIST = 8


def provenance(content: Mapping[str, Any]) -> dict[str, str]:
    """What a page shows of a run record (`medseq.provenance.RunRecord.content`), in words; nothing that it lacks."""
    model = content["model"]
    rows = {
        "medseq": content["medseq"],
        "Command": content["command"],
        "Options": _listed(content["options"]),
        "Input": "\n".join(f"{file['name']}, SHA-256 {file['sha256']}" for file in content["inputs"]),
        "Model": f"{model['name']}, SHA-256 {model['sha256']}" if model else "none: no learned prior took part",
        "Result": _listed(content["result"]),
        "Started": content["started"],
        "Seconds": _listed(content["seconds"]),
        "Software": _listed(content["software"]),
    }
    return {name: text for name, text in rows.items() if text}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in values.items() if value is not None)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = " ".join(_text(each) for each in value[:_LONGEST_LIST])
        return f"{shown} … ({len(value)})" if len(value) > _LONGEST_LIST else shown or "none"
    if isinstance(value, Mapping):
        return "(" + _listed(value) + ")"
    return str(value)
