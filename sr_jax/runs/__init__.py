"""One run: its folder, its start, its signals and what it shows."""
