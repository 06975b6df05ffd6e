"""Training configurations: YAML, safe-loaded and checked against a schema; objects and numbers only, never code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medseq.bold_recipe import BoldRecipe
from medseq.few_step_recipe import FewStepRecipe
from medseq.io.faults import faults_named
from medseq.io.weights import load_prior
from medseq.io.yaml_files import checked, read_yaml
from medseq.phantoms.phases import Stills
from medseq.recipe import Recipe
from medseq.stills import load_stills
from medseq.train import train


class TrainConfig(BaseModel):
    """What `medseq train` reads: one recipe, of which presets hold only what differs.

    recipe: of a prior of images, see `medseq.recipe.Recipe`; or few_steps: of one for reconstructions of few
    evaluations, see `medseq.few_step_recipe.FewStepRecipe`; or bold: of a prior of BOLD fluctuations, see
    `medseq.bold_recipe.BoldRecipe`. stills: folder of still magnitude frames (PNG, searched to any depth) to animate
    beside the phantoms, relative to the YAML file; None trains on phantoms alone.
    """

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe = Recipe()
    few_steps: FewStepRecipe | None = None
    bold: BoldRecipe | None = None
    stills: Path | None = None

    def load_stills(self) -> Stills | None:
        """The frames, pairs of phases registered, or None. Raises InputError when there is no PNG or sizes differ."""
        return None if self.stills is None else load_stills(self.stills)

    @property
    def starts_from(self) -> str | None:
        """Name or path of the prior to go on from."""
        return (self.few_steps or self.recipe).start_from

    @property
    def steps(self) -> int:
        return (self.bold or self.few_steps or self.recipe).steps

    def train(self, folder: Path, stills: Stills | None, *, resume: bool, device: str) -> Iterator[int]:
        """Run the recipe (`medseq.train.train`), yielding the number of finished steps after each."""
        if self.bold is not None:
            yield from (state.step for state in train(self.bold, folder, stills=stills, resume=resume, device=device))
        else:
            course = self.few_steps or self.recipe
            yield from (state.step for state in train(course, folder, stills=stills, resume=resume, device=device))


def load_config(path: str | Path) -> TrainConfig:
    """Read and check a YAML file. Raises InputError naming the file and the first thing wrong with it."""
    path = Path(path)
    content = read_yaml(path, "give a training configuration")
    config = checked(TrainConfig, content or {}, path, "see Recipe, FewStepRecipe and BoldRecipe for what there is")
    if config.starts_from is not None:
        with faults_named(path, str):
            load_prior(config.starts_from)  # a wrong one is told before anything is written
    if config.stills is not None:
        config.stills = (path.parent / config.stills).resolve()
    return config
