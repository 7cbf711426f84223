"""Checkpoints as fairseq saves them, of models that were never trained."""

import torch
from commands import TINY_ENCODER
from omegaconf import OmegaConf
from task_setup import set_up


def save_untrained(run, path):
    """`run`: what `task_setup.set_up` returns. Its weights are made larger, so that the input makes a difference."""
    torch.manual_seed(8)
    return save_weights(run, path, {name: enlarged(value) for name, value in run.model.state_dict().items()})


def save_weights(run, path, state, **more):
    """A checkpoint of these weights; more: of what fairseq saves, `task_state` for example."""
    cfg = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
    history = [{"criterion_name": "none", "optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}]
    extra = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    content = {"args": None, "cfg": cfg, "model": state, "optimizer_history": history, "extra_state": extra}
    torch.save({**content, **more}, path)
    return path


def save_transducer(path, corpus, context, *options):
    """An untrained transducer whose encoder has this context; options: at least --vocab."""
    shape = ["--criterion", "transducer", "--predictor-embed-dim", "16", "--joiner-dim", "24"]
    return save_recogniser(path, corpus, context, "--arch", "transducer_student", *shape, *options)


def save_ctc(path, corpus, context, *options):
    """The same with nothing but a CTC layer."""
    return save_recogniser(path, corpus, context, "--arch", "student_ctc", "--criterion", "ctc_attention", *options)


def save_recogniser(path, corpus, context, *options):
    arguments = [corpus, "--task", "multilingual_speech_to_text", *TINY_ENCODER, "--front-end", "conv2d"]
    limits = [] if context == "full" else ["--encoder-context", context, "--left-context", "1,2,full"]
    torch.manual_seed(8)  # weights that write something, the same for all options that make no others
    return str(save_untrained(set_up(*arguments, *limits, *options), path))


def enlarged(value):
    """A weight with noise; what is zero, as the embedding of padding is for ever, stays zero."""
    if not value.is_floating_point() or value.dim() < 2:
        return value
    return value + 0.3 * torch.randn_like(value) * (value != 0)
