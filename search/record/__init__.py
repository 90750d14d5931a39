"""The one record of a study: its folder, its database, its lock."""
