"""A Django Channels layer on one SQLite file, woken by file watching."""
