"""Why a decision was taken, and whether the record still gives it."""
