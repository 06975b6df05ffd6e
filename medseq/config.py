"""Training configurations: YAML, safe-loaded and checked against a schema; objects and numbers only, never code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medseq.bold_recipe import BoldRecipe
from medseq.errors import InputError, MedseqError
from medseq.io.faults import check_is_file, faults_named
from medseq.io.weights import load_prior
from medseq.phantoms.phases import Stills
from medseq.recipe import Recipe
from medseq.stills import load_stills
from medseq.train import train


class TrainConfig(BaseModel):
    """What `medseq train` reads: one recipe, of which presets hold only what differs.

    recipe: of a prior of images, see `medseq.recipe.Recipe`; or bold: of a prior of BOLD fluctuations, see
    `medseq.bold_recipe.BoldRecipe`. stills: folder of still magnitude frames (PNG, searched to any depth) to animate
    beside the phantoms, relative to the YAML file; None trains on phantoms alone.
    """

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe = Recipe()
    bold: BoldRecipe | None = None
    stills: Path | None = None

    def load_stills(self) -> Stills | None:
        """The frames, pairs of phases registered, or None. Raises InputError when there is no PNG or sizes differ."""
        return None if self.stills is None else load_stills(self.stills)

    @property
    def steps(self) -> int:
        return (self.bold or self.recipe).steps

    def train(self, folder: Path, stills: Stills | None, *, resume: bool, device: str) -> Iterator[int]:
        """Run the recipe (`medseq.train.train`), yielding the number of finished steps after each."""
        if self.bold is not None:
            yield from (state.step for state in train(self.bold, folder, stills=stills, resume=resume, device=device))
        else:
            yield from (state.step for state in train(self.recipe, folder, stills=stills, resume=resume, device=device))


def load_config(path: str | Path) -> TrainConfig:
    """Read and check a YAML file. Raises InputError naming the file and the first thing wrong with it."""
    path = Path(path)
    check_is_file(path)
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({_first_line(error)}); correct it") from error
    try:
        config = TrainConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}; see Recipe and BoldRecipe for what there is") from error
    except MedseqError as error:
        raise InputError(f"{path}: {error}; correct it") from error
    if config.recipe.start_from is not None:
        with faults_named(path, str):
            load_prior(config.recipe.start_from)  # a wrong one is told before anything is written
    if config.stills is not None:
        config.stills = (path.parent / config.stills).resolve()
    return config


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
