"""What every domain package stands on; knows nothing of any of them."""
