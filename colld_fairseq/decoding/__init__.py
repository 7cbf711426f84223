"""From log-probabilities to hypotheses: searches, language models, streams, generators for fairseq."""
