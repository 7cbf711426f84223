"""A vocabulary from the text of manifests.

Writes into one folder what the task `multilingual_speech_to_text` reads:

- `dict.txt`: fairseq dictionary (token, count); `<s> <pad> </s> <unk>` are implicit, `<s>` serves as the CTC blank.
- `config.yaml`: tokenization and text normalization, so that training text is treated exactly as here.
- `spm.model` and `spm.vocab` for a sentencepiece vocabulary.

The same input gives the same bytes on every run. Files are written under a temporary name and then renamed,
config.yaml last.
"""

import io
import logging
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import yaml

from colld_fairseq.data.manifest import AnyManifest, join_manifests, read_manifest
from colld_fairseq.data.sampling import sampling_indices
from colld_fairseq.data.text import (
    LANG_TAG_TEMPLATE,
    LETTER_BOUNDARY,
    PIECE_BOUNDARY,
    SPECIALS,
    TextCodec,
    TextNormalizer,
    read_vocabulary_config,
)
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError, ManifestError
from colld_fairseq.files import write_atomically
from colld_fairseq.numbers import Number
from colld_fairseq.outputs import check_output, only_run

logger = logging.getLogger(__name__)

FILES = ("dict.txt", "config.yaml", "spm.model", "spm.vocab")
TEMPERATURE = Number(low=1)
NUM_SPECIALS = len(SPECIALS)  # whose ids are the same in sentencepiece
SENTENCEPIECE_THREADS = 4  # a constant, as the model file holds it and is to be the same on every machine


def make_vocabulary(
    manifests: Sequence[str],
    out: Path,
    kind: str = "char",
    size: Optional[int] = None,
    column: str = "tgt_text",
    lang_tags: bool = False,
    normalizer: TextNormalizer = TextNormalizer(),
    temperature: float = 1.0,
    character_coverage: float = 1.0,
) -> int:
    """Write dict.txt, config.yaml (and spm.model, spm.vocab) into `out`.

    Returns the size of the vocabulary, special symbols included.

    Raises ManifestError or ConfigError: no text in the column, a size that the text cannot fill, language
    tags without languages, files of the vocabulary that cannot be written or are manifests.
    """
    manifest = join_manifests([read_manifest(path) for path in manifests])
    check_place(out, manifests)
    sentences = _sentences_by_language(manifest, column, normalizer)
    config = {"vocab_filename": "dict.txt", "text_normalization": asdict(normalizer)}
    if kind == "char":
        counts = _letters(sentences, normalizer, size)
        config["post_process"] = "letter"
        files: Dict[str, bytes] = {}
    else:
        files, counts = _sentencepiece(sentences, normalizer, size or 1000, temperature, character_coverage)
        config["post_process"] = "sentencepiece"
        config["bpe_tokenizer"] = {"bpe": "sentencepiece", "sentencepiece_model": "spm.model"}
    languages = _target_languages(manifest)
    config["languages"] = sorted(languages)
    if lang_tags:
        if not languages:
            raise ManifestError(
                f"{manifest.path}: --lang-tags needs the column tgt_lang, and it is missing or empty; add it "
                "or leave out --lang-tags"
            )
        config["prepend_tgt_lang_tag"] = True
        counts += [(LANG_TAG_TEMPLATE.format(language), languages[language]) for language in sorted(languages)]
    _check_tokens([token for token, _ in counts])
    _write(out, config, counts, files)
    return len(counts) + NUM_SPECIALS


def extend_vocabulary(manifests: Sequence[str], old: str, out: Path, column: str = "tgt_text") -> int:
    """Write a vocabulary of letters into `out` that begins with all of that in the folder `old`, whose settings it
    keeps, and ends with the letters of the text that are new and, where there are tags, those of new languages.

    Returns the size, special symbols included. Raises ManifestError or ConfigError as `make_vocabulary`, and where the
    old vocabulary is one of pieces: text that it could write so far would be written with others.
    """
    manifest = join_manifests([read_manifest(path) for path in manifests])
    check_place(out, [*manifests, *(str(Path(old) / name) for name in FILES)])
    before = Vocabulary(old)
    if before.codec.boundary != LETTER_BOUNDARY:
        raise ConfigError(f"--extend {old}: a vocabulary of pieces cannot grow, one of letters can")
    counts = list(zip(before.dictionary.symbols, before.dictionary.count))[NUM_SPECIALS:]
    known = {symbol for symbol, _ in counts}
    letters = _letters(_sentences_by_language(manifest, column, before.codec.normalizer), before.codec.normalizer, None)
    counts += [(letter, count) for letter, count in letters if letter not in known]
    config, languages = dict(read_vocabulary_config(old)), _target_languages(manifest)
    config.setdefault("text_normalization", asdict(before.codec.normalizer))
    config.update(vocab_filename="dict.txt", languages=sorted({*(config.get("languages") or []), *languages}))
    if before.uses_tags:
        tags = [(LANG_TAG_TEMPLATE.format(language), count) for language, count in sorted(languages.items())]
        counts += [(tag, count) for tag, count in tags if tag not in known]
    _check_tokens([token for token, _ in counts])
    _write(out, config, counts, {})
    return len(counts) + NUM_SPECIALS


def check_place(out: Path, inputs: Sequence[str] = ()) -> None:
    """That a vocabulary can be written into a folder: over none of the inputs, and over no config.yaml but an earlier
    vocabulary's, as those of fairseq's scripts say more than that. Raises ConfigError."""
    for name in FILES:
        check_output(Path(out) / name, "--out", inputs)
    if not (Path(out) / "config.yaml").exists():
        return
    try:
        ours = "text_normalization" in read_vocabulary_config(out)
    except ConfigError:  # empty, or broken
        ours = False
    if not ours:
        raise ConfigError(
            f"--out {out}: there is a config.yaml that `colld vocab` did not make, and it would be replaced; give "
            "another folder, and name that one by --vocab"
        )


def _write(out: Path, config: Dict[str, Any], counts: List[Tuple[str, int]], files: Dict[str, bytes]) -> None:
    """The folder's files; those of the tokenizer are given."""
    files["dict.txt"] = "".join(f"{token} {count}\n" for token, count in counts).encode("utf-8")
    files["config.yaml"] = yaml.safe_dump(config, allow_unicode=True, sort_keys=True).encode("utf-8")
    with only_run(Path(out) / "vocabulary"):
        for name, content in files.items():
            write_atomically(Path(out) / name, content)


def _column(manifest: AnyManifest, name: str) -> Iterator[str]:
    for part in manifest.parts:
        if name in part.table.column_names:
            yield from part.table.column(name).to_pylist()
        else:
            yield from ("" for _ in range(len(part)))


def _sentences_by_language(manifest: AnyManifest, column: str, normalizer: TextNormalizer) -> Dict[str, List[str]]:
    """{language: normalized, non-empty sentences}, in manifest order."""
    sentences: Dict[str, List[str]] = defaultdict(list)
    for text, language in zip(_column(manifest, column), _column(manifest, column.replace("_text", "_lang"))):
        text = normalizer(text)
        if text:
            sentences[language].append(text)
    if not sentences:
        raise ManifestError(
            f"{manifest.path}: no text in the column {column}; a vocabulary needs a speech-to-text manifest "
            "with transcripts or translations"
        )
    return sentences


def _target_languages(manifest: AnyManifest) -> Counter:
    return Counter(language for language in _column(manifest, "tgt_lang") if language)


def _letters(sentences: Dict[str, List[str]], normalizer: TextNormalizer, size: Optional[int]) -> List[Tuple[str, int]]:
    """Letters and the word boundary "|" with their counts, most frequent first, ties by code point."""
    codec = TextCodec("char", normalizer)
    counts: Counter = Counter()
    literal = 0
    for group in sentences.values():
        for text in group:
            literal += LETTER_BOUNDARY in text
            counts.update(codec.encode(text))
    if literal:
        logger.warning(
            "%d sentences contain a literal %r, which marks word boundaries in a character vocabulary: it is "
            "read as a space",
            literal,
            LETTER_BOUNDARY,
        )
    counts[LETTER_BOUNDARY] += 0  # a corpus of single words needs it all the same: a hypothesis may have two
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if size is not None and len(ordered) > size:
        dropped = ordered[size:]
        logger.info("%d rare letters become <unk>: %s", len(dropped), " ".join(letter for letter, _ in dropped[:50]))
        ordered = ordered[:size]
        if LETTER_BOUNDARY not in dict(ordered):
            ordered[-1] = (LETTER_BOUNDARY, counts[LETTER_BOUNDARY])
    return ordered


def _resample(sentences: Dict[str, List[str]], temperature: float) -> Iterator[str]:
    """Sentences with languages in proportion to share^(1/temperature), about as many as given; deterministic."""
    names = sorted(sentences)
    rows = [text for name in names for text in sentences[name]]
    languages = [name for name in names for _ in sentences[name]]
    drawn = sampling_indices(languages, 1 / temperature, epoch=1, seed=1)
    yield from (rows[row] for row in np.sort(drawn))


def _sentencepiece(
    sentences: Dict[str, List[str]], normalizer: TextNormalizer, size: int, temperature: float, coverage: float
) -> Tuple[Dict[str, bytes], List[Tuple[str, int]]]:
    """Contents of the model and vocabulary files, and the pieces with their counts in the sentences."""
    import sentencepiece

    TEMPERATURE.check(temperature, "--temperature")
    # As TextCodec.clean does; sentencepiece itself would take a literal boundary mark for part of a word.
    sentences = {name: [text.replace(PIECE_BOUNDARY, " ") for text in group] for name, group in sentences.items()}
    model = io.BytesIO()
    longest = max(len(text.encode("utf-8")) for group in sentences.values() for text in group)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_resample(sentences, temperature),
            model_writer=model,
            vocab_size=size,
            model_type="unigram",
            character_coverage=coverage,
            **dict(bos_id=0, pad_id=1, eos_id=2, unk_id=3),  # fairseq's ids
            normalization_rule_name="identity",  # TextNormalizer has done it; decode(encode(x)) must be x
            max_sentence_length=longest + 1,  # longer ones would be left out silently
            num_threads=SENTENCEPIECE_THREADS,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"sentencepiece cannot make {size} pieces from {sum(map(len, sentences.values()))} sentences: {error}; "
            "choose another --size, or --kind char"
        ) from error
    codec = TextCodec("sentencepiece", normalizer, model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    vocabulary = "".join(f"{processor.id_to_piece(i)}\t{processor.get_score(i):.6g}\n" for i in ids)
    used = Counter(piece for group in sentences.values() for text in group for piece in codec.encode(text))
    # The order is that of the model, so that sentencepiece's ids are the dictionary's.
    counts = [(processor.id_to_piece(i), used[processor.id_to_piece(i)]) for i in ids[NUM_SPECIALS:]]
    return {"spm.model": model.getvalue(), "spm.vocab": vocabulary.encode("utf-8")}, counts


def _check_tokens(tokens: List[str]) -> None:
    repeated = [token for token, n in Counter([*SPECIALS, *tokens]).items() if n > 1]
    if repeated:
        raise ConfigError(
            f"the text itself contains {', '.join(repeated)}, which would clash with special symbols of the "
            "vocabulary; remove it from the manifest"
        )
