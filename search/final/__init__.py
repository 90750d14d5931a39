"""After the last trial: retraining, the look at the test set, predictions."""
