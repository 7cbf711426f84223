"""Files of models: what is in them, in this project's names."""
