"""fairseq models; importing the package registers them and their architectures."""
from colld_fairseq.models import colld_student  # noqa: F401
