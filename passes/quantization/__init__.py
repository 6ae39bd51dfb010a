"""What the quantizing passes share: dense layers, scales, rounding."""
