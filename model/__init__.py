"""The CNN: building, training, measuring, saving and exporting it."""
