"""The story and its cast. They start processes and speak HTTP, and know nothing of the inside."""
