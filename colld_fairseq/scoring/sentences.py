"""Hypotheses beside their references: from fairseq-generate, `colld transcribe` or plain text files."""

import os
import re
import unicodedata
from typing import Dict, List, NamedTuple, Optional, Tuple

from colld_fairseq.data.manifest import AnyManifest, read_manifest
from colld_fairseq.data.text_files import text_lines
from colld_fairseq.errors import ColldError
from colld_fairseq.scoring.languages import check_language

# fairseq writes unknown tokens as <<unk>> in references and <unk> in hypotheses. They must never match, and
# sacrebleu's tokenizers would take both apart into "<", "unk", ">": each becomes one character of its own.
REFERENCE_UNKNOWN, HYPOTHESIS_UNKNOWN = "\ue000", "\ue001"  # of private use, which no text holds
_LINE = re.compile(r"([TD])-(\d+)\t(.*)", re.DOTALL)
_SHOWN = 10  # ids named in an error


class Sentence(NamedTuple):
    """One hypothesis beside its reference."""

    hypothesis: str
    reference: str
    src_lang: str
    tgt_lang: str


def _with_unknowns(hypothesis: str, reference: str) -> Tuple[str, str]:
    """Both with unknown tokens as characters that never match. A mark that both have is no unknown token of one of
    them: fairseq never writes the same one on both sides, so the text itself has it, and it is compared as it is."""
    if "<<unk>>" not in hypothesis:
        reference = reference.replace("<<unk>>", REFERENCE_UNKNOWN)
    if "<unk>" not in reference:
        hypothesis = hypothesis.replace("<unk>", HYPOTHESIS_UNKNOWN)
    return hypothesis, reference


def read_generate_output(path: str, manifest: AnyManifest, manifest_references: bool = False) -> List[Sentence]:
    """Best hypothesis of every row of the manifest, in its order. fairseq-generate's ids are the indices of rows.

    Raises ColldError: a row without hypothesis or reference line, an id beyond the manifest or twice in the
    file, references that are not those of the manifest.
    """
    references, hypotheses = _generate_lines(path, manifest)
    remedy = (
        "fairseq-generate left them out, as audio that cannot be read (its log says why), or did not come to its end:"
        " mend the audio or take the rows out of the manifest, and decode again"
    )
    _require_all(path, manifest, hypotheses, "D- line", remedy)
    if not manifest_references:
        _require_all(path, manifest, references, "T- line", "use --references manifest")
    _check_same_references(path, manifest, references)
    sentences = []
    for row in range(len(manifest)):
        reference = manifest.text("tgt_text", row) if manifest_references else references[row]
        pair = _with_unknowns(hypotheses[row], reference)
        sentences.append(Sentence(*pair, manifest.text("src_lang", row), manifest.text("tgt_lang", row)))
    return sentences


def read_generate_lines(path: str) -> Dict[int, Tuple[str, str]]:
    """Best hypothesis and reference of every row of fairseq-generate's output, by row, without a manifest.

    Raises ColldError: no row, one without hypothesis or reference line, an id twice.
    """
    references, hypotheses = _generate_lines(path, None)
    if not hypotheses or references.keys() != hypotheses.keys():
        raise ColldError(f"{path}: has {len(hypotheses)} D- lines and {len(references)} T- lines; give its manifest")
    return {row: _with_unknowns(hypotheses[row], references[row]) for row in sorted(references)}


def _generate_lines(path: str, manifest: Optional[AnyManifest]) -> Tuple[Dict[int, str], Dict[int, str]]:
    """References and best hypotheses by row. ColldError: an id beyond the manifest, or twice."""
    references: Dict[int, str] = {}
    hypotheses: Dict[int, str] = {}
    for line_number, line in enumerate(text_lines(path), start=1):
        match = _LINE.match(line)
        if match is None:
            continue
        row, rest = int(match[2]), match[3]
        if manifest is not None and row >= len(manifest):
            raise ColldError(
                f"{path}:{line_number}: id {row}, but {manifest.path} has {len(manifest)} rows; give the "
                "manifest(s) that were decoded"
            )
        if match[1] == "T":
            if row in references:
                raise ColldError(f"{path}:{line_number}: id {row} occurs twice; the file holds more than one decoding")
            references[row] = rest
        else:  # n-best lists are best first
            hypotheses.setdefault(row, rest.partition("\t")[2])
    return references, hypotheses


def read_transcripts(path: str, manifest: AnyManifest) -> List[Sentence]:
    """The transcript of every row of the manifest, by its id.

    Raises ColldError: a row without transcript, or with one in another language than its text.
    """
    transcripts = read_manifest(path)
    rows = {transcripts.text("id", row): row for row in range(len(transcripts))}
    hypotheses: Dict[int, str] = {}
    sentences = []
    for index in range(len(manifest)):
        row = manifest.row(index)
        if row.id not in rows:
            continue
        hypotheses[index] = transcripts.text("tgt_text", rows[row.id])
        written = transcripts.text("tgt_lang", rows[row.id])
        if written and row.tgt_lang and written != row.tgt_lang:
            raise ColldError(
                f"{transcripts.where(rows[row.id])}: {row.id!r} is transcribed in {written!r}, its text in"
                f" {manifest.where(index)} is in {row.tgt_lang!r}; give the manifest(s) that were transcribed"
            )
        sentences.append(Sentence(hypotheses[index], row.tgt_text, row.src_lang, row.tgt_lang))
    _require_all(path, manifest, hypotheses, "transcript", "transcribe them too, or take them out of the manifest")
    return sentences


def _require_all(path: str, manifest: AnyManifest, lines: Dict[int, str], kind: str, remedy: str) -> None:
    missing = [row for row in range(len(manifest)) if row not in lines]
    if missing:
        named = ", ".join(f"{row} ({manifest.text('id', row)})" for row in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ColldError(
            f"{path}: {len(missing)} of {len(manifest)} rows of {manifest.path} have no {kind}: ids "
            f"{named}{more}; {remedy}"
        )


def _letters_only(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", text).lower() if unicodedata.category(c)[0] == "L")


def _words(text: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in text.split())


def _check_same_references(path: str, manifest: AnyManifest, references: Dict[int, str]) -> None:
    """A wrong manifest of the right size would assign wrong languages. Normalization and unknown letters may
    change some references, not most of them."""
    same = sum(_letters_only(text) == _letters_only(manifest.text("tgt_text", row)) for row, text in references.items())
    known = sum("<<unk>>" not in text for text in references.values())
    if 2 * same < known:
        raise ColldError(
            f"{path}: only {same} of {len(references)} references are those of {manifest.path}; give the "
            "manifest(s) that were decoded, in the same order"
        )
    written = sum(map(_words, references.values()))
    meant = sum(_words(manifest.text("tgt_text", row)) for row in references)
    if not 0.5 <= (written + 1) / (meant + 1) <= 2:
        raise ColldError(
            f"{path}: its references have {written} words, those of {manifest.path} {meant}: they are tokens and no"
            " text; decode again without --post-process"
        )


def read_text_files(hypothesis_path: str, reference_path: str, languages: str = "") -> List[Sentence]:
    """Sentences of two files; `languages`: a code for all, or a file with `target` or `source<TAB>target` lines."""
    hypotheses, references = list(text_lines(hypothesis_path)), list(text_lines(reference_path))
    if not references:
        raise ColldError(f"{reference_path}: has no line, so that there is nothing to score")
    if os.path.isfile(languages):
        codes = list(text_lines(languages))
        for line_number, code in enumerate(codes, start=1):
            for part in filter(None, code.split("\t")):
                check_language(part, f"{languages}:{line_number}")
    else:
        check_language(languages, "--lang")
        codes = [languages] * len(references)
    for path, lines in ((hypothesis_path, hypotheses), (languages, codes)):
        if len(lines) != len(references):
            raise ColldError(
                f"{path} has {len(lines)} lines, {reference_path} has {len(references)}; they must be parallel"
            )
    pairs = [code.rpartition("\t") for code in codes]
    return [Sentence(h, r, src, tgt) for h, r, (src, _, tgt) in zip(hypotheses, references, pairs)]
