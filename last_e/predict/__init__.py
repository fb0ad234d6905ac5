"""What a network says of recordings, whatever kind of file they come in."""
