"""One thin file per training objective; importing the package registers them."""

from colld_fairseq.criterions import (  # noqa: F401
    colld,
    ctc_attention,
    feature_regression,
    hubert_distillation,
    multi_codebook,
    multi_teacher,
    transducer,
)
