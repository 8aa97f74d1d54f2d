"""What a reader sees: Figures 1 to 3, plots, and the explorer."""
