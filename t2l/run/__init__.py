"""A run: its folder, its record, its progress, and what it says on the terminal."""
