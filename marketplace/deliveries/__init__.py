"""What clients get: accepted takes, with their checks, labels and consent."""
