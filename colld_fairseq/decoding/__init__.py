"""From log-probabilities to text and scores: search, language models, generators, metrics."""
