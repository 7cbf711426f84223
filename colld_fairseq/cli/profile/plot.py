"""Quality against size and speed, as given on the command line."""

from typing import Any, Dict, Iterable, List, NamedTuple, Sequence

from matplotlib.figure import Figure

from colld_fairseq.cli.similarity.plot import png, shorten
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically
from colld_fairseq.numbers import FINITE
from colld_fairseq.outputs import check_output


class Plot(NamedTuple):
    """Where it goes, what was scored, and the score of each model in the order of the table."""

    path: str
    measure: str
    scores: List[float]

    @classmethod
    def parse(cls, words: Sequence[str], models: int, inputs: Iterable[str] = ()) -> "Plot":
        """FILE.png NAME SCORE...; ConfigError unless there is a score for each model, and a file to write that is no
        input."""
        if len(words) != models + 2:
            raise ConfigError(
                f"--plot {' '.join(words)}: write FILE.png, the name of the score, and the scores of the"
                f" {models} models in the order of the table"
            )
        path, measure, *scores = words
        if not path.endswith(".png"):
            raise ConfigError(f"--plot {path}: it is a PNG; give a name that ends in .png")
        check_output(path, "--plot", inputs)
        return cls(path, measure, [FINITE.read(score, f"--plot: {score!r} is no score") for score in scores])

    def write(self, models: Sequence[Dict[str, Any]]) -> None:
        """Draws the models of a report."""
        write_atomically(self.path, png(self.draw(models)))

    def draw(self, models: Sequence[Dict[str, Any]]) -> Figure:
        """Two panels with one y axis: MB as stored, and the real-time factor of the first batch size."""
        figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        names = [f"{model['role']}: {shorten(model['source'])}" for model in models]
        size = models[0]["speed"][0]["batch_size"]
        for index, (name, model, score) in enumerate(zip(names, models, self.scores)):
            for axes, value in ((left, model["mb_stored"]), (right, model["speed"][0]["rtf"])):
                if value is not None:
                    axes.plot(value, score, "o", color=f"C{index}", markersize=8, label=name)
        for axes, title in ((left, "MB as stored"), (right, f"real-time factor, batch {size}")):
            axes.set_xlabel(title)
            axes.set_xlim(left=0)
            axes.grid(color="#E5E5E5", linewidth=0.8)
        left.set_ylabel(self.measure)
        left.legend(frameon=False, fontsize=8)
        return figure
