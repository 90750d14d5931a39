"""Ray: the processes that train, and how they are begun and ended."""
