"""What a pass over images leaves behind."""
