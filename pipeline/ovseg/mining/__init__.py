"""Mining: captions and images in, shards of masked crops out."""
