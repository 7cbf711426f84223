"""The CTC layer of a model that has an attention decoder or a transducer, too, as a model of its own."""

from colld_fairseq.models.encoder_options import known_options
from colld_fairseq.models.finetune_encoder import FinetuneEncoder, FinetuneOptions
from colld_fairseq.models.student_ctc import StudentCtc
from colld_fairseq.recogniser import Recogniser


def ctc_alone(recogniser: Recogniser) -> Recogniser:
    """A recogniser that decodes with CTC as `student_ctc`: encoder and CTC layer are the same, the rest is left out."""
    if len(recogniser.models) > 1 or isinstance(recogniser.models[0], StudentCtc):
        return recogniser
    joint, settings = recogniser.models[0], recogniser.settings
    options = known_options(settings["model"], FinetuneOptions)
    encoder = FinetuneEncoder(FinetuneOptions(**options), joint.encoder.student)
    model = StudentCtc(encoder, joint.ctc.out_features)
    model.ctc = joint.ctc
    settings = {
        **settings,
        "model": {**options, "_name": "student_ctc"},
        "task": {**settings["task"], "decoder": "ctc"},
    }
    return Recogniser(recogniser.task, [model], 1, recogniser.nbest, recogniser.device, settings)
