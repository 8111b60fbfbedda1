"""What goes in: words, files, standard input."""
