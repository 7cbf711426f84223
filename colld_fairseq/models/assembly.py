"""A recogniser put together without training: a student encoder and the decoder that its teacher came with."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, Optional

from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.checkpoints.names_fairseq import as_fairseq_saves
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import record_encoder
from colld_fairseq.models.finetune_encoder import is_published
from colld_fairseq.models.student_s2t import StudentS2T, StudentS2TConfig


def assemble(
    student: str, decoder_from: str, tokens_from: str = "", silence: Optional[Dict[str, float]] = None
) -> Dict[str, Any]:
    """The checkpoint of a `student_s2t`, ready to decode.

    Args:
        student, decoder_from, tokens_from: as --student, --decoder-from and --decoder-tokens-from of training.
        silence: tail_seconds and least_seconds in place of those that a Whisper-shaped student was trained with; a
            published Whisper was with windows of 30 s, and has them unless `silence` says otherwise.

    Raises ConfigError where something between the two would have to be trained first, and what reading them raises.
    """
    cfg = StudentS2TConfig(student=student, decoder_from=decoder_from, decoder_tokens_from=tokens_from)
    vocabulary, copy = vocabulary_copy.open_vocabulary("", None, None, decoder_from, tokens_from)
    task = SimpleNamespace(
        vocabulary=vocabulary, target_dictionary=vocabulary.dictionary, input_options=InputOptions(), restored=False
    )
    model = StudentS2T.build_model(cfg, task)
    if model.encoder.adaptor is not None:
        raise ConfigError(
            f"{student} is {model.encoder.student.width} wide, the decoder of {decoder_from} attends to"
            f" {model.decoder.width} ({model.decoder.family}): an adaptor has to be trained between them, with"
            f" fairseq-train --arch student_s2t --student {student} --decoder-from {decoder_from}"
        )
    config = model.encoder.config
    if silence and config.input_kind != "log_mel":
        raise ConfigError(
            f"{student} takes in no silence behind an utterance: leave --tail-seconds, --least-seconds out"
        )
    if config.input_kind == "log_mel" and is_published(student):
        silence = {"least_seconds": config.input.window_seconds, **(silence or {})}
    if silence:
        config.input = replace(config.input, **silence)
    record_encoder(cfg, config)
    settings = {**vars(cfg), "_name": "student_s2t"}
    needed_to_train = {"_name": "multilingual_speech_to_text", "data": "", "seed": 1}
    criterion = "ctc_attention"
    content = as_fairseq_saves(settings, needed_to_train, model.state_dict(), criterion)
    content["cfg"]["criterion"] = {"_name": criterion}  # which fairseq-validate asks for
    content["cfg"]["common_eval"] = {"path": None}  # which load_recogniser fills in
    content["task_state"] = {vocabulary_copy.NAME: copy}
    return content
