"""What Stripe's books have and no event of ours explains: finance says what it is, by two people."""
