"""`<unk>` is no text: every search leaves it out, of models that would rather emit nothing else.

Left in, it would vanish from the text but stay in the history of predictors and decoders.
"""

from argparse import Namespace

import pytest
import torch
from checkpoints import save_transducer
from torch import nn

from colld_fairseq.recogniser import load_recogniser

DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "40"]
TRANSDUCER = ["--criterion", "transducer", "--predictor-embed-dim", "16", "--joiner-dim", "24"]
MODELS = {"student_ctc": [], "transducer_student": TRANSDUCER, "student_s2t": DECODER}
OPTIONS = [[], ["--allow-unk"]]


def fond_of(token, model):
    """The model, whose best label is this one everywhere, and which would rather emit any label than none."""
    if hasattr(model, "decoder"):
        tied = model.decoder.output_projection.weight
        model.decoder.output_projection = nn.Linear(tied.size(1), tied.size(0))
        output = model.decoder.output_projection
    else:
        output = model.joiner.output if hasattr(model, "joiner") else model.ctc
    with torch.no_grad():
        output.bias[token] += 50
        output.bias[0] -= 5
    return model.eval()


def batch_of(task):
    task.load_dataset("test")
    dataset = task.dataset("test")
    return dataset.collater([dataset[i] for i in range(3)])


@pytest.mark.parametrize("options", OPTIONS, ids=["left out", "allowed"])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("arch", MODELS)
def test_whole_utterances(arch, beam, options, finetuning):
    """As validation and `colld transcribe` decode them, and as fairseq-generate does."""
    run = finetuning(*MODELS[arch], *options, arch=arch)
    unknown, source = run.task.target_dictionary.unk(), (batch := batch_of(run.task))["net_input"]
    models = [fond_of(unknown, run.model)]
    decoder = run.task.build_decoder(models, beam, beam)
    n_best_lists = decoder.decode(models, source["src_tokens"], source["src_lengths"])
    emitted = [hypothesis.tokens for n_best in n_best_lists for hypothesis in n_best]
    generator = run.task.build_generator(models, Namespace(beam=beam, nbest=beam, max_len_a=0, max_len_b=12))
    generated = [h["tokens"].tolist() for n_best in run.task.inference_step(generator, models, batch) for h in n_best]
    assert any(emitted)
    for tokens in (sum(emitted, []), sum(generated, [])):
        assert (unknown in tokens) is bool(options)


@pytest.fixture(scope="module")
def streaming_checkpoint(corpus, vocab, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_transducer(path, corpus, "chunk", "--vocab", vocab, "--cmvn", "none")
    state = torch.load(path, weights_only=True)
    state["model"]["joiner.output.bias"][[0, 3]] += torch.tensor([-5.0, 50.0])  # fairseq's ids of <s> and <unk>
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("beam", [1, 3])
def test_streams(beam, allowed, streaming_checkpoint):
    options = dict(max_symbols=2, device="cpu", allow_unk=allowed)
    recogniser = load_recogniser(streaming_checkpoint, beam=beam, nbest=beam, **options)
    streaming = recogniser.streaming(160, endpoint=None)
    stream = streaming.create_stream()
    stream.accept_waveform(0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(1)).numpy())
    stream.finish()
    while streaming.decode([stream]):
        pass
    result = streaming.result(stream)
    tokens = [token for hypothesis in (result, *result.alternatives) for token in hypothesis.tokens]
    assert tokens and (recogniser.task.target_dictionary.unk() in tokens) is allowed
