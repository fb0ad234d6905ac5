"""Where jobs live: keys to bytes in a folder or a bucket."""
