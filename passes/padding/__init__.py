"""What ``remove-padding`` stands on: mask analysis, token layouts, token-wise rules, placement."""
