"""What starts attempts, each in its own way, and knows what became of them."""
