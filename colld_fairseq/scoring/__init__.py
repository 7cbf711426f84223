"""Scores of hypotheses beside references: WER, CER, BLEU, chrF, language confusion; needs no torch."""
