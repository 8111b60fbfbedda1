"""One turn: planned from a prompt, shown, asked, put on record, judged."""
