"""What is in force: option, environment, conversation, configuration file, built-in."""
