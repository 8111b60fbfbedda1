"""A chat at a terminal: its editor, its commands, its turns."""
