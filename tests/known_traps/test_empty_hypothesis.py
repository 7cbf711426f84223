"""fairseq's default scorer (libbleu) kills the process when a hypothesis has no token at all; CTC gives such ones."""

from argparse import Namespace

import torch


def test_every_hypothesis_ends_with_eos(finetuning):
    run = finetuning()
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    torch.nn.init.zeros_(run.model.ctc.weight)
    torch.nn.init.zeros_(run.model.ctc.bias)
    run.model.ctc.bias.data[0] = 10  # nothing but blanks
    generator = run.task.build_generator([run.model], Namespace(beam=1, nbest=1))
    (n_best,) = run.task.inference_step(generator, [run.model], dataset.collater([dataset[0]]))
    assert n_best[0]["tokens"].tolist() == [run.task.target_dictionary.eos()]
