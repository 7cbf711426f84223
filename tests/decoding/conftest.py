"""What tests of decoding share: statistics and a language model."""

import pytest
from streams import UTTERANCES

from colld_fairseq.data.fbank import VARIANTS, GlobalCmvn, log_mel_fbank


@pytest.fixture(scope="session")
def statistics(tmp_path_factory):
    """Variant of the filterbanks -> file."""
    paths = {variant: tmp_path_factory.mktemp("cmvn") / "stats.npz" for variant in VARIANTS}
    for variant, path in paths.items():
        fbanks = [log_mel_fbank(utterance, variant=variant) for utterance in UTTERANCES]
        GlobalCmvn.fit(fbanks).save(str(path), variant)
    return paths


@pytest.fixture(scope="session")
def language_model(vocab, tmp_path_factory):
    """A bigram model of the vocabulary's tokens."""
    pytest.importorskip("kenlm")
    symbols = [line.split()[0] for line in (vocab / "dict.txt").read_text(encoding="utf-8").splitlines()]
    unigrams = [("<unk>", -2.0), ("<s>", -99.0), ("</s>", -0.7)]
    unigrams += [(symbol, -0.5 - index % 7 / 4) for index, symbol in enumerate(symbols)]
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", "ngram 2=1", "", "\\1-grams:"]
    lines += [f"{p}\t{symbol}\t-0.1" for symbol, p in unigrams]
    lines += ["", "\\2-grams:", f"-0.1\t<s> {symbols[0]}", "", "\\end\\", ""]
    path = tmp_path_factory.mktemp("lm") / "tokens.arpa"
    path.write_text("\n".join(lines), encoding="utf-8")
    return dict(ngram_lm=str(path), ngram_lm_unit="token", ngram_lm_weight=1.0)
