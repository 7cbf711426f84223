"""A test set as a system decoded it: the scores, and utterance by utterance what was said and written.

The figures are those that `colld score --json` wrote. Intervals and single utterances need the hypotheses as well: they
are read from fairseq-generate's output and its manifest, and must give the same figures again.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.manifest import Manifest, read_manifest
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.errors import ColldError
from colld_fairseq.report.files import is_figure, read_json
from colld_fairseq.scoring.measures import MEASURES, kind_of, pair_name
from colld_fairseq.scoring.metrics import STATISTICS_SIZE, compute_scores, sentence_statistics
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import (
    HYPOTHESIS_UNKNOWN,
    REFERENCE_UNKNOWN,
    Sentence,
    read_generate_lines,
    read_generate_output,
)

ALL_MEASURES = tuple(name for names in MEASURES.values() for name in names)
_TOLERANCE = 1e-6  # percent; both are computed from the same counts
Figures = Dict[str, Dict[str, Optional[float]]]  # "de", "de → en", "mean" or "all" -> measure -> percent


class Utterance(NamedTuple):
    """As it was scored: hypothesis and reference are normalized; `audio` is "" where it is not known."""

    id: str
    audio: str
    seconds: Optional[float]
    hypothesis: str
    reference: str
    src_lang: str
    tgt_lang: str

    @property
    def kind(self) -> str:
        return kind_of(self.src_lang, self.tgt_lang)

    @property
    def pair(self) -> str:
        return pair_name(self.src_lang, self.tgt_lang)


@dataclass
class Decoded:
    """One test set of one run.

    group: of the recipe: only results of one group are compared. test: name of the subset.
    scores: as `colld score --json` writes them. utterances: in the order of the manifest, or none.
    """

    group: str
    test: str
    scores: Dict[str, Any]
    utterances: List[Utterance] = field(default_factory=list)

    @property
    def kinds(self) -> List[str]:
        """ "asr", "st" or both, of what is in the test set."""
        present = {kind_of(pair["src_lang"], pair["tgt_lang"]) for pair in self.scores["pairs"]}
        return [kind for kind in MEASURES if kind in present]

    @cached_property
    def statistics(self) -> np.ndarray:
        """Counts of every utterance, [N, STATISTICS_SIZE]."""
        rows = [sentence_statistics(one.hypothesis, one.reference, one.tgt_lang) for one in self.utterances]
        return np.array(rows).reshape(len(rows), STATISTICS_SIZE)

    def rows(self, kind: str) -> List[int]:
        """Indices of the utterances of a kind."""
        return [index for index, one in enumerate(self.utterances) if one.kind == kind]

    def figures(self, kind: str) -> Figures:
        """Scores of the pairs of a kind, their mean (every pair alike) and, where it is known, of all utterances."""
        pairs = {
            pair_name(pair["src_lang"], pair["tgt_lang"]): {name: pair[name] for name in ALL_MEASURES}
            for pair in self.scores["pairs"]
            if kind_of(pair["src_lang"], pair["tgt_lang"]) == kind
        }
        mean = {name: _mean(pair[name] for pair in pairs.values()) for name in ALL_MEASURES}
        figures = {**pairs, "mean": mean}
        if len(self.kinds) == 1:
            figures["all"] = {name: self.scores["overall"][name] for name in ALL_MEASURES}
        elif self.utterances:
            scores = compute_scores(self.statistics[self.rows(kind)].sum(0))
            figures["all"] = {name: getattr(scores, name) for name in ALL_MEASURES}
        return figures


def _mean(values: Iterable[Optional[float]]) -> Optional[float]:
    known = list(values)
    return None if not known or None in known else sum(known) / len(known)


def read_scores(path: Path) -> Dict[str, Any]:
    """What `colld score --json` wrote. Raises ColldError: anything else."""
    content = read_json(path)
    try:
        for one in [content["overall"], *content["pairs"]]:
            wrong = [name for name in ALL_MEASURES if one[name] is not None and not is_figure(one[name])]
            if wrong or not is_figure(one["sentences"]):
                raise TypeError(f"{(*wrong, 'sentences')[0]} is no figure")
        names = [pair[key] for pair in content["pairs"] for key in ("src_lang", "tgt_lang")]
        words = [*names, *content["signatures"], *content["signatures"].values()]
        if not all(isinstance(word, str) for word in words):
            raise TypeError("languages and signatures must be text")
        content["text_normalization"] = dict(content.get("text_normalization") or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ColldError(f"{path}: is not what `colld score --json` writes ({error}); write it again") from error
    return content


class Manifests:
    """The manifest of a subset: by its name among those given on the command line, then in the experiment's folder."""

    def __init__(self, given: Sequence[str], audio_root: Optional[str], files: Sequence[Path]):
        self.audio_root, self.read = audio_root, {}
        self.paths = {path.stem: path for path in reversed(files) if path.suffix == ".tsv"}
        self.paths.update((Path(path).stem, Path(path)) for path in given)

    def of(self, subset: str) -> Optional[Manifest]:
        """Raises ColldError as `read_manifest`."""
        path = self.paths.get(subset)
        if path is not None and path not in self.read:
            self.read[path] = read_manifest(str(path), self.audio_root)
        return self.read.get(path)


def read_decoded(
    generate: Path, scores: Dict[Path, Dict[str, Any]], manifests: Manifests, group: str
) -> Tuple[Optional[Path], Decoded]:
    """The output of one fairseq-generate, and the first of the files of scores whose figures its hypotheses give again.

    Where there is none: None, and the hypotheses scored as they are. Raises ColldError: what cannot be read.
    """
    subset = subset_of(generate)
    variants = _variants(generate, manifests.of(subset), scores.values())
    for path, content in scores.items():
        for utterances in variants:
            decoded = _scored(group, subset, content, utterances)
            if decoded is not None:
                return path, decoded
    return None, Decoded(group, subset, build_report([Sentence(*one[3:]) for one in variants[0]]), variants[0])


def subset_of(generate: Path) -> str:
    """ "test" of `generate-test.txt`."""
    return generate.stem.removeprefix("generate-")


def _variants(generate: Path, manifest: Optional[Manifest], scores: Iterable[Dict[str, Any]]) -> List[List[Utterance]]:
    """The utterances with the references of fairseq-generate, and with those of the manifest, neither normalized."""
    if manifest is None:
        pairs = [pair for content in scores for pair in content["pairs"]]
        languages = [(pair["src_lang"], pair["tgt_lang"]) for pair in pairs]
        if len(set(languages)) > 1:
            raise ColldError(
                f"{generate}: no manifest {subset_of(generate)}.tsv, which says the languages; name"
                " it with --manifest, and there are intervals and utterances"
            )
        src_lang, tgt_lang = languages[0] if languages else ("", "")
        lines = read_generate_lines(str(generate))
        return [[Utterance(str(row), "", None, *pair, src_lang, tgt_lang) for row, pair in lines.items()]]
    rows = [manifest.row(index) for index in range(len(manifest))]
    variants = []
    for from_manifest in (False, True):
        try:
            sentences = read_generate_output(str(generate), manifest, from_manifest)
        except ColldError:
            if from_manifest:
                raise
            continue  # without T- lines: only the manifest has references
        variants.append(
            [
                Utterance(row.id, "" if row.kind == "fbank" else row.audio, row.n_samples / SAMPLE_RATE, *sentence)
                for row, sentence in zip(rows, sentences, strict=True)
            ]
        )
    return variants


def _scored(group: str, test: str, scores: Dict[str, Any], utterances: List[Utterance]) -> Optional[Decoded]:
    """The utterances as these scores normalized them; None where they do not give the scores."""
    if scores["overall"].get("sentences") != len(utterances):
        return None
    normalize = TextNormalizer.from_config(scores["text_normalization"])
    cleaned = [
        one._replace(hypothesis=normalize(one.hypothesis), reference=normalize(one.reference)) for one in utterances
    ]
    decoded = Decoded(group, test, scores, cleaned)
    own = compute_scores(decoded.statistics.sum(0))
    for name in ALL_MEASURES:
        ours, theirs = getattr(own, name), scores["overall"][name]
        if (ours is None) != (theirs is None) or (ours is not None and abs(ours - theirs) > _TOLERANCE):
            return None
    return decoded


def readable(text: str) -> str:
    """Unknown tokens as they are shown, which are scored as characters that no text has."""
    return text.replace(REFERENCE_UNKNOWN, "⁇").replace(HYPOTHESIS_UNKNOWN, "⁇")
