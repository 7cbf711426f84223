"""Corpora as they lie on disk, made into manifests (`colld prepare`).

One module per layout, whose `read(request)` yields an `Utterance` for everything that the corpus lists and a `LeftOut`
for what cannot be one; `layouts.py` names them all. What they have in common is done once: `plan.py` chooses and checks
utterances, `measuring.py` opens their audio, `journal.py` keeps what is known, `preparation.py` writes the manifests.
Imports neither torch nor fairseq.
"""
