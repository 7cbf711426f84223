"""What the drivers of the recipes share: recipes as jobs, jobs that resume, scores as tables and a plot."""
