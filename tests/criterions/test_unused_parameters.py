"""What torch's DistributedDataParallel would wait for is refused before the first update."""

import pytest
from task_setup import set_up

from colld_fairseq.errors import ConfigError


@pytest.mark.parametrize("option, value", [("--freeze-encoder-updates", "1"), ("--encoder-layerdrop", "0.5")])
@pytest.mark.parametrize("arch, criterion", [("student_ctc", "ctc_attention"), ("transducer_student", "transducer")])
def test_gradients_that_do_not_come(arch, criterion, option, value, corpus, vocab):
    """`find_unused_parameters` is what fairseq's wrapper has under --ddp-backend pytorch_ddp, and no other."""
    task = ["--task", "multilingual_speech_to_text", "--vocab", vocab]
    run = set_up(corpus, *task, "--arch", arch, "--criterion", criterion, option, value)
    run.model.find_unused_parameters = False
    with pytest.raises(ConfigError, match=f"{option} {value}: on several GPUs give --find-unused-parameters or"):
        run.criterion.train()(run.model, {})
    for looks, training in ((True, True), (False, False)):
        run.model.find_unused_parameters = looks
        with pytest.raises(KeyError):  # of the batch, which is empty
            run.criterion.train(training)(run.model, {})
