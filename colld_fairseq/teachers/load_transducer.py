"""Load a trained transducer as the teacher of another one; and what loading any recognizer as a teacher takes."""

from colld_fairseq.checkpoints.names_colld import SavedModel, read_model
from colld_fairseq.data.fairseq_config import vocabulary_folder
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.text import has_vocabulary
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import known_options
from colld_fairseq.models.student_transducer import TransducerStudent, TransducerStudentConfig
from colld_fairseq.teachers.transducer_teacher import TransducerTeacher


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
    """ConfigError, naming the option, unless the teacher's `size` labels are those of the task, number for number."""
    here = task.target_dictionary.symbols
    folder = vocabulary_folder(saved.task.get("vocab"), saved.task.get("data") or "", saved.task.get("config_yaml"))
    known = has_vocabulary(folder)  # else the number of symbols has to do
    there = Vocabulary(folder) if known else None
    if size != len(here) or (known and there.dictionary.symbols != here):
        raise ConfigError(
            f"{option} {path}: its {size} symbols are not the {len(here)} of --vocab "
            f"{task.vocabulary.folder}; teacher and student need one vocabulary"
        )
    if known and there.uses_tags != task.vocabulary.uses_tags:
        raise ConfigError(f"{option} {path}: language tags are for both vocabularies or for none")
