"""The study: proposing, stopping, running, choosing, retraining and reporting."""
