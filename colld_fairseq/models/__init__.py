"""fairseq models; importing the package registers them and their architectures."""

from colld_fairseq.models import (  # noqa: F401
    adapted_ctc,
    colld_student,
    hubert_students,
    student_ctc,
    student_s2t,
    student_transducer,
)
