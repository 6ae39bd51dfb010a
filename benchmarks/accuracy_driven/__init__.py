"""What a fine-tuned classifier loses and gains where a metric drives the optimizer."""
