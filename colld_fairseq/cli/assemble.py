"""`colld assemble`: a student encoder and its teacher's decoder as one model."""

import argparse

import torch

from colld_fairseq.files import split_paths, written_atomically
from colld_fairseq.models.assembly import assemble
from colld_fairseq.outputs import check_output


def run(args: argparse.Namespace) -> int:
    """Writes the model. Raises ColldError."""
    check_output(args.out, "--out", [args.student.rpartition(":")[2], *split_paths(args.decoder_tokens_from)])
    given = {name: getattr(args, name) for name in ("tail_seconds", "least_seconds")}
    silence = {name: value for name, value in given.items() if value is not None}
    model = assemble(args.student, args.decoder_from, args.decoder_tokens_from, silence)
    with written_atomically(args.out) as file:
        torch.save(model, file)
    sizes = {part: 0 for part in ("encoder", "decoder")}
    for name, value in model["model"].items():
        sizes[name.partition(".")[0]] += value.numel()
    print(f"{args.out}: {args.student} ({sizes['encoder']:,} weights) and the decoder of {args.decoder_from}", end=" ")
    print(f"({sizes['decoder']:,} weights, {len(model['model']['decoder.network.embed_tokens.weight']):,} tokens)")
    return 0
