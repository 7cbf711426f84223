"""Whether a corpus has all that is asked of it; told before any audio is opened."""

from typing import Collection, Iterable, List, Sequence

from colld_fairseq.corpora.request import Request
from colld_fairseq.corpora.utterance import LeftOut, Utterance
from colld_fairseq.errors import ConfigError


def check_asked(request: Request, taken: Sequence[Utterance], left_out: Sequence[LeftOut]) -> None:
    """ConfigError where a split, a language or translations are asked for that the corpus does not have (with those it
    has), where a manifest would be empty, and where nothing at all can be used.

    taken: as they are to be written, after the layout has listed everything.
    """
    missing = [
        *_missing("split", request.splits, request.seen_splits),
        *_missing("language", request.languages, request.seen_languages),
    ]
    if missing:
        raise ConfigError(f"{request.folder}: no {' and no '.join(missing)}; {_there(request)}: {_remedy(request)}")
    if not taken and left_out:
        first = left_out[0]
        raise ConfigError(
            f"{request.folder}: none of its {len(left_out)} utterances can be used; the first: {first.id}: "
            f"{first.kind}: {first.reason}"
        )
    if not taken:
        none = "nothing that was asked for" if request.splits or request.languages else "no utterance"
        raise ConfigError(f"{request.folder}: {none}; {_there(request)}: {_remedy(request)}")
    written = {one.split for one in taken}
    for split, name in request.splits.items():
        if name not in written:
            languages = " in these languages" if request.languages else ""
            raise ConfigError(
                f"{request.folder}: the split {split!r} has nothing that can be used{languages}; {_remedy(request)}"
            )
    untranslated = [target for target in request.translate_into if not any(target in one.translations for one in taken)]
    if untranslated:
        there = ", ".join(sorted(request.seen_translations)) or "none"
        raise ConfigError(
            f"{request.folder}: no translation into {_quoted(untranslated)}; it has those into: {there}; "
            "correct --translate-into"
        )


def _missing(kind: str, names: Iterable[str], seen: Collection[str]) -> List[str]:
    """The names that were not seen, in a phrase. None where nothing of the kind was seen: a layout that reaches no
    wanted language may not have looked at splits, nor at languages without a wanted split."""
    missing = [name for name in names if name not in seen] if seen else []
    return [f"{kind} {_quoted(missing)}"] if missing else []


def _there(request: Request) -> str:
    languages = set(request.seen_languages.values())
    kinds = {"splits": request.seen_splits, "languages": languages - {""}}
    there = " and ".join(f"the {kind} {', '.join(sorted(names))}" for kind, names in kinds.items() if names)
    unsaid = ", no file says the language (--languages with a single one does)" if languages == {""} else ""
    return f"it has {there or 'nothing'}{unsaid}"


def _remedy(request: Request) -> str:
    given = [option for option, names in (("--splits", request.splits), ("--languages", request.languages)) if names]
    return f"correct {' or '.join(given)}" if given else "give the folder of a whole corpus"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
