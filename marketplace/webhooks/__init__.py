"""What happened to a client's things, in an order that never changes."""
