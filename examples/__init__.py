"""Recipes and their drivers: `python -m examples.RECIPE.run`, from the root of the clone."""
