"""What was said: its record, its files, the turns that are put there."""
