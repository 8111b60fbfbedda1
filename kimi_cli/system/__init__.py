"""The world outside: terminal, signals, network, engine; one outside thing each."""
