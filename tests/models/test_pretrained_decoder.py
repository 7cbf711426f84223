"""Decoders of Whisper, M2M-100, NLLB and mBART-50: the logits and beam searches of transformers on the same frames."""

import json
from types import SimpleNamespace

import pretrained
import pytest
import torch
import transformers
from fairseq.models import FairseqEncoder
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary
from colld_fairseq.decoding.attention import AttentionDecoder, AttentionGenerator
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.models.pretrained_decoder import PARTS, PretrainedDecoder, load_pretrained, parse_parts
from colld_fairseq.modules.lengths import lengths_to_padding_mask

PAIRS = {"whisper": [("es", "en"), ("ru", "ru"), ("en", "en")], "m2m100": [("es", "en"), ("ru", "ru"), ("en", "de")]}
PAIRS["nllb"] = [("spa_Latn", "eng_Latn"), ("rus", "rus"), ("en", "zho_Hant")]
PAIRS["mbart50"] = PAIRS["m2m100"]
LENGTHS = [23, 9, 16]


@pytest.fixture(scope="module", params=PAIRS)
def setting(request, tmp_path_factory):
    """Directory, transformers' model, our vocabulary and decoder, frames [3, 23, 32], prefixes [3, P]."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    directory = getattr(pretrained, f"write_{name}")(folder)
    whisper = name == "whisper"
    reference = transformers.WhisperForConditionalGeneration if whisper else transformers.AutoModelForSeq2SeqLM
    reference = reference.from_pretrained(directory).eval()
    vocabulary = PretrainedVocabulary(directory)
    decoder = PretrainedDecoder(vocabulary).eval()
    load_pretrained(decoder, vocabulary, folder)
    torch.manual_seed(2)
    frames, lengths = torch.randn(12, 23, 32), torch.full((12,), 23)
    sources, targets = zip(*PAIRS[name] * 4)
    prefixes = vocabulary.tags(targets, "", 12, "cpu", sources)
    return SimpleNamespace(**locals())


class Frames(FairseqEncoder):
    """What a student encoder gives a decoder, for frames that are there already."""

    def __init__(self):
        super().__init__(None)

    def forward_torchscript(self, net_input):
        x, lengths = net_input["src_tokens"], net_input["src_lengths"]
        mask = lengths_to_padding_mask(lengths, x.size(1))
        named = {"encoder_out": [x.transpose(0, 1)], "encoder_padding_mask": [mask]}
        return {**named, "prefix_tokens": [net_input["prefix_tokens"]]}

    def reorder_encoder_out(self, encoder_out, order):
        axis = {"encoder_out": 1}
        return {name: [x.index_select(axis.get(name, 0), order) for x in value] for name, value in encoder_out.items()}


class Model(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.encoder, self.decoder = Frames(), decoder

    def get_normalized_probs(self, output, log_probs, sample):
        return self.decoder.get_normalized_probs(output, log_probs, sample)

    def max_decoder_positions(self):
        return self.decoder.max_positions()


def teacher_forced(at, tokens, lengths, rows=slice(None)):
    """Logits of our decoder after each of `tokens` [B, U], the first of which are in fairseq's place of a start."""
    lengths = torch.as_tensor(lengths)
    frames = at.frames[rows, : lengths.max()]
    net_input = {"src_tokens": frames, "src_lengths": lengths, "prefix_tokens": at.prefixes[rows]}
    with torch.no_grad():
        return at.decoder(tokens, Frames().forward_torchscript(net_input))[0]


def some_tokens(rows):
    return torch.randint(4, 60, (rows, 7), generator=torch.Generator().manual_seed(1))


def test_logits_of_transformers(setting):
    """Positions (offset by 2 in mBART and M2M-100), embedding scale, tied head, bias of the logits."""
    at, tokens = setting, some_tokens(12)
    with torch.no_grad():
        expected = at.reference(
            encoder_outputs=BaseModelOutput(at.frames), decoder_input_ids=torch.cat((at.prefixes, tokens[:, 1:]), dim=1)
        ).logits[:, at.prefixes.size(1) - 1 :]
    logits = teacher_forced(at, tokens, at.lengths)
    assert logits.shape == (12, 7, len(at.vocabulary.dictionary))
    assert torch.allclose(logits, expected, atol=1e-4)
    assert expected.std() > 0.1  # or nothing would have been compared


def test_padded_frames_change_nothing(setting):
    at, tokens, rows = setting, some_tokens(3), slice(3)
    together = teacher_forced(at, tokens, LENGTHS, rows)
    assert not torch.allclose(together, teacher_forced(at, tokens, at.lengths[:3], rows), atol=1e-3)
    for row, length in enumerate(LENGTHS):
        alone = teacher_forced(at, tokens[row : row + 1], [length], slice(row, row + 1))
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def generator(at, beam, **changes):
    own = dict(never_written=at.vocabulary.never_written, never_first=at.vocabulary.never_first)
    return AttentionGenerator(
        [Model(at.decoder)],
        at.vocabulary.dictionary,
        beam_size=beam,
        symbols_to_strip_from_output=at.vocabulary.tag_ids,
        **{"max_len_a": 0, "max_len_b": 39, **own, **changes},
    )


def transformers_search(at, beam, **changes):
    """transformers' best hypotheses with our rules, as (tokens, score)."""
    dictionary, size = at.vocabulary.dictionary, at.prefixes.size(1)
    rules = transformers.GenerationConfig(
        num_beams=beam,
        early_stopping=beam > 1,
        length_penalty=1.0,
        max_new_tokens=40,
        min_new_tokens=1,
        suppress_tokens=sorted({*at.vocabulary.never_written, dictionary.pad()}),
        begin_suppress_tokens=sorted(at.vocabulary.never_first) or None,
        eos_token_id=dictionary.eos(),
        pad_token_id=at.reference.config.pad_token_id,
        decoder_start_token_id=int(at.prefixes[0, 0]),
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **changes,
    )
    with torch.no_grad():
        result = transformers.GenerationMixin.generate(
            at.reference,
            encoder_outputs=BaseModelOutput(at.frames),
            decoder_input_ids=at.prefixes,
            decoder_attention_mask=torch.ones_like(at.prefixes),
            generation_config=rules,
        )
    hypotheses = []
    for row, tokens in enumerate(result.sequences[:, size:].tolist()):
        tokens = tokens[: tokens.index(dictionary.eos()) + 1] if dictionary.eos() in tokens else tokens
        if beam > 1:
            score = float(result.sequences_scores[row])
        else:  # greedy search gives no score
            steps = zip(result.logits, tokens)
            score = sum(float(logits[row].log_softmax(-1)[token]) for logits, token in steps) / len(tokens)
        hypotheses.append((tokens, score))
    return hypotheses


@pytest.mark.parametrize("beam, changes", [(1, {}), (5, {}), (5, {"no_repeat_ngram_size": 2})])
def test_searches_of_transformers(setting, beam, changes):
    """The same hypotheses with the same scores, normalized by length: the prefix counts in neither."""
    at = setting
    searched = generator(at, beam, **changes)
    ours = AttentionDecoder(searched).decode(searched.model.models, at.frames, at.lengths, at.prefixes)
    expected = transformers_search(at, beam, **changes)
    ended = [row for row, (tokens, _) in enumerate(expected) if tokens[-1] == at.vocabulary.dictionary.eos()]
    assert len(ended) > 2  # at the longest length the two differ in what they do
    assert len({tuple(expected[row][0]) for row in ended}) > 2
    for row in ended:
        tokens, score = expected[row]
        assert ours[row][0].tokens == tokens[:-1]
        assert ours[row][0].score == pytest.approx(score, abs=1e-4)


# -- training -----------------------------------------------------------------------------------------------------


def trained_names(decoder):
    return {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}


def test_parts_that_are_trained(setting):
    vocabulary = setting.vocabulary
    every = trained_names(PretrainedDecoder(vocabulary))
    partial = trained_names(PretrainedDecoder(vocabulary, train_parts=parse_parts("layer_norm,cross_attention")))
    assert any(".encoder_attn.q_proj" in name for name in partial) and any("layer_norm" in name for name in partial)
    assert not any(".self_attn.q" in name or ".fc1" in name or "embed_tokens" in name for name in partial)
    single = [trained_names(PretrainedDecoder(vocabulary, train_parts=[part])) for part in PARTS]
    assert set.union(*single) == every and sum(map(len, single)) == len(every)  # each parameter is of one part
    with pytest.raises(ConfigError, match="--train-decoder-parts 'attention': write all, or some of layer_norm, self"):
        parse_parts("attention")


def test_frozen_for_the_first_updates(setting):
    decoder = PretrainedDecoder(setting.vocabulary, train_parts=parse_parts("self_attention,cross_attention"))
    late = PretrainedDecoder(setting.vocabulary, train_parts=["self_attention", "cross_attention"], freeze_updates=2)
    assert trained_names(late) == trained_names(decoder)  # which the optimizer is made with
    late.set_num_updates(1)
    assert trained_names(late) == {name for name in trained_names(decoder) if ".encoder_attn." in name}
    late.set_num_updates(2)
    assert trained_names(late) == trained_names(decoder)


def test_dropout_in_place_of_its_own(setting):
    settings = PretrainedDecoder(setting.vocabulary, dropout=0.3).network.config
    assert (settings.dropout, settings.attention_dropout, settings.activation_dropout) == (0.3, 0.3, 0.3)
    assert PretrainedDecoder(setting.vocabulary).network.config.dropout == setting.reference.config.dropout


def test_weights_that_do_not_fit(setting, tmp_path):
    weights = load_file(setting.folder / "model.safetensors")
    decoder = PretrainedDecoder(setting.vocabulary)
    name = "model.decoder.layers.0.fc1.weight"
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"no {name} in its weights"):
        load_pretrained(decoder, setting.vocabulary, tmp_path)
    save_file({**weights, name: weights[name][:3].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name} is \[3, 32\], expected \[48, 32\]"):
        load_pretrained(decoder, setting.vocabulary, tmp_path)


def test_kept_tokens_have_the_logits_that_they_had(setting, tmp_path):
    at, kept = setting, sorted({*range(0, 60, 2), *range(60, len(setting.vocabulary.dictionary))})
    kept = sorted({*kept, *range(4), *(int(i) for i in at.prefixes.flatten()), at.vocabulary.dictionary.eos()})
    for path in at.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "kept_tokens.json").write_text(json.dumps({"ids": kept}))
    vocabulary = PretrainedVocabulary(tmp_path)
    decoder = PretrainedDecoder(vocabulary).eval()
    load_pretrained(decoder, vocabulary, tmp_path)
    assert len(decoder.network.embed_tokens.weight) == len(kept) < len(at.vocabulary.dictionary)
    position = {index: i for i, index in enumerate(kept)}
    tokens = torch.tensor([[kept[0], 10, 20, 62, 66]] * 12)
    cut = SimpleNamespace(
        decoder=decoder, frames=at.frames, prefixes=at.prefixes.clone().apply_(lambda index: position[index])
    )
    ours = teacher_forced(cut, tokens.clone().apply_(lambda index: position[index]), at.lengths)
    assert torch.allclose(ours, teacher_forced(at, tokens, at.lengths)[..., kept], atol=1e-5)
