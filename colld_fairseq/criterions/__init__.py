"""One thin file per training objective; importing the package registers them."""

from colld_fairseq.criterions import colld, ctc_attention, feature_regression, hubert_distillation  # noqa: F401
