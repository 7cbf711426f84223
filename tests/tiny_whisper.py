"""A tiny random Whisper in a directory of its own, as transformers writes it; with a tokenizer where one is needed."""

import json

import torch
import transformers
from pretrained import loud
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LANGUAGES = ("en", "de", "es", "ru")
MULTILINGUAL, ENGLISH_ONLY = 51865, 51864  # sizes of OpenAI's vocabularies, by which clients tell them apart


def tiny_whisper(directory, frames=100, bins=80, layers=3, **settings):
    """The model that was written: encoder windows of `frames` (20 ms each), width 24."""
    torch.manual_seed(3)
    fields = dict(
        d_model=24,
        encoder_layers=layers,
        encoder_attention_heads=2,
        encoder_ffn_dim=40,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        num_mel_bins=bins,
        max_source_positions=frames,
        vocab_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**{**fields, **settings})).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "encoder.embed_positions" not in name:
                value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(directory)
    transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=frames // 50).save_pretrained(directory)
    return model


def write_tokenizer(directory, languages=LANGUAGES, size=0):
    """A tokenizer of bytes in OpenAI's order, as tokenizer.json alone; size: filled up to so many tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    steering = ["startoftranscript", *languages, "translate", "transcribe", "startoflm", "startofprev", "nospeech"]
    specials = [f"<|{name}|>" for name in ("endoftext", *steering, "notimestamps")]
    timestamps = [f"<|{0.02 * step:.2f}|>" for step in range(1501)]
    filler = [f"Ġword{n}" for n in range(size - len(alphabet) - 1 - len(specials) - len(timestamps))]
    if size == MULTILINGUAL:
        filler[-1] = ""  # by which CTranslate2 tells them apart
    regular = [*alphabet, "Ġ-", *filler]
    bpe = models.BPE(vocab={token: index for index, token in enumerate(regular)}, merges=[("Ġ", "-")])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(timestamps)
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def complete_whisper(directory, bins=80, layers=3, languages=LANGUAGES, size=0, generation=None, **settings):
    """A tiny Whisper of 30 s with a tokenizer; of an old kind, unless generation_config.json is given.

    Returns model and tokenizer.
    """
    tokenizer = write_tokenizer(directory, languages, size)
    end = tokenizer.token_to_id("<|endoftext|>")
    ids = dict(pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=end + 1)
    fields = dict(vocab_size=tokenizer.get_vocab_size(), max_target_positions=24, begin_suppress_tokens=None, **ids)
    model = loud(tiny_whisper(directory, 1500, bins, layers, **{**fields, **settings}))
    model.save_pretrained(directory)
    said = {"_from_model_config": True, **ids} if generation is None else generation
    (directory / "generation_config.json").write_text(json.dumps(said))
    return model, tokenizer
