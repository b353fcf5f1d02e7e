"""What performers allowed to be done with their takes, and that they may take it back."""
