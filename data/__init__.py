"""Images and labels in memory: sources, splits, batches, a look at the data."""
