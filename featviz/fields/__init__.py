"""What a layer is, and what its positions see of the image."""
