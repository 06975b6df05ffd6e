"""YAML that anybody may have written, as plain data checked against a schema.

Safe-loaded, of bounded size, and without aliases, of which a few lines can stand for gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from medseq.errors import InputError, MedseqError
from medseq.io.faults import check_is_file, plain, reason

_MOST_BYTES = 64 << 20

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Objects, lists, texts and numbers only; an alias is refused where it stands."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias, which medseq does not follow,{self.peek_event().start_mark}")
        return super().compose_node(parent, index)


def read_yaml(path: Path, remedy: str) -> Any:
    """The content of a YAML file, None when it is empty. remedy: how to come to such a file.

    Raises InputError when it is missing, unreadable, larger than 64 MiB, nested without end, or holds an alias.
    """
    check_is_file(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: over {_MOST_BYTES >> 20} MiB, which is too much for YAML; {remedy}")
        return yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    # The constructors of dates and numbers raise whatever their arithmetic does, of what only looks like one.
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable YAML file ({reason(error)}); {remedy}") from error
    except (RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({reason(error)}); {remedy}") from error


def checked(schema: type[M], content: Any, path: Path, remedy: str) -> M:
    """The content of `path` as its schema has it. Raises InputError naming the first thing wrong with it."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = plain(".".join(map(str, first["loc"])))[:200] or "the file"
        raise InputError(f"{path}: {place}: {plain(first['msg'])[:200]}; {remedy}") from error
    except MedseqError as error:
        raise InputError(f"{path}: {error}; {remedy}") from error
