"""When a trial goes on and when a search ends: rungs, brackets, budgets."""
