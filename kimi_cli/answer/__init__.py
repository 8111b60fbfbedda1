"""An answer: asked for, followed piece by piece, judged."""
