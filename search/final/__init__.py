"""After the last trial: the race of the finalists, retraining, the look at the test set."""
