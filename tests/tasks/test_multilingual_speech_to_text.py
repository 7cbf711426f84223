import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from commands import log_records
from fairseq.logging import metrics
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from colld_fairseq import compat
from colld_fairseq.decoding.attention import AttentionDecoder, AttentionGenerator
from colld_fairseq.decoding.ctc import CtcDecoder
from colld_fairseq.errors import ConfigError
from colld_fairseq.scoring.metrics import compute_scores
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import HYPOTHESIS_UNKNOWN, Sentence
from colld_fairseq.tasks.validation import is_statistics

DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "40"]


def batch_of(run, split="test", count=4):
    run.task.load_dataset(split)
    dataset = run.task.dataset(split)
    return dataset.collater([dataset[i] for i in range(count)])


@pytest.fixture
def translation(finetuning, tagged_vocab):
    def build(*more):
        return finetuning("--vocab", tagged_vocab, *DECODER, *more, arch="student_s2t")

    return build


def test_target_begins_with_the_tag_of_its_language(translation):
    run = translation()
    batch = batch_of(run)
    tags = [run.task.target_dictionary.index(f"<lang:{language}>") for language in ("xx", "yy", "xx", "xx")]
    assert batch["target"][:, 0].tolist() == tags
    assert batch["net_input"]["prev_output_tokens"][:, 1].tolist() == tags
    assert run.task.prefix_size == 1 and not set(tags) & set(batch["ctc_target"].flatten().tolist())
    assert run.task.vocabulary.decode(batch["target"][0]) == run.task.dataset("test").rows.row(0).tgt_text


def test_ctc_target_is_the_target_or_the_transcript(translation):
    rows = None
    for column in ("tgt_text", "src_text"):
        run = translation("--ctc-target", column)
        batch = batch_of(run)
        rows = run.task.dataset("test").rows
        length = int(batch["ctc_target_lengths"][2])
        assert run.task.vocabulary.decode(batch["ctc_target"][2, :length]) == getattr(rows.row(2), column)
    assert rows.row(2).tgt_text != rows.row(2).src_text


def test_choice_of_the_decoder(translation, finetuning):
    from argparse import Namespace

    arguments = Namespace(beam=2, nbest=1, max_len_a=0, max_len_b=10)
    both, ctc_only = translation(), finetuning()
    assert isinstance(both.task.build_generator([both.model], arguments), AttentionGenerator)
    assert isinstance(ctc_only.task.build_generator([ctc_only.model], arguments).decoder, CtcDecoder)
    assert isinstance(both.task.build_decoder([both.model], 2, 1), AttentionDecoder)
    both.task.cfg.decoder = "ctc"
    assert isinstance(both.task.build_generator([both.model], arguments).decoder, CtcDecoder)
    ctc_only.task.cfg.decoder = "attention"
    with pytest.raises(ConfigError, match="CTC layer only"):
        ctc_only.task.build_generator([ctc_only.model], arguments)


@pytest.mark.parametrize("beam", [1, 3])
def test_language_tags_are_in_no_hypothesis_of_ctc(translation, beam):
    """No target of CTC holds one: what an untrained layer thinks of them must not count."""
    run = translation()
    tags = sorted(run.task.vocabulary.tag_ids)
    run.model.eval().ctc.bias.data[tags] += 20
    inputs = [batch_of(run)["net_input"][name] for name in ("src_tokens", "src_lengths")]
    n_best = run.task.frame_decoder([run.model], "ctc", beam, beam).decode([run.model], *inputs)
    assert tags and not set(tags) & {token for hypotheses in n_best for h in hypotheses for token in h.tokens}


def test_language_that_has_no_tag(translation):
    run = translation("--tgt-lang", "zz")
    with pytest.raises(ConfigError, match="--tgt-lang, or --lang: target language 'zz' has no tag.*--lang-tags"):
        run.task.build_decoder([run.model], 1, 1)


def edited(run, corpus, folder, split, edit):
    """Loads corpus/split.tsv with rows {column: text} as `edit` leaves them; its name is that of the split."""
    header, *rows = [line.split("\t") for line in (corpus / f"{split}.tsv").read_text(encoding="utf-8").splitlines()]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    for line, row in enumerate(rows, start=2):
        edit(line, row)
    lines = ["\t".join(row) for row in (list(rows[0]), *(row.values() for row in rows))]
    (folder / f"{split}.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    run.task.cfg.data, run.task.cfg.audio_root = str(folder), str(corpus)
    run.task.load_dataset(split)
    dataset = run.task.dataset(split)
    return dataset.collater([dataset[i] for i in range(len(dataset))])


@pytest.mark.parametrize("split, line, language", [("train", 3, "qq"), ("train", 25, ""), ("valid", 11, "unk")])
def test_language_without_a_tag_is_found_when_rows_are_loaded(split, line, language, translation, corpus, tmp_path):
    """Wherever the row is, and before any of its audio is read."""
    run = translation()

    def edit(at, row):
        row["tgt_lang"] = language if at == line else row["tgt_lang"]

    with pytest.raises(ConfigError, match=f"{split}.tsv:{line}: target language '{language}' has no tag.*--lang-tags"):
        edited(run, corpus, tmp_path, split, edit)
    if split == "valid":  # decoded in one language, which is not the rows'
        run.task.cfg.tgt_lang = "xx"
        targets = edited(run, corpus, tmp_path, split, edit)["target"]
        assert set(targets[:, 0].tolist()) == {run.task.target_dictionary.index("<lang:xx>")}


def validated(run, sample, said):
    """Scores of valid_step where the model says token ids `said`."""
    run.model.eval()
    run.criterion.eval()
    n_best = [[SimpleNamespace(tokens=tokens.tolist())] for tokens in said]
    run.task.decoders = lambda model: {"": SimpleNamespace(decode=lambda *_: n_best)}
    log = run.task.valid_step(sample, run.model, run.criterion)[2]
    return compute_scores(sum(counts for key, counts in log.items() if is_statistics(key)).numpy()), log


@pytest.mark.parametrize("old, new", [("a", "A"), ("b", "7"), ("", "")])
def test_references_that_cannot_be_written_count_as_wrong(old, new, finetuning, corpus, caplog, tmp_path):
    """A reference is the manifest's text: a predicted <unk> matches no letter that the vocabulary lacks."""
    run = finetuning()

    def edit(line, row):
        row["tgt_text"] = row["tgt_text"].replace(old, new)

    sample = edited(run, corpus, tmp_path, "valid", edit)
    assert ("out of vocabulary" in caplog.text) == bool(new) and (not new or f"{new!r} " in caplog.text)
    said = [run.task.vocabulary.encode(text, append_eos=True) for text in sample["tgt_texts"]]  # the best it could do
    scores, _ = validated(run, sample, said)
    written = [
        Sentence(run.task.vocabulary.decode(ids, HYPOTHESIS_UNKNOWN), text, "", "")
        for ids, text in zip(said, sample["tgt_texts"], strict=True)
    ]
    assert vars(scores) == build_report(written)["overall"]  # as `colld score` says
    unknown = sum(text.count(new) for text in sample["tgt_texts"]) if new else 0
    assert scores.cer == pytest.approx(100 * unknown / scores.characters) and (scores.wer > 0) == bool(new)


@pytest.mark.parametrize(
    "text, message", [("ΩΨ", "no text in tgt_text that.*'Ω' 1, 'Ψ' 1.*make the voc"), (" ", "fill in")]
)
def test_training_targets_none_of_which_can_be_written(text, message, finetuning, corpus, tmp_path):
    with pytest.raises(ConfigError, match=f"train.tsv: .*{message}"):
        edited(finetuning(), corpus, tmp_path, "train", lambda line, row: row.update(tgt_text=text))


def test_ctc_target_without_its_column(finetuning, corpus, tmp_path):
    with pytest.raises(ConfigError, match="train.tsv: no text in src_text.*fill in"):
        edited(finetuning("--ctc-target", "src_text"), corpus, tmp_path, "train", lambda line, row: row.pop("src_text"))


def test_a_transcript_that_is_empty_is_named(finetuning, corpus, tmp_path, caplog):
    edit = lambda line, row: row.update(src_text=row["src_text"] if line != 7 else "")  # noqa: E731
    edited(finetuning("--ctc-target", "src_text"), corpus, tmp_path, "train", edit)
    assert "1 row(s) with empty text (line 7)" in caplog.text


def test_ctc_on_transcripts_is_scored_with_transcripts(finetuning):
    run = finetuning("--ctc-target", "src_text")
    sample = batch_of(run, "test")
    assert sample["src_texts"] == [run.task.dataset("test").rows.row(i).src_text for i in sample["id"].tolist()]
    sample["src_texts"] = ["a", "b a", "a b", "b"]  # letters of the vocabulary
    scores, log = validated(run, sample, [run.task.vocabulary.encode(text, True) for text in sample["src_texts"]])
    assert scores.wer == 0
    assert {key[1:] for key in log if is_statistics(key)} >= {f"{name}-{name}" for name in sample["src_langs"]}


def test_interactive_input_needs_a_language(translation, corpus):
    run = translation()
    tokens, lengths = run.task.get_interactive_tokens_and_lengths([str(corpus / "test-0.wav")], None)
    dataset = run.task.build_dataset_for_inference(tokens, lengths)
    batch = dataset.collater([dataset[0]])
    assert dataset.sizes.tolist() == [20160] and len(batch["id"]) == 1
    with pytest.raises(ConfigError, match="--tgt-lang"):
        run.task.inference_step(None, [run.model], batch)


def test_validation_scores_are_those_of_the_whole_corpus(finetuning):
    """Statistics of batches add up to one corpus score, for all pairs and for each; sacrebleu is a second opinion."""
    import sacrebleu

    run = finetuning()
    run.model.eval()
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    torch.manual_seed(0)
    run.model.ctc.weight.data.normal_(std=2)  # says something at least
    logs, said, meant = [], {}, {}
    for indices in ([0, 3, 5], [1], [2, 4, 6, 7, 8]):
        batch = dataset.collater([dataset[i] for i in indices])
        logs.append(run.task.valid_step(batch, run.model, run.criterion)[2])
        inputs = [batch["net_input"][name] for name in ("src_tokens", "src_lengths")]
        for i, n_best in zip(indices, run.task.frame_decoder([run.model], "ctc", 1, 1).decode([run.model], *inputs)):
            said[i] = run.task.vocabulary.decode(torch.tensor(n_best[0].tokens), HYPOTHESIS_UNKNOWN)
            meant[i] = dataset.rows.row(i).tgt_text
    assert len({frozenset(log) for log in logs}) == 1  # the same keys at every step
    with metrics.aggregate(new_root=True) as totals:
        run.task.reduce_metrics(logs, run.criterion)
    values = totals.get_smoothed_values()
    order = sorted(said)
    chrf = sacrebleu.corpus_chrf([said[i] for i in order], [[meant[i] for i in order]])
    assert values["chrf"] == pytest.approx(chrf.score, abs=0.01) and values["chrf"] > 0
    pair = [i for i in order if dataset.rows.row(i).src_lang == "ar"]
    chrf = sacrebleu.corpus_chrf([said[i] for i in pair], [[meant[i] for i in pair]])
    assert values["chrf_ar-xx"] == pytest.approx(chrf.score, abs=0.01)
    assert {key for key in values if key.startswith("wer_")} == {
        "wer_xx-xx",
        "wer_yy-yy",
        "wer_yy-xx",
        "wer_ar-xx",
    }


@pytest.mark.parametrize("by, groups", [("language", 3), ("corpus", 2)])
def test_temperature_sampling_balances_languages_or_corpora(by, groups, finetuning, corpus, tmp_path):
    """alpha 0 draws every language, or every manifest, equally often."""
    lines = (corpus / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train_a.tsv").write_text("".join(lines[:5]), encoding="utf-8")
    (tmp_path / "train_b.tsv").write_text("".join(lines[:1] + lines[5:]), encoding="utf-8")
    both = ["--train-subset", "train_a,train_b"]
    run = finetuning("--sampling-alpha", "0", "--sampling-by", by, "--audio-root", corpus, *both)
    run.task.cfg.data = str(tmp_path)
    run.task.load_dataset("train_a,train_b")
    dataset = run.task.datasets["train_a,train_b"]
    drawn = np.concatenate([dataset.options.epoch_rows(epoch) for epoch in range(1, 200)])
    keys = [dataset.rows.row(i).src_lang if by == "language" else i >= 4 for i in drawn]
    shares = [keys.count(key) / len(keys) for key in set(keys)]
    assert len(shares) == groups and shares == pytest.approx([1 / groups] * groups, abs=0.04)


def test_length_limits_hold_in_training_only(finetuning):
    run = finetuning("--max-seconds", "0.8", "--min-seconds", "0.5")
    run.task.load_dataset("train")
    run.task.load_dataset("valid")
    train = run.task.dataset("train")
    seconds = train.rows.n_samples[train.options.epoch_rows(1)] / 16000
    assert 0 < len(seconds) < 24 and seconds.min() >= 0.5 and seconds.max() <= 0.8
    assert len(run.task.dataset("valid").ordered_indices()) == 10


@pytest.mark.parametrize("name", ["unlabeled", "train"])
def test_what_is_trained_on_is_said_by_train_subset_and_not_by_its_name(name, finetuning, corpus, tmp_path, caplog):
    for copy in (name, "train_dev"):
        shutil.copy(corpus / "train.tsv", tmp_path / f"{copy}.tsv")
    options = ["--train-subset", name, "--valid-subset", f"train_dev,{name}", "--max-seconds", "0.8"]
    run = finetuning(*options, "--audio-root", corpus, "--perturb-speed", "0.1")
    run.task.cfg.data = str(tmp_path)
    run.task.load_dataset(name), run.task.load_dataset("train_dev")
    trained, validated = (run.task.dataset(split) for split in (name, "train_dev"))
    assert len(trained.ordered_indices()) < len(validated.ordered_indices()) == len(validated)
    assert trained.options.perturbation and not validated.options.perturbation
    assert caplog.text.count(f"--valid-subset {name} is trained on, too") == 1


def test_nothing_is_trained_on_in_an_evaluation(finetuning, monkeypatch):
    monkeypatch.setattr(compat, "evaluated_checkpoint", lambda cfg: "checkpoint.pt")
    run = finetuning("--max-seconds", "0.8")
    run.task.load_dataset("train")
    assert len(run.task.dataset("train").ordered_indices()) == len(run.task.dataset("train"))


def test_suspicious_rows_are_named_when_data_is_loaded(finetuning, caplog):
    run = finetuning()
    run.task.load_dataset("valid")
    assert not [record for record in caplog.records if "row(s) with" in record.message]
    manifest = run.task.dataset("valid").rows.parts[0]
    manifest.table = manifest.table.set_column(
        manifest.table.column_names.index("tgt_text"), "tgt_text", [["  "] + ["word"] * (len(manifest) - 1)]
    )
    run.task.make_dataset("valid", run.task.dataset("valid").rows, None, run.task.dataset("valid").options)
    assert "1 row(s) with empty text (line 2)" in caplog.text


def test_log_records_helper_reads_every_kind():
    lines = '{"loss": "1", "num_updates": "1"}\n{"valid_loss": "2"}\n{"train_loss": "3"}\n'
    assert [len(log_records(lines, kind)) for kind in ("train_inner", "valid", "train")] == [1, 1, 1]


def test_validation_sets_one_after_another(finetuning):
    """As fairseq-validate loads them: what is scored in the second need not occur in the first."""
    run = finetuning()
    run.model.eval()
    run.criterion.eval()
    for split, language in (("valid", "aa"), ("test", "bb")):
        sample, rows = batch_of(run, split), run.task.dataset(split).rows
        rows.codes = lambda column, language=language, rows=rows: (np.zeros(len(rows), dtype=np.int64), [language])
        sample["src_langs"] = sample["tgt_langs"] = [language] * len(sample["id"])
        log = run.task.valid_step(sample, run.model, run.criterion)[2]
    assert log["_bb-bb"].sum() > 0


def test_decoding_waits_once_for_a_tensor(finetuning):
    """Not once for every token, which would take as long as the search on a GPU."""
    vocabulary = finetuning().task.vocabulary

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            self.count += operation is torch.ops.aten._local_scalar_dense.default
            return operation(*arguments, **(options or {}))

    ids = vocabulary.encode("a b a", append_eos=True)
    with Reads() as reads:
        vocabulary.decode(ids)
    assert reads.count == 0


def test_hypotheses_of_fairseq_generate_end_where_those_of_validation_do(translation, monkeypatch):
    """Unless a limit was asked for: fairseq's default is 200 tokens."""
    run = translation()
    own = run.task.build_decoder([run.model], 1, 1).generator
    assert (own.max_len_a, own.max_len_b) == (0.3, 10)  # 30 tokens per second, at 100 filterbank frames per second

    def limits(argv=(), **given):
        monkeypatch.setattr("sys.argv", ["fairseq-generate", *argv])
        generation = OmegaConf.create({"beam": 1, "max_len_a": 0.0, "max_len_b": 200, **given})
        generator = run.task.build_generator([run.model], generation)
        return generator.max_len_a, generator.max_len_b

    assert limits() == (0.3, 10)
    assert limits(max_len_b=2000) == (0, 2000) and limits(max_len_a=0.5) == (0.5, 200)
    assert limits(["--max-len-b", "200"]) == (0, 200)


def test_interactive_input_that_cannot_be_read_is_left_out(finetuning, corpus, tmp_path, caplog):
    run = finetuning()
    sound = sorted(map(str, corpus.glob("test-*.wav")))[:2]
    soundfile.write(tmp_path / "short.wav", np.zeros(300), 16000)
    (tmp_path / "text.wav").write_text("no audio")
    wrong = [str(tmp_path / name) for name in ("short.wav", "text.wav", "none.wav")]
    lines = [wrong[0], sound[0], "", wrong[1], sound[1], wrong[2]]
    for expected, given in (([1, 4], lines), ([], [""]), ([0], sound[:1])):
        caplog.clear()
        dataset = run.task.build_dataset_for_inference(*run.task.get_interactive_tokens_and_lengths(given, None))
        batches = run.task.get_batch_iterator(dataset, max_tokens=10**6).next_epoch_itr(shuffle=False)
        assert sorted(index for batch in batches for index in batch["id"].tolist()) == expected
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == len(given) - len(expected) and all(message.startswith("left out: ") for message in said)
        if given is lines:
            assert [path in message for path, message in zip([wrong[0], "empty line", *wrong[1:]], said)] == [True] * 4
