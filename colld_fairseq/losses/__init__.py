"""Training objectives as pure functions on tensors. Nothing here imports fairseq.

Every loss returns a *sum* over the frames that count together with their number; whoever calls it divides,
weighs and logs. Arithmetic is done in float32 (float64 stays float64, but for CTC) whatever the dtype of the inputs.
"""

# ruff: noqa: F401
from .codebooks import CodebookOutput, codebook_loss
from .contrastive import ContrastiveOutput, NegativePlan, contrastive_loss, sample_negatives
from .discriminative import DiscriminativeOutput, cosine_logits, discriminative_loss
from .joiner_tiles import JoinerParts
from .regression import RegressionOutput, regression_loss
from .targets import average_layers, normalize_targets
from .transducer import TransducerOutput, transducer_loss
from .transducer_distillation import (
    NodeLosses,
    Nodes,
    best_path,
    lattice_divergence,
    node_divergence,
    path_loss,
    three_class_loss,
)
from .transducer_pruned import (
    SimpleTransducerOutput,
    gather_ranges,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
)
from .transducer_tiled import LatticeTeacher, tiled_transducer_loss
from .transducer_tiled_path import HiddenNodes, tiled_path_loss
