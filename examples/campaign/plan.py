"""Plans of the campaign: a file of what all claims share (campaign.yaml), and one for each part of a claim.

What may be written there are the fields of the classes here; anything else is an error that names file and field.
"""

from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from colld_fairseq.errors import ConfigError
from colld_fairseq.scoring.bootstrap import SCORES
from colld_fairseq.tasks.plateau import Plateau
from examples.driver.recipes import Config, override, read_yaml

SUM = "sum"  # of `updates`: those of all stages of the plan together
KINDS = {"speech_distillation": "distillation", "multilingual_speech_to_text": "recognition"}
Read = TypeVar("Read")


@dataclass(frozen=True)
class Stage:
    """One training run in the chain of a system."""

    name: str
    recipe: str
    """YAML file, from the plan's folder."""
    updates: Any
    """Or "sum": those of all stages of the plan, for what is trained in one stage alone."""
    rate: float
    """Highest learning rate."""
    subset: str = "train"
    """Training manifests in the folder of the data, without .tsv, comma-separated."""
    valid: str = "dev"
    """Manifest that is validated on."""
    teachers: Tuple[str, ...] = ()
    """Of a distillation: names in `teachers` of the campaign, in this order."""
    codes: str = ""
    """Of a distillation: name in `codes` of the claim."""
    kd_teacher: str = ""
    """Of transducers: the system whose trained model this stage learns from, too."""
    pseudo_labels: str = ""
    """The system whose transcripts of untranscribed audio are trained on, too."""
    speed: Optional[float] = None
    """Seconds of audio per second of one core; default: that of its kind in `speeds` of the campaign."""
    bfloat16: bool = True
    """Where the machine is fast in it."""
    set: Config = field(default_factory=dict)
    """What is changed in the recipe."""


@dataclass(frozen=True)
class Decoding:
    """A test set, and a way of decoding it."""

    subset: str
    options: Tuple[str, ...]
    """Of fairseq-generate."""
    scoring: Tuple[str, ...] = ()
    """Of colld score."""
    ngram_lm: bool = False
    """Decoded with an n-gram model of words: that of the training transcripts, or --ngram-lm."""


@dataclass(frozen=True)
class System:
    """A chain of stages, each of which starts from the student of the one before."""

    name: str
    label: str
    stages: Tuple[Stage, ...]
    student: Config
    """Shape and context of the encoder: of the model in the first stage, whose checkpoint the others take it from."""
    tests: Dict[str, Decoding]
    choices: Tuple[Dict[str, Config], ...] = ()
    """Each: stage -> changes. The best on the development set is chosen, for every seed alike."""
    cmvn: bool = True
    """False for students of waveforms, in claims with `cmvn`."""


@dataclass(frozen=True)
class Comparison:
    """A question with an answer: a system beside a baseline.

    Of several baselines the one with the best score of the whole test set counts. With `minus` the effect is the
    difference of two gains: that of the first pair less that of the second.
    """

    question: str
    system: str
    baselines: Tuple[str, ...]
    test: str
    measure: str
    minus: Optional[Tuple[str, str]] = None
    """(system, baseline) of the second pair."""
    within: Optional[float] = None
    """The claim is not that the system is better, but that it is worse by so many percent at most."""
    smallest: float = 1.0
    """Percent: where the whole interval lies below, the claim of a gain fails."""
    decides: bool = True
    """Whether the verdict of the claim depends on it."""


@dataclass(frozen=True)
class Data:
    """Manifests that claims share."""

    corpora: Tuple[str, ...]
    """Folders (by name) with {train,dev,test}.tsv and ..._asr.tsv, ..._st.tsv, as quickstart/prepare.py writes them."""
    unlabeled: Tuple[str, ...] = ()
    """Names of manifests of further audio."""
    label_minutes: Tuple[float, ...] = ()
    """Of every language: train_10min.tsv and so on."""
    audio_hours: Tuple[float, ...] = ()
    """audio_1h.tsv and so on, the smaller a part of the larger."""
    vocab: Tuple[str, ...] = ("--lowercase", "--remove-punctuation")
    """Options of colld vocab."""
    vocab_from: str = "train"
    """Its manifests there, without .tsv, comma-separated."""
    max_tokens: Optional[int] = None
    """Audio of a batch where it has longer utterances than the campaign's batches: what is longer is left out."""


@dataclass(frozen=True)
class Corpus:
    """folder: of manifests, or of a table; null = given by --corpora. hours: of audio, where that is not known yet."""

    folder: Optional[str] = None
    hours: float = 0.0
    prepared: bool = False
    """Whether the campaign prepares it itself: the quickstart's prompts."""


@dataclass(frozen=True)
class Codes:
    """Code classes: k-means on a layer of a teacher."""

    teacher: str
    layer: int
    clusters: int


@dataclass(frozen=True)
class Claim:
    """One part of a claim (most have one): what is trained, with which seeds, and what is compared."""

    claim: int
    title: str
    hypothesis: str
    seeds: Tuple[int, ...]
    data: str
    stages: Dict[str, Stage]
    systems: Dict[str, System]
    comparisons: Tuple[Comparison, ...]
    part: str = ""
    """Where a claim has several: what is in the names of its files."""
    layers: Dict[str, str] = field(default_factory=dict)
    """Teacher -> layers that are cached, in place of the campaign's; "" = no cache, the teacher runs along."""
    codes: Dict[str, Codes] = field(default_factory=dict)
    cmvn: bool = False
    """Whether filterbanks are normalized by statistics of the corpus, which a stream needs."""
    choices: Tuple[Dict[str, Config], ...] = ()
    """Of every system: learning rates to choose from. Those of a system itself are crossed with them."""
    notes: Tuple[str, ...] = ()
    path: Path = Path()

    @property
    def name(self) -> str:
        return f"claim{self.claim}{f'_{self.part}' if self.part else ''}"


@dataclass(frozen=True)
class Campaign:
    """What all claims share."""

    title: str
    teachers: Dict[str, Optional[str]]
    """Name -> spec; null = given by --teachers."""
    layers: Dict[str, str]
    """Teacher -> layers whose features are cached."""
    corpora: Dict[str, Corpus]
    unlabeled: Dict[str, Optional[str]]
    data: Dict[str, Data]
    speeds: Dict[str, float]
    """Seconds of audio per second of one core: distillation, recognition, features, decoding."""
    max_tokens: int = 224000
    """Audio of a batch, samples at 16 kHz."""
    plateau: Plateau = Plateau()
    tuning_share: float = 0.25
    """Of the updates, for runs that `choices` are chosen by."""
    optimizer: Config = field(default_factory=dict)
    claims: Tuple[Claim, ...] = ()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_campaign(path: Path) -> Campaign:
    """The campaign of a file, its claims included; of a claim's own file (with `campaign: FILE`) with that claim alone.

    Raises ConfigError: what cannot be read, a field that does not exist or is missing, a name that nothing has.
    """
    content = _read(path)
    alone = "campaign" in content
    if alone:
        claim_files, content = [path], _read(path := path.parent / content["campaign"])
        content.pop("claims", None)
    else:
        claim_files = [path.parent / name for name in content.pop("claims", [])]
    campaign = _make(Campaign, content, path)
    campaign = replace(
        campaign,
        data={name: _make(Data, one, path, f"data.{name}.") for name, one in campaign.data.items()},
        corpora={name: _make(Corpus, one or {}, path, f"corpora.{name}.") for name, one in campaign.corpora.items()},
        plateau=_make(Plateau, content.get("plateau", {}), path, "plateau."),
    )
    claims = tuple(read_claim(file, campaign) for file in claim_files)
    names = [claim.name for claim in claims]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two files are of {name}: give each a `part`")
    return replace(campaign, claims=claims)


def read_claim(path: Path, campaign: Campaign) -> Claim:
    """A claim's file. Raises ConfigError as `read_campaign`."""
    content = _read(path)
    content.pop("campaign", None)
    stages = content.get("stages", {})
    tests = content.pop("tests", {})
    rows = cross(content.pop("factors")) if "factors" in content else {}
    rows.update(content.get("systems") or {})
    student = content.pop("student", {})
    content.update(
        stages={name: _stage(name, stage, path) for name, stage in stages.items()},
        systems={name: _system(name, row, stages, student, tests, path) for name, row in rows.items()},
        codes={name: _make(Codes, one, path, f"codes.{name}.") for name, one in content.get("codes", {}).items()},
        comparisons=tuple(_make(Comparison, one, path, "comparisons: ") for one in content.get("comparisons", [])),
        path=path,
    )
    claim = _make(Claim, content, path)
    _check(claim, campaign)
    return claim


def cross(factors: Mapping[str, Mapping[str, Config]]) -> Dict[str, Config]:
    """Systems LEVEL/LEVEL of factors {name: {level: changes}}: labels are joined, everything else is overridden."""
    systems: Dict[str, Config] = {}
    for levels in product(*(factor.items() for factor in factors.values())):
        name = "/".join(level for level, _ in levels)
        row = override({}, *(changes for _, changes in levels))
        row["label"] = ", ".join(str(changes.get("label", level)) for level, changes in levels)
        systems[name] = row
    return systems


def _system(name: str, row: Config, stages: Config, student: Config, tests: Config, path: Path) -> System:
    row = dict(row)
    where = f"systems.{name}."
    changes = row.pop("stages", {})
    for stage in changes:
        if stage not in stages:
            raise ConfigError(f"{path}: {where}stages.{stage}: the plan has the stages {', '.join(stages)}")
    kept = [stage for stage in stages if changes.get(stage, {}) is not None]
    total = sum(stage["updates"] for stage in stages.values())
    chain = []
    for stage in kept:
        merged = override(stages[stage], changes.get(stage, {}))
        merged["updates"] = total if merged["updates"] == SUM else merged["updates"]
        chain.append(_stage(stage, merged, path, where))
    own = override(tests, row.pop("tests", {}))
    row.update(
        name=name,
        stages=tuple(chain),
        student=override(student, row.get("student", {})),
        tests={
            test: _make(Decoding, one, path, f"{where}tests.{test}.") for test, one in own.items() if one is not None
        },
    )
    return _make(System, row, path, where)


def _stage(name: str, row: Config, path: Path, where: str = "") -> Stage:
    return _make(Stage, {**row, "name": name}, path, f"{where}stages.{name}.")


def _check(claim: Claim, campaign: Campaign) -> None:
    """Every name is one of something."""
    path = claim.path

    def known(what: str, name: str, names: Sequence[str]) -> None:
        if name not in names:
            raise ConfigError(f"{path}: {what} {name!r} is none of {', '.join(names)}")

    known("data", claim.data, list(campaign.data))
    for system in claim.systems.values():
        if not system.stages:
            raise ConfigError(f"{path}: systems.{system.name} has no stage")
        for stage in system.stages:
            for teacher in stage.teachers:
                known("teacher", teacher, list(campaign.teachers))
            for other in filter(None, (stage.kd_teacher, stage.pseudo_labels)):
                known("system", other, list(claim.systems))
                if claim.choices or system.choices:
                    raise ConfigError(
                        f"{path}: systems.{system.name} learns from {other}: such claims have no `choices`"
                    )
            if stage.codes:
                known("codes", stage.codes, list(claim.codes))
    for one in claim.comparisons:
        for name in (one.system, *one.baselines, *(one.minus or ())):
            known("system", name, list(claim.systems))
            known(f"test of {name}", one.test, list(claim.systems[name].tests))
        known("measure", one.measure, list(SCORES))


def kind_of(recipe: Config) -> str:
    """distillation or recognition, by the recipe's task."""
    return KINDS[recipe["task"]["_name"]]


def _read(path: Path) -> Config:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # of the YAML parser, by its line
        raise ConfigError(f"{path}: is no YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no fields")
    return content


def _make(kind: Type[Read], content: Any, path: Path, where: str = "") -> Read:
    """An object of a dataclass from a mapping; lists become tuples."""
    names = {one.name: one for one in fields(kind)}
    unknown = [name for name in content if name not in names]
    if unknown:
        raise ConfigError(f"{path}: {where}{unknown[0]}: no such field; there are {', '.join(names)}")
    missing = [
        name
        for name, one in names.items()
        if one.default is MISSING and one.default_factory is MISSING and name not in content
    ]
    if missing:
        raise ConfigError(f"{path}: {where}{missing[0]} is missing")
    return kind(**{name: _frozen(value) for name, value in content.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def every_claim(campaign: Campaign, numbers: Sequence[int]) -> List[Claim]:
    """The claims with these numbers (none: all). Raises ConfigError for one that no file is of."""
    known = {claim.claim for claim in campaign.claims}
    for claim in numbers:
        if claim not in known:
            raise ConfigError(f"--claims: there is no claim {claim}; the plan has {', '.join(map(str, sorted(known)))}")
    return [claim for claim in campaign.claims if not numbers or claim.claim in numbers]
