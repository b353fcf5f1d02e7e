"""What was booked and is not right: a new row by two people, whose difference is a new booking."""
