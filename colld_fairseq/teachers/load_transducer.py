"""Load a trained transducer as the teacher of another one; and what loading any recognizer as a teacher takes."""

import logging
from typing import Optional

from colld_fairseq.checkpoints.names_colld import SavedModel, read_model
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.data.fairseq_config import vocabulary_folder
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.text import has_vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import known_options
from colld_fairseq.models.student_transducer import TransducerStudent, TransducerStudentConfig
from colld_fairseq.teachers.transducer_teacher import TransducerTeacher

logger = logging.getLogger(__name__)


def load_teacher_transducer(path: str, task) -> TransducerTeacher:
    """The transducer of a checkpoint, for students of `task`, whose vocabulary it must have.

    Raises ConfigError when the file is missing or is no transducer of this project, or its vocabulary is another.
    """
    saved = read_model(path)
    if "joiner.output.weight" not in saved.weights:
        raise ConfigError(f"--teacher-transducer {path}: no transducer; train one with --arch transducer_student")
    check_vocabulary(saved, task, path, "--teacher-transducer", len(saved.weights["joiner.output.weight"]))
    options = TransducerStudentConfig(**known_options(saved.model, TransducerStudentConfig))
    network = TransducerStudent.build_model(options, task)
    network.load_state_dict(saved.weights)
    return TransducerTeacher(network, StudentInput(saved.config.input), path)


def check_vocabulary(saved: SavedModel, task, path: str, option: str, size: int) -> None:
    """ConfigError, naming the option, unless the teacher's `size` labels are those of the task, one by one.

    The copy in its checkpoint says what they are. Of an older one without it, the folder of its training does, as that
    is now; where that is gone, their number has to do.
    """
    here = len(task.target_dictionary)
    what = f"{size} tokens, not {here}" if size != here else ""
    there = saved.state.get(vocabulary_copy.NAME)
    if there is None:
        there = copy_in_folder(saved, path)
    if there is not None:
        what = what or vocabulary_copy.label_difference(there, task.vocabulary_copy)
    if what:
        raise ConfigError(
            f"{option} {path}: its vocabulary is not that of {task.vocabulary.folder} ({what}); teacher and student"
            " need one vocabulary"
        )


def copy_in_folder(saved: SavedModel, path: str) -> Optional[vocabulary_copy.Copy]:
    """Of the vocabulary in the folder of a model's training; None, with a warning, where there is none any more."""
    folder = vocabulary_folder(saved.task.get("vocab"), saved.task.get("data") or "", saved.task.get("config_yaml"))
    if has_vocabulary(folder):
        return vocabulary_copy.open_vocabulary(folder, None)[1]
    logger.warning("%s holds no copy of its vocabulary, and %s none: only its size is compared", path, folder)
    return None
