"""Mining: captions and pictures in, shards of masked crops out."""
