"""fairseq tasks; importing the package registers them."""
from colld_fairseq.tasks import speech_distillation  # noqa: F401
