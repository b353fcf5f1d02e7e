"""Double entry, append-only; knows nothing of gigs."""
