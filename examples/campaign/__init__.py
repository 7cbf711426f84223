"""The papers' claims as tested hypotheses: plans in YAML, jobs that share what is equal, verdicts with intervals."""
