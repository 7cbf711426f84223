"""Transducer losses that are slow and plain: every alignment one by one, and node by node, in autograd."""

from itertools import combinations

import torch


def arcs_of(logits, labels, blank=0, fastemit_lambda=0.0, delay_penalty=0.0):
    """Log-probabilities `[T, U+1]` and `[T, U]` of the blank and label arcs of one utterance."""
    frames, log_probs = len(logits), logits.log_softmax(-1)  # [T, U+1, V]
    label = log_probs[:, range(len(labels)), labels]
    if fastemit_lambda:  # its definition: more gradient to the probabilities of labels, the rest as it is
        label.register_hook(lambda grad: (1 + fastemit_lambda) * grad)
    centered = (frames - 1) / 2 - torch.arange(frames, dtype=logits.dtype)
    return log_probs[..., blank], label + delay_penalty * centered[:, None]


def alignments(frames, labels, topology):
    """Every alignment as a list of (is_label, t, u) arcs."""
    if topology == "modified":
        choices = [[t in emitting for t in range(frames)] for emitting in combinations(range(frames), labels)]
    else:  # frames blanks, the last one at the end
        count = frames + labels
        choices = [[i in emitting for i in range(count)] for emitting in combinations(range(count - 1), labels)]
    for choice in choices:
        t = u = 0
        arcs = []
        for is_label in choice:
            arcs.append((is_label, t, u))
            u += is_label
            t += topology == "modified" or not is_label
        assert (t, u) == (frames, labels)
        yield arcs


def enumerated_loss(logits, labels, topology="regular", **options):
    """-log of the sum over all alignments; `labels` is a list."""
    blank, label = arcs_of(logits, labels, **options)
    scores = [
        sum((label if is_label else blank)[t, u] for is_label, t, u in path)
        for path in alignments(len(logits), len(labels), topology)
    ]
    return -torch.stack(scores).logsumexp(0)


def node_by_node_loss(logits, labels, topology="regular", **options):
    """The textbook recursion, one node at a time."""
    blank, label = arcs_of(logits, labels, **options)
    frames, count = label.shape
    step = int(topology == "modified")
    alpha = {(0, 0): logits.new_zeros(())}
    for t in range(frames + 1):
        for u in range(count + 1):
            ways = []
            if (t - 1, u) in alpha:
                ways.append(alpha[t - 1, u] + blank[t - 1, u])
            if (t - step, u - 1) in alpha and t - step < frames:
                ways.append(alpha[t - step, u - 1] + label[t - step, u - 1])
            if ways:
                alpha[t, u] = torch.stack(ways).logsumexp(0)
    return -alpha[frames, count]


def batch_losses(loss, logits, labels, logit_lengths, label_lengths, **options):
    """One of the above for each utterance of a padded batch, `[B]`."""
    return torch.stack(
        [
            loss(logits[b, :t, : u + 1], labels[b, :u].tolist(), **options)
            for b, (t, u) in enumerate(zip(logit_lengths.tolist(), label_lengths.tolist()))
        ]
    )


def pack(logits, logit_lengths, label_lengths):
    """`[B, T, U+1, V]` without its padding, `[sum_b T_b * (U_b + 1), V]`."""
    lengths = zip(logit_lengths.tolist(), label_lengths.tolist())
    return torch.cat([logits[b, :t, : u + 1].flatten(0, 1) for b, (t, u) in enumerate(lengths)])
