"""What is shown in the terminal, and the outcome of a study as numbers."""
