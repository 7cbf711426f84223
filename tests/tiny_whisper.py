"""A tiny random Whisper in a directory of its own, as transformers writes it."""

import torch
import transformers


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
