"""Early exits in a unified vision-language model."""
