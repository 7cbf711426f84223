"""The page of `colld report`: what experiments left on disk, judged and drawn; needs no torch.

training_log.py, settings.py    what fairseq-train wrote, and how it was set
experiments.py                  a folder: systems, their test sets, logs, sizes; decoded.py: one test set
sections.py                     the scores of a test set side by side, with intervals and paired comparisons
utterances.py, players.py       the utterances that are shown: which, how they differ, how they sound
svg.py, charts.py               drawing
page.py, page.html, page.css    the page
"""
