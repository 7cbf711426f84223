"""From log-probabilities to text and scores: search, language-model fusion, generators for fairseq-generate, metrics."""
