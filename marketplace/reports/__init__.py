"""Reading the books: earnings, payout report, trial balance, explanations, and the proof."""
