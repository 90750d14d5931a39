"""The study file: what a person may set, and the space of configurations it spans."""
