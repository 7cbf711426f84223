"""Small random encoder-decoder models of transformers, with tokenizers of their own kind, as complete directories."""

import json
from pathlib import Path

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

SENTENCES = [
    "please enter your password followed by the pound key",
    "you are entering conference number seven",
    "por favor ingrese su contraseña seguida por la tecla de número",
    "введите номер конференции и пароль",
    "abcde edcba abc ab cd абвгё ёгвба где а б",
]
WHISPER_LANGUAGES = ["en", "es", "ru", "xx", "yy"]
NLLB_LANGUAGES = ["eng_Latn", "rus_Cyrl", "zho_Hans", "zho_Hant", "spa_Latn"]
BYTES = [
    *(chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))),
    *(chr(256 + i) for i in range(68)),  # how byte-level tokenizers write the bytes that are no printable character
]


def random_model(kind, config, ends=4.0):
    """The same weights in every process, and `loud` ones."""
    torch.manual_seed(7)
    return loud(kind(config), ends)


def loud(model, ends=4.0):
    """Weights that make the input matter: a fresh model writes nearly the same for everything. ends: added to the logit
    of the end of text."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "embed_positions" not in name or "decoder" in name:
                value.add_(0.3 * torch.randn_like(value) if value.dim() > 1 else 0.1 * torch.randn_like(value))
        end = model.get_input_embeddings().weight[model.config.eos_token_id]
        model.model.decoder.layer_norm.bias.add_(ends * end / end.dot(end))
    return model.eval()


def write_whisper(folder: Path, multilingual: bool = True, layers: int = 2, ends: float = 4.0, **changes) -> str:
    """A random Whisper of 2 decoder layers and width 32; returns its directory. changes: of config.json."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=BYTES, show_progress=False)
    bpe.train_from_iterator([f" {sentence}" for sentence in SENTENCES], trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = transformers.WhisperTokenizer(
        vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]]
    )
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    names = ["startoftranscript", *WHISPER_LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    names += ["nospeech", "notimestamps"]
    tokenizer.add_tokens([f"<|{name}|>" for name in names], special_tokens=True)
    tokenizer.add_tokens([f"<|{0.02 * step:.2f}|>" for step in range(11)])
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    settings = dict(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=32,
        encoder_layers=layers,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_target_positions=64,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
    )
    config = transformers.WhisperConfig(**{**settings, **changes})
    model = random_model(transformers.WhisperForConditionalGeneration, config, ends)
    model.generation_config.update(
        suppress_tokens=tokenizer.convert_tokens_to_ids(["!", "<|startoftranscript|>", "<|nospeech|>"]),
        begin_suppress_tokens=[tokenizer.convert_tokens_to_ids("Ġ"), end],
    )
    model.save_pretrained(folder)
    rules = folder / "generation_config.json"
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    known = {
        "is_multilingual": multilingual,
        "lang_to_id": {f"<|{name}|>": ids[name] for name in WHISPER_LANGUAGES},
        "task_to_id": {name: ids[name] for name in ("translate", "transcribe")},
    }
    if not multilingual:
        known = {"is_multilingual": False}
    written = json.loads(rules.read_text())
    written.pop("_from_model_config", None)  # else transformers makes it anew from config.json
    rules.write_text(json.dumps({**written, **known, "no_timestamps_token_id": ids["notimestamps"]}))
    how = dict(feature_size=model.config.num_mel_bins, chunk_length=model.config.max_source_positions // 50)
    transformers.WhisperFeatureExtractor(**how).save_pretrained(folder)
    return str(folder)


TEXT_DECODER = dict(
    d_model=32,
    encoder_layers=1,
    encoder_attention_heads=4,
    encoder_ffn_dim=40,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=48,
    max_position_embeddings=64,
    decoder_start_token_id=2,
    scale_embedding=True,
)


def learned_pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """A sentencepiece model, also in folder/sentencepiece.bpe.model."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "sentencepiece.bpe"
    how = dict(vocab_size=70, model_type="bpe", character_coverage=1.0, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES * 3), model_prefix=str(prefix), **how)
    prefix.with_suffix(".bpe.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def write_m2m100(folder: Path, ends: float = 4.0, **changes) -> str:
    """A random M2M-100 whose configuration has ids beyond its tokenizer, as the published ones have."""
    pieces = learned_pieces(folder)
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces)))]
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps({name: index for index, name in enumerate(names)}))
    tokenizer = transformers.M2M100Tokenizer(str(vocab), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    size = max(tokenizer.lang_code_to_id.values()) + 9
    config = transformers.M2M100Config(**{**TEXT_DECODER, "vocab_size": size, **changes})
    random_model(transformers.M2M100ForConditionalGeneration, config, ends).save_pretrained(folder)
    return str(folder)


def write_nllb(folder: Path, **changes) -> str:
    """A random NLLB: an M2M-100 with another tokenizer."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=150, special_tokens=specials, show_progress=False)
    )
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = transformers.NllbTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        extra_special_tokens=NLLB_LANGUAGES,
    )
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(**{**TEXT_DECODER, "vocab_size": len(tokenizer) + 2, **changes})
    random_model(transformers.M2M100ForConditionalGeneration, config).save_pretrained(folder)
    return str(folder)


def write_mbart50(folder: Path, ends: float = 4.0, **changes) -> str:
    """A random mBART-50 with a bias of the logits."""
    pieces = learned_pieces(folder)
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces)))]
    vocab = [(name, -float(rank)) for rank, name in enumerate([*names, *FAIRSEQ_LANGUAGE_CODES, "<mask>"])]
    tokenizer = transformers.MBart50Tokenizer(vocab=vocab)
    (folder / "sentencepiece.bpe.model").unlink()
    tokenizer.save_pretrained(folder)
    config = transformers.MBartConfig(**{**TEXT_DECODER, "vocab_size": len(tokenizer), **changes})
    model = random_model(transformers.MBartForConditionalGeneration, config, ends)
    torch.manual_seed(8)
    model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    model.save_pretrained(folder)
    return str(folder)
