"""Claims: a performer's hold on a role, the time spent in it, and what is paid for it."""
