"""The teachers of a run: an ordered mapping name -> TeacherSource. One teacher is the case of length 1.

    --teacher hf:DIR                                  one teacher, named "teacher"
    --teacher whisper=hf:DIR,hubert=fairseq:FILE.pt   two, in this order

The other options about teachers take one value for all, or `whisper=...,hubert=...` as well.
"""

from typing import Callable, Dict, Iterable, List, Sequence

from colld_fairseq.checkpoints.encoder import TEACHERS, hash_of, usage
from colld_fairseq.errors import ConfigError
from colld_fairseq.named_values import choice_of_each, split_named, value_of_each
from colld_fairseq.teachers.base import DTYPES, KINDS
from colld_fairseq.teachers.cache import FeatureCache
from colld_fairseq.teachers.source import FRAME_RULES, TeacherSource

ALONE = "teacher"  # name of a teacher that was given none


class Teachers(Dict[str, TeacherSource]):
    """Ordered name -> TeacherSource; their weights sum to 1."""

    def __init__(self, sources: Iterable[TeacherSource]) -> None:
        super().__init__({source.name: source for source in sources})

    @classmethod
    def from_options(
        cls,
        teacher: str,
        kind: str = "layer",
        dtype: str = "float32",
        cache: str = "",
        frame_rule: str = "average",
        weights: str = "",
        codebooks: str = "",
    ) -> "Teachers":
        """From the values of the options --teacher, --teacher-kind, ... (see above). Raises ConfigError."""
        if not teacher:
            raise ConfigError(f"--teacher is missing: write {usage(TEACHERS)}")
        specs = split_named(teacher, "--teacher") or {ALONE: teacher}
        names = list(specs)
        kinds = choice_of_each(kind, names, "--teacher-kind", KINDS)
        dtypes = choice_of_each(dtype, names, "--teacher-dtype", list(DTYPES))
        rules = choice_of_each(frame_rule, names, "--frame-rule", FRAME_RULES)
        caches = value_of_each(cache, names, "--teacher-cache", default="")
        if len(names) > 1 and cache and not split_named(cache, "--teacher-cache"):
            raise ConfigError(f"--teacher-cache {cache}: a cache is of one teacher; write {names[0]}={cache},...")
        books = value_of_each(codebooks, names, "--teacher-codebooks", default="")
        if len(names) > 1 and codebooks and not split_named(codebooks, "--teacher-codebooks"):
            raise ConfigError(
                f"--teacher-codebooks {codebooks}: they are of one teacher; write {names[0]}={codebooks},..."
            )
        shares = teacher_weights(weights, names)
        return cls(
            TeacherSource(name, spec, kinds[name], dtypes[name], caches[name], rules[name], shares[name], books[name])
            for name, spec in specs.items()
        )

    @property
    def first(self) -> TeacherSource:
        return next(iter(self.values()))

    @property
    def weights(self) -> Dict[str, float]:
        return {name: source.weight for name, source in self.items()}

    @property
    def any_online(self) -> bool:
        return any(source.teacher is not None for source in self.values())

    @property
    def caches(self) -> List[FeatureCache]:
        return [source.cache for source in self.values() if source.cache is not None]

    def record(self) -> Dict[str, str]:
        """Which teachers these are, for a checkpoint: specs and content hashes, named where there are several."""
        return {
            "teacher": self._joined(lambda source: source.spec),
            "teacher_hash": self._joined(lambda source: hash_of(source.spec)),
        }

    def _joined(self, value: Callable[[TeacherSource], str]) -> str:
        if list(self) == [ALONE]:
            return value(self.first)
        return ",".join(f"{name}={value(source)}" for name, source in self.items())


def teacher_weights(text: str, names: Sequence[str]) -> Dict[str, float]:
    """Weights that sum to 1, in the proportions given; equal ones if `text` is empty."""
    values = value_of_each(text or "1", names, "--teacher-weights")
    try:
        numbers = {name: float(value) for name, value in values.items()}
    except ValueError as error:
        raise ConfigError(f"--teacher-weights {text!r}: write numbers, {names[0]}=2,...") from error
    for name, weight in numbers.items():
        if not 0 < weight < float("inf"):
            raise ConfigError(f"--teacher-weights {text!r}: the weight of {name!r} must be above 0; or leave it out")
    total = sum(numbers.values())
    return {name: weight / total for name, weight in numbers.items()}
